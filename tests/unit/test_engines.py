"""The engines: conditions under kfp.local, messages of failed steps, and following a run on Kubeflow Pipelines."""

import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp import dsl
from mlflow import MlflowClient

from iml4e import Error, engines
from iml4e.engines import StepFailed, kfp, last_sentence, local, own_words
from pipelines.steps import step


@step()
def register(accuracy: float, version: dsl.OutputPath(str)) -> str:
    """Decide like the real one."""
    with open(version, "w") as file:
        file.write("7")
    print("  indented words of a step are shown as they are")
    return "passed" if accuracy > 0.5 else "rejected"


@step()
def deploy(version: str) -> str:
    """Hand on."""
    return f"/models/{version}"


@step()
def check(path: str, accuracy: float) -> str:
    """Fail when asked to."""
    import os

    from iml4e import Error

    if accuracy > 2:
        os._exit(7)
    if accuracy > 1:
        raise Error(f"{path} is\nnot {accuracy}")
    return path


@dsl.pipeline(name="gate")
def gate(accuracy: float = 1.0) -> None:
    """The shape of the gate."""
    registered = register(accuracy=accuracy).outputs
    with dsl.If(registered["Output"] == "passed", name="passed"):
        deployed = deploy(version=registered["version"])
        check(path=deployed.output, accuracy=accuracy)


def test_kfp_local_goes_through_the_gate() -> None:
    out = io.StringIO()
    steps = local.run(gate, {"accuracy": 0.9}, out)
    assert steps.outputs == {
        "register": {"Output": "passed", "version": "7"},
        "deploy": {"Output": "/models/7"},
        "check": {"Output": "/models/7"},
    }
    lines = out.getvalue().splitlines()
    assert [line[8:] for line in lines if "→" in line] == ["→ register", "→ deploy", "→ check"]
    assert any(line.endswith("indented words of a step are shown as they are") for line in lines)
    assert "KFP" not in out.getvalue()
    assert "executor" not in out.getvalue()


@step()
def items(begun: str) -> list:
    """Items for a loop."""
    return [f"{begun}-a", f"{begun}-b"]


@step()
def join(begun: str, item: str, number: int) -> str:
    """Show what arrives."""
    print(f"joined {begun} {item} {number}")
    return item


@dsl.pipeline(name="loops")
def loops() -> None:
    """Loops over constants and over an output, whose steps also read the output of an earlier step."""
    begun = deploy(version="7")
    with dsl.ParallelFor([1, 2]) as number:
        join(begun=begun.output, item="one", number=number)
    with dsl.ParallelFor(items(begun=begun.output).output) as item:
        join(begun=begun.output, item=item, number=3)


def test_steps_in_loops_read_outputs_of_earlier_steps() -> None:
    out = io.StringIO()
    local.run(loops, {}, out)
    found = sorted(line.partition("joined ")[2] for line in out.getvalue().splitlines() if "joined" in line)
    begun = "/models/7"
    assert found == [
        f"{begun} {begun}-a 3", f"{begun} {begun}-b 3", f"{begun} one 1", f"{begun} one 2",
    ]  # fmt: skip


def test_without_kubeflow_pipelines_a_run_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release's MLflow is what the steps track to."""
    monkeypatch.setenv("S3_DATASETS_BUCKET", "datasets")  # the environment of a release
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    out = io.StringIO()
    assert engines.run(gate, {"accuracy": 0.9}, out=out).outputs["check"] == {"Output": "/models/7"}
    assert "✓ check" in out.getvalue()


def test_with_kubeflow_pipelines_a_run_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_DATASETS_BUCKET", "datasets")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9/pipeline")
    with pytest.raises(StepFailed, match=r"Kubeflow Pipelines at http://127\.0\.0\.1:9/pipeline does not answer"):
        engines.run(gate, {"accuracy": 0.9})
    assert engines.run(gate, {"accuracy": 0.1}, engine="local", out=io.StringIO()).outputs.keys() == {"register"}


def test_an_unknown_engine_is_a_sentence() -> None:
    with pytest.raises(Error, match="engine is 'kfp' or 'local', not 'argo'"):
        engines.run(gate, engine="argo")


def test_kfp_local_stops_at_the_gate() -> None:
    assert local.run(gate, {"accuracy": 0.1}, io.StringIO()).outputs == {
        "register": {"Output": "rejected", "version": "7"}
    }


