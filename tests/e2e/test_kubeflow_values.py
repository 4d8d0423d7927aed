"""Values for all runs reach every pod of every run."""

# no `from __future__ import annotations`: the SDK reads the steps' types as they stand

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kfp import dsl

from support import helm, store
from support.certificates import pem, signed
from support.k8s import Cluster
from support.kubeflow import BUCKET, Kubeflow, Run, step

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(600)]

AUTHORITY = "e2e-private-ca"
TOLERATION = {"key": "e2e", "operator": "Equal", "value": "runs", "effect": "NoSchedule"}
VALUES: dict[str, Any] = {
    "global": {"caCertificate": {"existingConfigMap": AUTHORITY, "existingSecret": "", "key": "cabundle.crt"}},
    "pipelines": {
        # it is never asked: the runs here stay inside the cluster
        "proxy": {"https": "http://proxy.invalid:3128", "noProxy": "example.org"},
        "runs": {
            "cache": False,
            "archiveLogs": False,
            "env": [{"name": "PIP_INDEX_URL", "value": "https://index.invalid/simple"}],
            "resources": {"limits": {"memory": "300Mi"}},
            "podSpec": {"nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [TOLERATION]},
        },
    },
}


@step
def look(certificate: str, key: str) -> str:
    """Connect by TLS to a server whose certificate the private authority signed, and print the environment."""
    import http.server
    import json
    import os
    import ssl
    import threading

    import requests

    with open("/tmp/server.pem", "w") as file:
        file.write(key + certificate)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/tmp/server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answer = requests.get(f"https://localhost:{server.server_port}/", timeout=10)
    return json.dumps({"answer": answer.status_code, "env": dict(os.environ)})


@dsl.pipeline(name="e2e-values")
def values_pipeline(certificate: str, key: str) -> None:
    """One step."""
    look(certificate=certificate, key=key)


@dataclass(frozen=True)
class Seen:
    """Two runs of the same thing under the values above."""

    first: Run
    second: Run
    pods: list[dict[str, Any]]
    """All pods of the first: the one that prepares the run, and the two of its step."""
    told: dict[str, Any]
    """What its step told."""


@pytest.fixture(scope="module")
def seen(cluster: Cluster, kubeflow: Kubeflow) -> Iterator[Seen]:
    """The runs; afterwards the release is as it was."""
    authority = signed("e2e authority")
    certificate, key = signed("localhost", by=authority)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": AUTHORITY}}
    cluster.apply({**config, "data": {"cabundle.crt": pem(authority[0])}})
    before = helm.revision()
    helm.upgrade(VALUES)
    try:
        first, second = (
            kubeflow.submit(values_pipeline, cached=True, certificate=pem(certificate), key=pem(key)) for _ in range(2)
        )
        first.succeeded()
        pods = cluster.pods(f"pipeline/runid={first.id}")
        second.succeeded()
        yield Seen(first, second, pods, json.loads(first.step().outputs["Output"]))
    finally:
        helm.rollback(before)
        # KServe's copy, for models
        for name in (AUTHORITY, "global-ca-bundle"):
            cluster.delete("v1", "ConfigMap", name)


def test_steps_trust_the_private_authority(seen: Seen) -> None:
    assert seen.told["answer"] == 200


def test_what_archives_logs_trusts_the_private_authority(seen: Seen) -> None:
    for pod in seen.pods:
        (wait,) = (container for container in pod["spec"]["containers"] if container["name"] == "wait")
        assert "/etc/ssl/iml4e" in [mount["mountPath"] for mount in wait["volumeMounts"]]
        assert {"name": "SSL_CERT_FILE", "value": "/etc/ssl/iml4e/ca.crt"} in wait["env"]


def test_steps_have_the_proxy_and_keep_off_it_inside_the_cluster(seen: Seen) -> None:
    env = seen.told["env"]
    assert env["HTTPS_PROXY"] == env["https_proxy"] == "http://proxy.invalid:3128"
    assert {".svc", "example.org", "localhost"} <= set(env["NO_PROXY"].split(","))


def test_steps_have_the_variables_and_the_limits(seen: Seen) -> None:
    assert seen.told["env"]["PIP_INDEX_URL"] == "https://index.invalid/simple"
    (step_pod,) = (pod for pod in seen.pods if "container-impl" in pod["metadata"]["name"])
    (main,) = (c for c in step_pod["spec"]["containers"] if c["name"] == "main")
    assert main["resources"]["limits"]["memory"] == "300Mi"


def test_every_pod_goes_where_runs_belong(seen: Seen) -> None:
    assert len(seen.pods) == 3
    for pod in seen.pods:
        assert TOLERATION in pod["spec"]["tolerations"]
        assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_nothing_is_reused_when_the_cache_is_off(seen: Seen) -> None:
    assert seen.second.step().state == "succeeded"


def test_no_log_is_kept_when_archiving_is_off(cluster: Cluster, seen: Seen) -> None:
    with store.opened(cluster, "pipelines") as s3:
        kept = [
            s3.list_objects_v2(Bucket=BUCKET, Prefix=f"logs/{p['metadata']['name']}")["KeyCount"] for p in seen.pods
        ]
    assert kept == [0, 0, 0]
