"""The platform's Python package: what pipelines, notebooks, tests, load tests and the command line `iml4e` share."""

__version__ = "0.2.0"


class Error(Exception):
    """An error for users: the message is one sentence with the reason and the next step."""