def test_a_failed_step_ends_with_its_own_sentence() -> None:
    with pytest.raises(StepFailed) as raised:
        local.run(gate, {"accuracy": 2.0}, io.StringIO())
    assert str(raised.value) == "Step check failed: /models/7 is\nnot 2.0"


def test_a_step_that_says_nothing_ends_with_its_exit_code() -> None:
    with pytest.raises(StepFailed, match=r"^Step check failed: exit code 7$"):
        local.run(gate, {"accuracy": 3.0}, io.StringIO())


@step()
def fall(number: int) -> None:
    """End by a signal."""
    import os

    os.kill(os.getpid(), number)


@step()
def track(marker: str, how: str) -> None:
    """Open an MLflow run and leave it open."""
    import os
    import time
    from pathlib import Path

    import mlflow

    run = mlflow.start_run()
    Path(marker).write_text(run.info.run_id)
    if how == "dies":
        os._exit(7)
    time.sleep(600)


@dsl.pipeline(name="fall")
def falling(number: int) -> None:
    """One step."""
    fall(number=number)


@dsl.pipeline(name="track")
def tracked(marker: str, how: str) -> None:
    """One step."""
    track(marker=marker, how=how)


@dsl.pipeline(name="say")
def said(path: str) -> None:
    """One step."""
    check(path=path, accuracy=1.0)


def test_a_step_that_a_signal_ends_names_it() -> None:
    with pytest.raises(StepFailed, match=r"^Step fall failed: ended by SIGSEGV \(exit code 139\)"):
        local.run(falling, {"number": 11}, io.StringIO())


def test_a_value_that_is_too_large_for_a_step_is_to_be_an_artifact() -> None:
    with pytest.raises(
        StepFailed, match=r"its inputs are larger than the 128 KiB .* pass a large value as an artifact"
    ):
        local.run(said, {"path": "x" * 140_000}, io.StringIO())


def names(command: Path, word: str) -> bool:
    """Whether a process that is still there has a word in its command line."""
    try:
        return word in command.read_bytes().decode(errors="replace")
    except OSError:
        return False


@pytest.mark.parametrize(("how", "status"), [("dies", "FAILED"), ("is interrupted", "KILLED")])
def test_no_mlflow_run_stays_open_when_a_step_ends_badly(tmp_path: Path, how: str, status: str) -> None:
    """In a process of its own, which gets the SIGTERM of a pod that is stopped."""
    store, marker = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "marker"
    script = "import sys; from unit.test_engines import local, tracked; "
    script += f"local.run(tracked, {{'marker': {str(marker)!r}, 'how': {how!r}}}, sys.stdout)"
    env = {**os.environ, "MLFLOW_TRACKING_URI": store, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while process.poll() is None and not (marker.exists() and marker.read_text()):
        time.sleep(0.2)
    if how == "is interrupted":
        process.terminate()
    told, _ = process.communicate(timeout=120)
    assert process.returncode, told
    assert marker.exists(), told
    left = [each.parent.name for each in Path("/proc").glob("[0-9]*/cmdline") if names(each, str(marker))]
    assert left == [], "processes of the step"
    mlflow = MlflowClient(store)
    assert mlflow.get_run(marker.read_text()).info.status == status, told


# what a pod of Kubeflow Pipelines 2.17 wrote
LOG = """\
{"time":"2026-11-24T11:42:02.924302647Z","level":"INFO","msg":"capturing logs","argo":true}
I1124 11:42:03.054818      19 cache.go:89] Connecting to cache endpoint ml-pipeline.iml4e.svc.cluster.local:8887
[KFP Executor 2026-11-24 11:42:03,195 INFO]: Looking for component `bad` in --component_module_path `/tmp/x.py`
[KFP Executor 2026-11-24 11:42:03,195 INFO]: Got executor_input:
{
    "inputs": {
        "parameterValues": {
            "x": "passed"
        }
    }
}
{"rows": 3}
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
    raise ValueError(f"the data cannot be used: {x}")
ValueError: the data cannot be used: passed
see the report
I1124 11:42:03.105091      19 launcher_v2.go:1230] ExecutorOutput: {
  "parameterValues": {
    "Output": 1
  }
}
E1124 11:42:03.205051      19 launcher_v2.go:449] Component failed to execute successfully: exit status 1
F1124 11:42:03.384130      19 main.go:59] failed to execute component: exit status 1
{"time":"2026-11-24T11:42:03.411448396Z","level":"INFO","msg":"sub-process exited","argo":true,"error":"exit status 1"}
Error: exit status 1
"""


def test_a_pods_log_is_cut_down_to_the_words_of_its_step() -> None:
    lines = list(own_words(LOG.splitlines()))
    assert lines == ['{"rows": 3}', "ValueError: the data cannot be used: passed", "see the report"]
    assert last_sentence(lines) == "the data cannot be used: passed\nsee the report"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Kubeflow Pipelines that has one run, `bad`, which failed before its first step."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/healthz"):
                self.answer(200, {"multi_user": False})
            elif self.path.endswith("/runs/bad"):
                self.answer(
                    200, {"run_id": "bad", "state": "FAILED", "error": {"code": 3, "message": "no such template"}}
                )
            else:
                # as 2.17 puts it; former versions said "error"
                self.answer(404, {"code": 5, "message": 'Run "no" was not found', "details": []})

        def do_POST(self) -> None:
            """An empty answer of ML Metadata."""
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, status: int, content: dict[str, object]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/pipeline"
    server.shutdown()
    thread.join()
    server.server_close()


