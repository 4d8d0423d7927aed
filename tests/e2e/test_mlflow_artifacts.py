"""Artifacts of any size, at any client's speed: the server's memory stays flat, and other requests are served meanwhile."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import pytest
import requests

from support import helm
from support.k8s import Cluster
from support.platform import Gateway

MIB = 2**20
LIMIT = 1024 * MIB
"""Memory limit of the server in the chart."""
SEARCH = "/mlflow/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture
def run(gateway: Gateway, unique: str) -> Iterator[str]:
    """A run, whose artifacts go away with the test."""
    experiment = gateway.mlflow.create_experiment(unique)
    run = gateway.mlflow.create_run(experiment).info.run_id
    yield run
    uri = gateway.mlflow.get_run(run).info.artifact_uri
    requests.delete(address(gateway, uri, ""), timeout=60)
    gateway.mlflow.delete_experiment(experiment)


@pytest.fixture
def folder(gateway: Gateway, run: str) -> str:
    """Address of the run's artifacts."""
    return gateway.mlflow.get_run(run).info.artifact_uri


@pytest.fixture(scope="module")
def peak(cluster: Cluster) -> Callable[[], int]:
    """A function that tells the most memory, in bytes, that the server ever had."""
    pods = [pod for pod in cluster.pods("app.kubernetes.io/name=mlflow") if "deletionTimestamp" not in pod["metadata"]]
    name = pods[-1]["metadata"]["name"]

    def read() -> int:
        status = cluster.exec(name, "cat", "/proc/1/status", container="mlflow")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    return read


def address(gateway: Gateway, uri: str, path: str) -> str:
    """Address of an artifact at the gateway."""
    return f"{gateway.url}/mlflow/api/2.0/mlflow-artifacts/artifacts/{uri.removeprefix('mlflow-artifacts:/')}/{path}"


def pieces(size: int) -> Iterator[bytes]:
    """A body of so many bytes, without having them in memory."""
    block = os.urandom(MIB)
    for start in range(0, size, MIB):
        yield block[: min(MIB, size - start)]


def test_uploads_at_once_leave_memory_flat_and_tracking_awake(
    gateway: Gateway, folder: str, peak: Callable[[], int]
) -> None:
    before, waited = peak(), []

    def upload(number: int) -> int:
        return requests.put(address(gateway, folder, f"{number}.bin"), data=pieces(80 * MIB), timeout=300).status_code

    with ThreadPoolExecutor(6) as pool:
        uploads = [pool.submit(upload, number) for number in range(6)]
        while not all(upload.done() for upload in uploads):
            start = time.monotonic()
            assert gateway.get(SEARCH, timeout=30).status_code == 200
            waited.append(time.monotonic() - start)
            time.sleep(0.1)
    assert [upload.result() for upload in uploads] == [200] * 6
    assert peak() - before < 200 * MIB, "480 MiB came in at once"
    assert peak() < 0.7 * LIMIT
    assert statistics.median(waited) < 1, waited


def test_large_artifact_comes_back_whole_also_after_a_break(
    gateway: Gateway, folder: str, peak: Callable[[], int]
) -> None:
    where, sent = address(gateway, folder, "large.bin"), hashlib.sha256()

    def body() -> Iterator[bytes]:
        for piece in pieces(300 * MIB + 1):
            sent.update(piece)
            yield piece

    assert requests.put(where, data=body(), timeout=300).status_code == 200
    before, got = peak(), hashlib.sha256()
    with requests.get(where, stream=True, timeout=60) as answer:
        assert int(answer.headers["Content-Length"]) == 300 * MIB + 1
        had = answer.raw.read(10 * MIB)
        time.sleep(3)  # a slow reader: the server must not read on into its memory
    got.update(had)
    rest = {"Range": f"bytes={len(had)}-", "If-Range": answer.headers["ETag"]}
    with requests.get(where, headers=rest, stream=True, timeout=60) as answer:
        assert answer.status_code == 206
        assert answer.headers["Content-Range"] == f"bytes {len(had)}-{300 * MIB}/{300 * MIB + 1}"
        for piece in answer.iter_content(MIB):
            got.update(piece)
    assert got.hexdigest() == sent.hexdigest()
    assert peak() - before < 50 * MIB


