"""Fetch models: pairs of a source URI and a folder; KServe runs it before the model server starts."""

import sys
from pathlib import Path

from kserve_storage import Storage
from kserve_storage.logging import configure_logging


def main(words: list[str]) -> int:
    """Download each source into its folder; the exit code is 0, 1 for a failed download, 2 for a wrong call."""
    sources, folders = words[0::2], words[1::2]
    if not words or len(sources) != len(folders):
        print("usage: initializer SOURCE_URI FOLDER [SOURCE_URI FOLDER …]", file=sys.stderr)
        return 2
    configure_logging()
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        Storage.download_files(sources, folders)
    except Exception as error:
        print(f"The model could not be fetched from {', '.join(sources)}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