def test_any_run_can_be_waited_for_and_tells_why_it_failed(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", backend)
    out = io.StringIO()
    with pytest.raises(StepFailed, match="the run ended as FAILED: no such template"):
        kfp.wait("bad", out=out)
    assert f"run {backend}/#/runs/details/bad" in out.getvalue()


def test_an_unknown_run_is_one_sentence(backend: str) -> None:
    with pytest.raises(StepFailed, match=r'refuses: Run "no" was not found$'):
        kfp.wait("no", backend)


QUEUE = {
    "phase": "Pending",
    "message": "Workflow processing has been postponed because too many workflows are already running",
}


def pending(message: str) -> dict[str, object]:
    """Status of a Workflow whose first pod waits."""
    node = {
        "id": "wf-1",
        "type": "Pod",
        "displayName": "root-driver",
        "templateName": "system-dag-driver",
        "phase": "Pending",
    }
    return {"phase": "Running", "nodes": {"wf-1": {**node, "message": message}}}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[dict[str, object]], list[str]]]:
    """The address of a Kubeflow Pipelines, the statuses that its one run has at each look at it, and what it was told to do."""
    statuses: list[dict[str, object]] = []
    told: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "v1beta1" in self.path:
                status = statuses.pop(0) if statuses else {}
                self.answer({"pipeline_runtime": {"workflow_manifest": json.dumps({"status": status})}})
            elif self.path.endswith("/healthz"):
                self.answer({"multi_user": False})
            else:
                self.answer({"run_id": "it", "state": "RUNNING" if statuses else "SUCCEEDED"})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "runs" in self.path:
                told.append(self.path.rpartition(":")[2])
                self.answer({})
            else:
                self.answer(None)  # ML Metadata knows no step

        def answer(self, content: dict[str, object] | None) -> None:
            body = b"" if content is None else json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    monkeypatch.setattr(kfp, "LOOK", 1)
    monkeypatch.setattr(kfp, "START_TIMEOUT", 3)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/pipeline", statuses, told
    server.shutdown()
    thread.join()
    server.server_close()


BUSY = "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found."


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (QUEUE, "it waits in the queue"),
        (pending(BUSY), "the driver of the run: its pod waits: 0/1 nodes are available: 1 Insufficient cpu"),
    ],
    ids=["queue", "busy node"],
)
def test_a_run_that_only_queues_is_told_once_and_never_cancelled(
    script: tuple[str, list[dict[str, object]], list[str]], status: dict[str, object], said: str
) -> None:
    host, statuses, told = script
    statuses += [status] * 7
    out = io.StringIO()
    kfp.wait("it", host, out)
    assert told == []
    assert out.getvalue().count(said) == 1


def test_a_first_pod_that_does_not_start_ends_the_run_with_its_reason(
    script: tuple[str, list[dict[str, object]], list[str]],
) -> None:
    host, statuses, told = script
    statuses += [QUEUE] * 2 + [pending('ImagePullBackOff: Back-off: ErrImagePull: no such image "a"')] * 20
    out = io.StringIO()
    with pytest.raises(
        StepFailed,
        match=r'^the pod of the driver of the run does not start: its image cannot be pulled: no such image "a"$',
    ):
        kfp.wait("it", host, out)
    assert told == ["terminate"]
    assert "the driver of the run: its pod waits: its image cannot be pulled" in out.getvalue()
