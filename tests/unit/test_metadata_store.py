"""The ML Metadata server without its compiled store: command line and worker processes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from metadata_store_server.command_line import Flags, UsageError, parse
from metadata_store_server.pool import Database, Pool, Unavailable

FAKE_STORE = """
import os, signal, time

class metadata_store:
    @staticmethod
    def CreateMetadataStore(connection, migration):
        if connection == b"down":
            raise RuntimeError("mysql_real_connect failed: errno: , error: ")
        return object()

    @staticmethod
    def GetArtifacts(store, request):
        return b"pid %d" % os.getpid(), b"", 0

    @staticmethod
    def GetArtifactTypesByID(store, request):
        return b"", b"", 0

    @staticmethod
    def PutArtifacts(store, request):
        if request == b"duplicate":
            return b"", b"Given node already exists", 6
        if request == b"lost":
            return b"", b"mysql_query failed: errno: MySQL server has gone away", 13
        if request == b"bug":
            return b"", b"an odd row", 13
        if request == b"crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if request == b"hang":
            time.sleep(60)
        return request, b"", 0
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A pool of two workers on a store that does as it is asked."""
    (tmp_path / "metadata_store_extension.py").write_text(FAKE_STORE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool = Pool(Database(connection=b"up", migration=b"", name="The database"), size=2, timeout=2)
    yield pool
    pool.close()


def test_flags_in_every_spelling(tmp_path: Path) -> None:
    file = tmp_path / "flags"
    file.write_text("# a comment\n--mysql_config_user=mlmd\n")
    flags = parse(
        ["--grpc_port", "9", "-mysql_config_host=db", "--enable_database_upgrade", f"--flagfile={file}",
         "--fromenv=mysql_config_password", "--tryfromenv=mysql_config_port,mysql_config_database",
         "--grpc_channel_arguments=grpc.max_metadata_size=16384,name=text"],
        {"FLAGS_mysql_config_password": "a=b", "FLAGS_mysql_config_port": "3306"},
    )  # fmt: skip
    assert flags.grpc_port == 9
    assert (flags.mysql_config_host, flags.mysql_config_port, flags.mysql_config_user) == ("db", 3306, "mlmd")
    assert flags.mysql_config_password == "a=b"
    assert flags.enable_database_upgrade
    assert flags.channel_arguments() == [("grpc.max_metadata_size", 16384), ("name", "text")]
    assert parse(["--enable_database_upgrade", "--noenable_database_upgrade"], {}) == Flags()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--bogus"], "There is no flag --bogus."),
        (["--grpc_port=x"], "--grpc_port=x must be a whole number."),
        (["--enable_database_upgrade=maybe"], "must be true or false"),
        (["--grpc_port"], "The flag --grpc_port needs a value."),
        (["--fromenv=mysql_config_password"], "needs the environment variable FLAGS_mysql_config_password"),
        (["--flagfile=/nowhere"], "The file /nowhere cannot be read"),
    ],
)
def test_wrong_flags_get_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(words, {})


def test_calls_and_status_codes(pool: Pool) -> None:
    pool.open()
    assert pool.call("PutArtifacts", b"\xff") == (0, "", b"\xff")
    assert pool.call("PutArtifacts", b"duplicate") == (6, "Given node already exists", b"")
    assert pool.call("GetNothing", b"")[0] == 12
    assert pool.call("CreateMetadataStore", b"")[0] == 12


@pytest.mark.parametrize(("request_", "code"), [(b"lost", 14), (b"crash", 14), (b"hang", 14), (b"bug", 13)])
def test_after_trouble_comes_a_new_worker(pool: Pool, request_: bytes, code: int) -> None:
    before = pool.call("GetArtifacts", b"")[2]
    assert pool.call("PutArtifacts", request_)[0] == code
    assert pool.call("GetArtifacts", b"")[2] != before


def test_a_worker_that_died_idle_is_replaced(pool: Pool) -> None:
    pid = int(pool.call("GetArtifacts", b"")[2].split()[1])
    os.kill(pid, signal.SIGKILL)
    code, _, response = pool.call("GetArtifacts", b"")
    assert code == 0
    assert response != b"pid %d" % pid


def test_idle_workers_are_stopped(pool: Pool) -> None:
    pid = int(pool.call("GetArtifacts", b"")[2].split()[1])
    pool.retire(idle_seconds=60)
    os.kill(pid, 0)
    pool.retire(idle_seconds=0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_database_that_is_down(pool: Pool) -> None:
    down = Pool(Database(b"down", b"", "The database", address=("127.0.0.1", 9)), size=1, timeout=2)
    with pytest.raises(Unavailable, match=r"The database cannot be reached: .*refused"):
        down.open()
    assert down.call("GetArtifacts", b"")[0] == 14
