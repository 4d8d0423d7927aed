"""An S3 store and a database of somebody else, which speak TLS, with a certificate that a private authority signed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config

from support import helm
from support.certificates import pem, signed
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(900)

NAME = "private-ca"
"""Release, and its namespace."""
STORE = "private-ca-store"
"""Namespace of store and database."""
ENDPOINT = f"https://store.{STORE}.svc:9000"
DATABASE = {"username": "mlflow", "password": "somebodyelses", "database": "mlflow"}
KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "somebody-elses"}
# as docs/install.md, Your own S3
ANNOTATIONS = {
    "serving.kserve.io/s3-endpoint": f"store.{STORE}.svc:9000",
    "serving.kserve.io/s3-usehttps": "1",
    "serving.kserve.io/s3-region": "us-east-1",
}
TRUST = {
    "serving.kserve.io/s3-cabundle-configmap": "company-ca",
    "serving.kserve.io/s3-cabundle": "/etc/ssl/custom-certs/cabundle.crt",
}
SMALL = {"requests": {"cpu": "10m"}}
VALUES: dict[str, Any] = {
    "kserve": {"controller": {"enabled": False}, "runtimes": {"mlflow": {"resources": SMALL}}},
    "gateway": {"service": {"type": "ClusterIP"}, "resources": SMALL},
    "minio": {"enabled": False},
    "mariadb": {"enabled": False},
    "mlflow": {"resources": SMALL, "gc": {"enabled": True, "dryRun": False, "olderThan": "0s", "resources": SMALL}},
    "pipelines": {"enabled": False},
    "prometheus": {"enabled": False},
    "grafana": {"enabled": False},
}
USER = """
import json, mlflow
from iml4e import serving
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

wines = load_wine()
mlflow.set_experiment("trust")
with mlflow.start_run() as run:
    mlflow.log_text("trusted", "note.txt")
    model = LogisticRegression(max_iter=5000).fit(wines.data, wines.target)
    mlflow.sklearn.log_model(model, name="model", registered_model_name="wine", pip_requirements=["scikit-learn"])
note = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt")
endpoint = serving.deploy("wine", "1", say=lambda _: None)
prediction = endpoint.ask().predict(wines.data[:1].tolist())
serving.delete("wine", say=lambda _: None)
print(json.dumps({"run": run.info.run_id, "note": note, "namespace": endpoint.namespace, "prediction": prediction}))
"""
STEP = """
from iml4e import datasets

stored = datasets.put(b"a,b\\n1,2\\n", "step/table.csv")
print(datasets.read(stored.address)[1].decode().split(), [each.key for each in datasets.listing("step/")])

import mlflow

with open("/tmp/large.bin", "wb") as file:
    file.write(bytes(11 << 20))
mlflow.set_experiment("trust")
with mlflow.start_run():
    mlflow.log_artifact("/tmp/large.bin")
"""


@dataclass(frozen=True)
class Setup:
    """The store, and the release that uses it."""

    there: Cluster
    """The release's namespace."""
    elsewhere: Cluster
    """That of store and database."""
    url: str
    """Address of its gateway on this machine."""
    s3: Any
    """The store, seen from here."""


def install(authority: dict[str, str], *, tls: bool) -> None:
    """Install the release, or upgrade it."""
    taken = {key: helm.release_values()["global"][key] for key in ("imageRegistry", "runtime")}
    elsewhere = {"s3": {"endpoint": ENDPOINT}, "database": {"host": f"database.{STORE}.svc"}}
    mlflow = {**VALUES["mlflow"], "database": {"tls": tls}}
    values = {**VALUES, "mlflow": mlflow, "global": {**taken, **elsewhere, "caCertificate": authority}}
    helm.helm(
        "upgrade", "--install", NAME, helm.CHART, "--namespace", NAME, "--skip-crds",
        "--values", helm.VALUES / "laptop.yaml",
        *(word for part in values for word in ("--set-json", f"{part}={json.dumps(values[part])}")),
        "--wait", "--timeout", "200s", timeout=300,
    )  # fmt: skip