def test_pages_fetch_the_same_bytes_as_an_attachment(gateway: Gateway, model_uri: str) -> None:
    """The ways of the web pages: by run, by logged model, by version."""
    client, model = gateway.mlflow, model_uri.rpartition("/")[2]
    logged = client.get_logged_model(model)
    name = f"e2e-{model[:12]}"
    client.create_registered_model(name)
    try:
        version = client.create_model_version(name, model_uri, model_id=model).version
        client.log_text(logged.source_run_id, "Zürich", "städte & co.txt")
        by_model = f"/mlflow/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files"
        answers = [
            gateway.get(by_model, params={"artifact_file_path": "MLmodel"}),
            gateway.get("/mlflow/model-versions/get-artifact", params={"name": name, "version": version, "path": "MLmodel"}),
            requests.get(address(gateway, logged.artifact_location, "MLmodel"), timeout=15),
        ]  # fmt: skip
        run = {"run_uuid": logged.source_run_id, "path": "städte & co.txt"}
        text = gateway.get("/mlflow/get-artifact", params=run)
    finally:
        client.delete_registered_model(name)
    assert {answer.status_code for answer in (*answers, text)} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert text.content.decode() == "Zürich"
    for answer in (*answers, text):
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["nothing.bin", "../../../models", "..%2f..%2fmodels", "%2e%2e/x"])
def test_what_is_not_there_is_a_sentence(gateway: Gateway, folder: str, path: str) -> None:
    target = urlsplit(address(gateway, folder, path))
    request = requests.Request("GET", gateway.url).prepare()
    request.url = f"{gateway.url}{target.path}"  # as it is: `requests` would resolve the dots
    answer = requests.Session().send(request, timeout=15)
    assert answer.status_code in (400, 404)
    if path == "nothing.bin":
        assert answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
        assert path in answer.json()["message"]


def test_upload_that_breaks_off_leaves_nothing(
    gateway: Gateway, folder: str, s3: Callable[[str], Any], cluster: Cluster
) -> None:
    store, prefix = s3("mlflow"), folder.removeprefix("mlflow-artifacts:/")
    target = urlsplit(address(gateway, folder, "half.bin"))
    with socket.create_connection((target.hostname, target.port or 80), timeout=15) as connection:
        head = f"PUT {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: {40 * MIB}\r\n\r\n"
        connection.sendall(head.encode() + bytes(12 * MIB))
        cluster.wait("parts to arrive", lambda: unfinished(store, prefix), 30)
    cluster.wait("the parts to be given back", lambda: not unfinished(store, prefix), 30)
    assert gateway.mlflow.list_artifacts(prefix.split("/")[1]) == []


def unfinished(store: Any, prefix: str) -> list[Any]:
    """Uploads in parts that have begun and not ended."""
    return store.list_multipart_uploads(Bucket="mlflow", Prefix=f"{prefix}/half.bin").get("Uploads", [])


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_other_large_bodies_are_refused(gateway: Gateway, peak: Callable[[], int], chunked: bool) -> None:
    """Any other body is collected in memory by MLflow."""
    before = peak()
    data = pieces(200 * MIB) if chunked else bytes(200 * MIB)
    answer = requests.post(f"{gateway.url}/mlflow/api/2.0/mlflow/runs/log-batch", data=data, timeout=60)
    assert answer.status_code == 413
    assert "mlflow.maxBodyBytes" in answer.json()["message"]
    assert peak() - before < 100 * MIB


