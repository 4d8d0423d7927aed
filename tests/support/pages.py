"""Pages of the documentation as programs: their fenced blocks, a session that runs them, and a loose look at what they print.

| block | what a session does |
| --- | --- |
| `bash` | runs in one shell, which stops at the first error |
| `python` | runs as a cell of one Python, which prints the value of a last expression |
| any, after a line that ends with a name as `train.py`: | is saved under that name |
| `text` | is what the block before it prints: each line in this order, any numbers, `…` for anything |
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from iml4e import Error, serving
from support.helm import REPO
from support.platform import Gateway

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
#: Ends the output of a block.
END = "--- end of the block ---"
CELLS = f"""
import ast, sys
space = {{"__name__": "__main__"}}
for line in sys.stdin:
    path = line.strip()
    tree = ast.parse(open(path).read())
    last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
    exec(compile(tree, path, "exec"), space)
    exec(compile(ast.Interactive(last), path, "single"), space)
    print("\\n{END}", flush=True)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    name: str
    """Of the file that the page tells to save; empty for a block that runs."""
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; of a block in a list, without the indentation."""
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        inner = re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE)
        before = text[: match.start()].rstrip().rpartition("\n")[2]
        saved = re.search(r"`([\w.-]+\.\w+)`:$", before)
        found.append(Block(match[2], inner, saved[1] if saved else "", text.count("\n", 0, match.start()) + 1))
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def missing(wanted: str, said: str) -> str:
    """The first line of a page's output that what was said lacks; empty if it has all, in order, whatever the numbers."""
    rest = [" ".join(line.split()) for line in said.splitlines()]
    for line in wanted.splitlines():
        words = re.split(r"(…|\d[\d.,]*(?:e[+-]?\d+)?)", " ".join(line.split()))
        pattern = "".join(
            ".*" if word == "…" else r"[\d.,]+(?:e[+-]?\d+)?" if number % 2 else re.escape(word)
            for number, word in enumerate(words)
        )
        place = next((number for number, each in enumerate(rest) if re.fullmatch(pattern, each)), None)
        if place is None:
            return line or "(an empty line)"
        rest = rest[place + 1 :]
    return ""


class Program:
    """A shell or a Python that takes one block after the other."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, line: str, seconds: float) -> str:
        """Hand over a block, and return what it prints."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        said: list[str] = []
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            for printed in self.process.stdout:
                if printed.rstrip("\n") == END:
                    return "".join(said)
                said.append(printed)
        finally:
            timer.cancel()
        how = "an error" if self.process.wait() > 0 else f"its end after {seconds:.0f} s"
        raise AssertionError(f"the block ends with {how}:\n{''.join(said)[-3000:]}")

    def close(self) -> None:
        """End the program."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Session:
    """What a reader has open: a terminal, and a Python that was started from it when the page's first cell came."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "IML4E_"))}
        self.folder = folder
        self.environment = plain | {"PATH": f"{REPO / '.venv' / 'bin'}:{plain['PATH']}"} | dict(environment or {})
        self.scratch = tempfile.TemporaryDirectory()
        self.shell: Program | None = None
        self.python: Program | None = None
        self.count = 0

    def __enter__(self) -> Self:
        """Open the terminal."""
        self.shell = Program(["bash", "-euo", "pipefail"], self.folder, self.environment)
        return self

    def __exit__(self, *_: object) -> None:
        """End both programs."""
        for program in filter(None, (self.python, self.shell)):
            program.close()
        self.scratch.cleanup()

    def bash(self, code: str, seconds: float = 300) -> str:
        """Run commands in the terminal."""
        return self.shell.run(f". {self._file(code)} </dev/null; printf '\\n%s\\n' '{END}'", seconds)

    def cell(self, code: str, seconds: float = 300) -> str:
        """Run a cell of Python."""
        if not self.python:
            where, environment = self.now()
            self.python = Program(["python", "-u", "-c", CELLS], where, environment)
        return self.python.run(str(self._file(code)), seconds)

    def now(self) -> tuple[Path, dict[str, str]]:
        """Folder and environment of the terminal."""
        file = Path(self.scratch.name, "environment")
        folder = self.bash(f"env -0 > {file}; pwd").strip()
        return Path(folder), dict(word.split("=", 1) for word in file.read_text().split("\0") if "=" in word)

    def page(self, page: Path, seconds: float = 300) -> str:
        """Save, run and look at all blocks of a page; return all that they print."""
        everything, said = [], ""
        for block in blocks(page):
            place = f"{page.name}, line {block.line}"
            try:
                if block.name:
                    (self.now()[0] / block.name).write_text(block.text)
                elif block.language == "text":
                    lacking = missing(block.text, said)
                    assert not lacking, f"nothing like {lacking!r} was printed, but\n{said[-3000:]}"
                else:
                    assert block.language in ("bash", "python"), f"nothing runs a block of {block.language!r}"
                    said = (self.cell if block.language == "python" else self.bash)(block.text, seconds)
                    everything.append(said)
            except AssertionError as error:
                raise AssertionError(f"{place}: {error}") from None
        return "".join(everything)

    def _file(self, code: str) -> Path:
        self.count += 1
        file = Path(self.scratch.name, f"block-{self.count}")
        file.write_text(code)
        return file


def clone(folder: Path) -> Path:
    """Put what a clone would have into the folder `iml4e` of a folder."""
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (REPO / name).is_file():
            (folder / "iml4e" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / "iml4e" / name)
    return folder


@contextlib.contextmanager
def without(gateway: Gateway, name: str) -> Iterator[None]:
    """Endpoint and registered model of a name are gone before and after. The experiment stays: its name could not be used again."""

    def clean() -> None:
        with contextlib.suppress(Error):  # the page deletes its endpoint itself, unless it fails
            serving.delete(name)
        for model in gateway.mlflow.search_registered_models(f"name='{name}'"):
            gateway.mlflow.delete_registered_model(model.name)

    clean()
    try:
        yield
    finally:
        clean()