def secret(name: str, data: dict[str, str], **annotations: str) -> dict[str, Any]:
    """A Secret."""
    metadata = {"name": name, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


SERVE = {
    "store": ["minio", "server", "/data", "--certs-dir", "/certs"],
    "database": [
        "sh", "-c",
        "mariadb-install-db --no-defaults --datadir=/data/db --auth-root-authentication-method=normal >/dev/null && "
        "exec mariadbd --no-defaults --datadir=/data/db --socket=/tmp/socket --pid-file=/tmp/pid --init-file=/certs/init.sql "
        "--ssl-cert=/certs/public.crt --ssl-key=/certs/private.key",
    ],
}  # fmt: skip
INIT = """
CREATE DATABASE mlflow CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin;
CREATE USER 'mlflow'@'%' IDENTIFIED BY 'somebodyelses';
GRANT ALL ON mlflow.* TO 'mlflow'@'%';
"""


def server(name: str, image: str, port: int, user: int) -> list[dict[str, Any]]:
    """A server of somebody else: a pod and its Service."""
    container = {
        "name": name,
        "image": image,
        "command": SERVE[name],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "MINIO_ROOT_USER", "value": KEYS["AWS_ACCESS_KEY_ID"]},
            {"name": "MINIO_ROOT_PASSWORD", "value": KEYS["AWS_SECRET_ACCESS_KEY"]},
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "securityContext": {**RESTRICTED, "runAsUser": user},
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "certs", "mountPath": "/certs"}],
    }
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "certs", "secret": {"secretName": "certs"}}]
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": volumes}}
    deployment = {"selector": {"matchLabels": labels}, "template": pod}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": deployment},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"port": port}]},
        },
    ]  # fmt: skip


@pytest.fixture(scope="module")
def setup(cluster: Cluster, values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """The store with its buckets, and a release that does not know its authority yet."""
    authority = signed("e2e authority")
    certificate, key = signed(f"store.{STORE}.svc", f"database.{STORE}.svc", "127.0.0.1", by=authority)
    file = tmp_path_factory.mktemp("ca") / "ca.crt"
    file.write_text(pem(authority[0]))
    with contextlib.ExitStack() as stack:
        for name in (NAME, STORE):
            metadata = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
            cluster.core.create_namespace({"metadata": metadata})
            stack.callback(cluster.core.delete_namespace, name)
        stack.callback(helm.helm, "uninstall", NAME, "--namespace", NAME, "--wait", "--ignore-not-found", timeout=300)
        elsewhere, there = Cluster(cluster.config, STORE), Cluster(cluster.config, NAME)
        taken = {
            name: f"{values['global']['imageRegistry'] or image['registry']}/{image['repository']}:{image['tag']}"
            for name in ("minio", "mariadb")
            if (image := values[name]["image"])
        }
        elsewhere.apply(
            secret("certs", {"public.crt": pem(certificate), "private.key": pem(key), "init.sql": INIT}),
            *server("store", taken["minio"], 9000, 1000),
            *server("database", taken["mariadb"], 3306, 999),
        )
        elsewhere.wait_ready("Deployment", "store")
        elsewhere.wait_ready("Deployment", "database")
        port = stack.enter_context(elsewhere.port_forward("service/store", 9000))
        s3 = boto3.client(
            "s3", endpoint_url=f"https://127.0.0.1:{port}", region_name="us-east-1", verify=str(file),
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        for bucket in ("datasets", "mlflow", "pipelines"):
            s3.create_bucket(Bucket=bucket)
        s3.put_bucket_versioning(Bucket="datasets", VersioningConfiguration={"Status": "Enabled"})
        there.apply(
            {
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "company-ca"},
                "data": {"cabundle.crt": file.read_text()},
            },
            secret(f"{NAME}-db-mlflow", DATABASE),
            secret(f"{NAME}-s3-mlflow", KEYS),
            secret(f"{NAME}-s3-pipelines", KEYS),
            secret(f"{NAME}-s3-models", KEYS, **ANNOTATIONS),
        )  # fmt: skip
        install({}, tls=False)
        with there.port_forward(f"service/{NAME}-gateway", 80) as forwarded:
            yield Setup(there, elsewhere, f"http://127.0.0.1:{forwarded}", s3)


@pytest.fixture(scope="module")
def untrusted(setup: Setup) -> Setup:
    """The release before it knows the authority."""
    return setup


@pytest.fixture(scope="module")
def trusted(setup: Setup) -> Setup:
    """The release that trusts it, and whose database lets it in by TLS alone."""
    setup.there.apply(secret(f"{NAME}-s3-models", KEYS, **ANNOTATIONS, **TRUST))
    (pod,) = setup.elsewhere.pods("app=database")
    alone = "ALTER USER 'mlflow'@'%' REQUIRE SSL"
    client = ("mariadb", "--socket=/tmp/socket", "--user=root", "--skip-ssl", "--execute")
    said = setup.elsewhere.exec(pod["metadata"]["name"], *client, alone)
    assert not said, said
    install({"existingConfigMap": "company-ca", "key": "cabundle.crt"}, tls=True)
    return setup


def use(url: str) -> dict[str, Any]:
    """What a user does, with the harness's own Python: log, register, deploy, ask."""
    environment = {
        **os.environ,
        "IML4E_URL": url, "IML4E_RELEASE": NAME, "IML4E_NAMESPACE": NAME, "MLFLOW_TRACKING_URI": f"{url}/mlflow",
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", USER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def step(there: Cluster) -> tuple[bool, str]:
    """Run what a pipeline step does with datasets, in a pod with the environment that steps have."""
    config = there.core.read_namespaced_config_map(f"{NAME}-runner", NAME).data
    sources = (Path(helm.REPO) / "src" / "iml4e").glob("*.py")
    code = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}}
    there.apply({**code, "data": {source.name: source.read_text() for source in sources}})
    volumes = [{"name": "code", "configMap": {"name": "code"}}]
    mounts = [{"name": "code", "mountPath": "/code/iml4e"}]
    # pods send large files to the store themselves, by signed URLs
    env = {"HOME": "/tmp", "PYTHONPATH": "/code", "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(5 << 20)}
    if name := config.get("CA_CONFIG_MAP"):
        items = [{"key": config["CA_KEY"], "path": "ca.crt"}]
        volumes.append({"name": "ca", "configMap": {"name": name, "items": items}})
        mounts.append({"name": "ca", "mountPath": "/etc/ssl/iml4e"})
        env |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"), "/etc/ssl/iml4e/ca.crt")
    container = {
        "name": "step",
        "image": config["RUNTIME_IMAGE"],
        "command": ["python3", "-c", STEP],
        "envFrom": [{"configMapRef": {"name": f"{NAME}-runner"}}, {"secretRef": {"name": f"{NAME}-s3-pipelines"}}],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "securityContext": RESTRICTED,
        "volumeMounts": mounts,
    }
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    job = {"backoffLimit": 0, "template": {"spec": spec}}
    return there.run_job({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "step"}, "spec": job}, 60)