def test_client_that_wants_signed_urls_goes_through_the_server(
    gateway: Gateway, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed URLs would contain a host name that only the cluster resolves."""
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(5 * MIB))
    content = os.urandom(12 * MIB)
    (tmp_path / "model.bin").write_bytes(content)
    gateway.mlflow.log_artifact(run, str(tmp_path / "model.bin"))
    (tmp_path / "back").mkdir()
    back = gateway.mlflow.download_artifacts(run, "model.bin", str(tmp_path / "back"))
    assert Path(back).read_bytes() == content


def test_pods_use_signed_urls(cluster: Cluster, run: str) -> None:
    """Large files go between a pod and the store, past the server."""
    code = (
        "import os, mlflow, logging; logging.basicConfig(level=logging.DEBUG);"
        f"open('/tmp/{run}', 'wb').write(os.urandom(12 << 20));"
        f"client = mlflow.MlflowClient('http://{helm.RELEASE}-mlflow:5000/mlflow');"
        f"client.log_artifact('{run}', '/tmp/{run}'); os.remove('/tmp/{run}')"
    )
    pod = cluster.pods("app.kubernetes.io/name=mlflow")[0]["metadata"]["name"]
    said = cluster.exec(
        pod, "env", f"MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE={5 * MIB}", "python", "-c", code, container="mlflow"
    )
    assert re.search(rf"{helm.RELEASE}-minio\S* \"PUT [^\"]*partNumber=2", said), said[-2000:]


QUOTA = """
mc alias set store http://{release}-minio:9000 "$ROOT_USER" "$ROOT_PASSWORD" >/dev/null && {command}
"""


@pytest.fixture
def full_bucket(cluster: Cluster) -> Iterator[None]:
    """The bucket of artifacts with a quota that is used up."""
    yield from quota(cluster)


def quota(cluster: Cluster) -> Iterator[None]:
    """Set a quota below what is there, and lift it."""
    job = next(o for o in helm.release_objects() if o["kind"] == "Job" and "minio-setup" in o["metadata"]["name"])

    def mc(name: str, command: str) -> None:
        container = {**job["spec"]["template"]["spec"]["containers"][0]}
        container["command"] = ["/bin/sh", "-c", QUOTA.format(release=helm.RELEASE, command=command)]
        spec = {**job["spec"]["template"]["spec"], "containers": [container]}
        template = {"metadata": {"labels": {"app": "e2e-quota"}}, "spec": spec}
        done, said = cluster.run_job({"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": template}})
        assert done, said

    mc("e2e-quota-set", "mc quota set store/mlflow --size 1KiB")
    try:
        yield
    finally:
        mc("e2e-quota-clear", "mc quota clear store/mlflow")


@pytest.mark.disruptive
def test_full_bucket_is_a_sentence(gateway: Gateway, run: str, full_bucket: None, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(bytes(12 * MIB))
    start = time.monotonic()
    with pytest.raises(Exception, match="artifact store is full"):
        gateway.mlflow.log_artifact(run, str(tmp_path / "model.bin"))
    assert time.monotonic() - start < 20, "to try again does not help"
    assert gateway.mlflow.list_artifacts(run) == []


def test_a_silent_upload_does_not_keep_others_out(gateway: Gateway, folder: str) -> None:
    target = urlsplit(address(gateway, folder, "silent.bin"))
    head = f"PUT {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: {MIB}\r\n\r\n"
    silent = [socket.create_connection((target.hostname, target.port or 80), timeout=15) for _ in range(20)]
    try:
        for connection in silent:
            connection.sendall(head.encode())
        assert requests.put(address(gateway, folder, "other.bin"), data=b"here", timeout=15).status_code == 200
    finally:
        for connection in silent:
            connection.close()
    assert threading.active_count() < 100


def test_long_history_of_a_metric_is_whole_and_leaves_memory_flat(
    gateway: Gateway, run: str, peak: Callable[[], int]
) -> None:
    """MLflow has 2.5 kB of memory for each point that is in one answer of its own."""
    points = [mlflow.entities.Metric("loss", float(step), step, step) for step in range(45_000)]
    batches = [points[start : start + 1000] for start in range(0, len(points), 1000)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: gateway.mlflow.log_batch(run, metrics=batch), batches))
    before = peak()
    history = gateway.mlflow.get_metric_history(run, "loss")
    assert [point.step for point in history] == list(range(45_000))
    assert gateway.mlflow.get_metric_history(run, "no such metric") == []
    assert peak() - before < 80 * MIB


def test_long_lists_come_in_pages(gateway: Gateway, folder: str, run: str) -> None:
    """One answer with 50,000 runs would take 2 GB."""
    client, experiment = gateway.mlflow, gateway.mlflow.get_run(run).info.experiment_id
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: client.create_run(experiment), range(1010)))
    asked = {"experiment_ids": [experiment], "max_results": 50_000}
    answer = requests.post(f"{gateway.url}/mlflow/api/2.0/mlflow/runs/search", json=asked, timeout=60).json()
    assert len(answer["runs"]) == 1000
    assert answer["next_page_token"]
    assert len(mlflow.search_runs([experiment], output_format="list")) == 1011
