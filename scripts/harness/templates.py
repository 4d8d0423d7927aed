"""The templates of the chart, taken apart: actions, and the arms of `if`, `with` and `range`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.common.paths import REPO

CHART = REPO / "charts" / "iml4e"
#: An action, with strings that may hold braces.
ACTION = re.compile(r'\{\{-?\s*(/\*.*?\*/|(?:"(?:\\.|[^"\\])*"|`[^`]*`|[^"`}]|\}(?!\}))*?)\s*-?\}\}', re.DOTALL)


@dataclass(frozen=True)
class Action:
    """`{{ … }}`: where it stands, and its text without braces."""

    start: int
    end: int
    text: str

    @property
    def word(self) -> str:
        """Its first word: `if`, `with`, `range`, `else`, `end`, `define` or another."""
        return re.match(r"[\w.$]*", self.text)[0]


@dataclass(frozen=True)
class Arm:
    """A place where rendering goes on in one case, and not in another."""

    at: int
    """Offset in the text."""
    line: int
    said: str
    """The action that leads there."""
    implied: bool
    """Whether nothing is written for this case: an `if` or `with` without `else`."""


def actions(text: str) -> Iterator[Action]:
    """The actions of a template, without comments."""
    for found in ACTION.finditer(text):
        if not found[1].startswith("/*"):
            yield Action(found.start(), found.end(), found[1])


def templates(chart: Path = CHART) -> list[Path]:
    """The files with templates that render objects or are used by them."""
    return sorted(path for path in chart.rglob("templates/**/*") if path.suffix in (".yaml", ".tpl"))


def arms(text: str) -> Iterator[Arm]:
    """The arms of a template, in the order of the text."""
    open_: list[tuple[Action, bool]] = []
    for action in actions(text):
        line = text.count("\n", 0, action.start) + 1
        match action.word:
            case "if" | "with" | "range":
                open_.append((action, False))
                yield Arm(action.end, line, action.text, implied=False)
            case "define" | "block":
                open_.append((action, True))
            case "else":
                begun, _ = open_.pop()
                open_.append((begun, action.text == "else"))
                yield Arm(action.end, line, f"{action.text} of {begun.text}", implied=False)
            case "end":
                begun, otherwise = open_.pop()
                if begun.word in ("if", "with") and not otherwise:
                    yield Arm(action.start, line, f"no {begun.text}", implied=True)
