"""What the scripts print when something fails, and that one runs at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.common import console
from scripts.common.paths import REPO


def test_a_failed_command_ends_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(console.Failure) as caught:
        console.run(["sh", "-c", "echo first; echo the disk is full; exit 3"], log=log, cure="Free some.")
    assert "exit code 3" in caught.value.what
    assert caught.value.log.splitlines()[-1] == "the disk is full"
    assert "Free some." in caught.value.cure
    assert str(log) in caught.value.cure


def test_a_missing_program_is_named() -> None:
    with pytest.raises(console.Failure, match="no-such-program is not installed"):
        console.run(["no-such-program"])


def test_what_never_gets_ready_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(f"line {number}" for number in range(99)))
    with pytest.raises(console.Failure) as caught:
        console.wait_until(lambda: False, "etcd", 0.1, tmp_path / "log")
    assert caught.value.what.startswith("etcd is not ready")
    assert caught.value.log.endswith("line 98")


def test_a_failure_ends_in_a_sentence_and_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise console.Failure("It broke.", "Mend it.", "last words")

    with pytest.raises(SystemExit) as caught:
        console.main(body)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "Error: It broke." in said
    assert "Next:  Mend it." in said
    assert "last words" in said


def test_a_full_disk_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    with pytest.raises(SystemExit) as caught:
        console.main(body)
    assert caught.value.code == 1
    assert "No space left" in capsys.readouterr().err


def test_two_at_once_end_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "CACHE", tmp_path)
    ran: list[int] = []

    def first() -> None:
        ran.append(1)
        second = (
            f"from scripts.common import console; from pathlib import Path; console.CACHE = Path({str(tmp_path)!r}); "
        )
        words = [sys.executable, "-c", second + "console.main(console.exclusively(lambda: print('ran')))"]
        there = subprocess.run(words, env={"PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False)
        assert (there.returncode, there.stdout) == (1, "")
        assert f"as process {os.getpid()}" in there.stderr

    console.exclusively(first)()
    console.exclusively(lambda: ran.append(2))()
    assert ran == [1, 2]
