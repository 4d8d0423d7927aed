"""Write the boards of dashboards/ as JSON into the chart.

scripts/dashboards           write charts/iml4e/charts/grafana/files/dashboards/
scripts/dashboards --check   change nothing; fail when a file differs from its board, is missing or is one too many

Needs the SDK of Grafana, which the environment of the harness has.
"""

from __future__ import annotations

import argparse

from dashboards import boards
from scripts.common import console
from scripts.common.paths import REPO

FOLDER = REPO / "charts" / "iml4e" / "charts" / "grafana" / "files" / "dashboards"


def files() -> dict[str, str]:
    """The content of each file, by its name."""
    return {f"{board.name}.json": board.json() for board in boards()}


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(
        prog="scripts/dashboards", description="Write Grafana's dashboards into the chart."
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail when a file is not as it would be written"
    )
    options = parser.parse_args()
    wanted = files()
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if options.check and different:
        raise console.Failure(f"Not what dashboards/ gives: {', '.join(different)}.", "Run `scripts/dashboards`.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in different:
        path = FOLDER / name
        if name in wanted:
            path.write_text(wanted[name])
        else:
            path.unlink()
        print(f"wrote {path.relative_to(REPO)}" if name in wanted else f"removed {path.relative_to(REPO)}")


if __name__ == "__main__":
    console.main(main)