def gc(there: Cluster) -> tuple[bool, str]:
    """Run the CronJob that deletes what users deleted."""
    template = there.batch.read_namespaced_cron_job(f"{NAME}-mlflow-gc", NAME).spec.job_template
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "gc"}, "spec": template.spec}
    return there.run_job(job, 90)


def test_without_the_authority_mlflow_says_what_to_set(untrusted: Setup) -> None:
    path = f"{untrusted.url}/mlflow/api/2.0/mlflow-artifacts/artifacts"
    for answer in (
        requests.put(f"{path}/0/note.txt", data=b"note", timeout=30),
        requests.get(f"{path}/0/note.txt", timeout=30),
        requests.get(path, params={"path": "0"}, timeout=30),
    ):
        # 501: clients repeat what may pass by itself
        assert answer.status_code == 501, answer.text
        message = answer.json()["message"]
        assert "not trusted: unable to get local issuer certificate" in message
        assert "global.caCertificate" in message


def test_without_the_authority_a_step_says_what_to_set(untrusted: Setup) -> None:
    ok, log = step(untrusted.there)
    assert not ok
    assert "the certificate of the object store is not trusted: unable to get local issuer certificate" in log
    assert "global.caCertificate" in log


def test_without_the_authority_a_model_says_what_to_set(untrusted: Setup) -> None:
    there = untrusted.there
    model = {"modelFormat": {"name": "mlflow"}, "runtime": "mlflow", "storageUri": "s3://mlflow/0/model/"}
    there.apply(
        {
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "blind"},
            "spec": {"predictor": {"serviceAccountName": f"{NAME}-models", "model": model}},
        }
    )  # fmt: skip
    selector = "serving.kserve.io/inferenceservice=blind"

    def said() -> str:
        pods = there.pods(selector)
        log = there.logs(pods[0]["metadata"]["name"], container="storage-initializer") if pods else ""
        return log if "cannot be read" in log else ""

    try:
        log = there.wait("the reason of the download", said, 60, selector=selector)
    finally:
        there.delete("serving.kserve.io/v1beta1", "InferenceService", "blind")
    assert f"the certificate of {ENDPOINT} is not trusted: unable to get local issuer certificate" in log
    assert "global.caCertificate.existingConfigMap" in log


def test_mlflow_models_steps_and_clean_up_trust_it(trusted: Setup) -> None:
    there, s3 = trusted.there, trusted.s3
    done = use(trusted.url)
    assert (done["note"], done["namespace"], done["prediction"]) == ("trusted", NAME, [0])

    ok, log = step(there)
    assert ok, log
    assert "['a,b', '1,2'] ['step/table.csv']" in log

    def objects(word: str) -> list[str]:
        found = s3.list_objects_v2(Bucket="mlflow").get("Contents", [])
        return [each["ETag"].strip('"') for each in found if word in each["Key"]]

    # two parts of 10 MiB at most, as the client cuts; MLflow's server would send three of 5 MiB
    assert [etag.partition("-")[2] for etag in objects("/large.bin")] == ["2"]

    assert objects(done["run"])
    api = f"{trusted.url}/mlflow/api/2.0/mlflow"
    requests.delete(f"{api}/registered-models/delete", json={"name": "wine"}, timeout=30).raise_for_status()
    requests.post(f"{api}/runs/delete", json={"run_id": done["run"]}, timeout=30).raise_for_status()
    ok, log = gc(there)
    assert ok, log
    assert not objects(done["run"]), log
