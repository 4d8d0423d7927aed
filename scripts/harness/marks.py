"""What programs write between two marks of a page that people write."""

from scripts.common import console


def between(text: str, begin: str, end: str, content: str, page: str) -> str:
    """The text of a page with other content between its marks.

    Raises:
        console.Failure: the page lacks a mark.
    """
    before, there, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not there or not closed:
        raise console.Failure(
            f"{page} lacks the lines {begin.strip()} and {end.strip()}.", "Put them back around the table."
        )
    return f"{before}{begin}{content}{end}{after}"
