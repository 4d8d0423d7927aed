"""A release that loads signed models only: a registered one serves, a flipped bit and a missing signature end in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support import releases, store
from support.k8s import Cluster

pytestmark = pytest.mark.timeout(900)

NAME = "signed"
SERVING = "serving.kserve.io/v1beta1"
REGISTER = """
import sys
import mlflow
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from iml4e import registry

wines = load_wine(as_frame=True)
model = LogisticRegression(max_iter=5000).fit(wines.data, wines.target)
mlflow.set_experiment("signed")
with mlflow.start_run():
    logged = mlflow.sklearn.log_model(model, name="model", input_example=wines.data.head(2))
print(registry.register(logged.model_uri, "fraud", "passed", "good"))
mlflow.register_model(logged.model_uri, "unsigned")
"""


@dataclass
class Release:
    """A release that asks for signatures."""

    cluster: Cluster
    address: str
    key: Path

    def run(self, *command: str) -> str:
        """Run a program as a user does."""
        return releases.run(self.cluster.namespace, self.address, *command)


@pytest.fixture(scope="module")
def release(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A release of its own, with a key pair."""
    made, key = Ed25519PrivateKey.generate(), tmp_path_factory.mktemp("key") / "key.pem"
    plain = serialization.NoEncryption()
    key.write_bytes(made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    public = made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    values = {
        "prometheus": {"enabled": False},
        "kserve": {"runtimes": {"mlflow": {"publicKey": public.decode()}}},
    }
    with (
        releases.namespace(cluster, NAME) as there,
        releases.installed(there, ["laptop"], values),
        there.port_forward(f"service/{NAME}-gateway", 80) as port,
    ):
        made_here = Release(there, f"http://127.0.0.1:{port}", key)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("IML4E_SIGNING_KEY", str(key))
            made_here.run("python", "-W", "ignore", "-c", REGISTER)
        yield made_here


def test_a_registered_model_serves_and_one_flipped_bit_does_not(release: Release) -> None:
    there = release.cluster
    assert "fraud version 1 serves" in release.run("iml4e", "deploy", "fraud/1")
    (pod,) = there.pods("serving.kserve.io/inferenceservice=fraud")
    assert "the files are the registered ones" in there.logs(
        pod["metadata"]["name"], container="kserve-container", lines=100
    )

    uri = there.get(SERVING, "InferenceService", "fraud")["spec"]["predictor"]["model"]["storageUri"]
    keys = there.secret(f"{there.namespace}-s3-mlflow")
    with there.port_forward(f"service/{there.namespace}-minio", 9000) as port:
        s3 = store.client(port, keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
        listing = s3.list_objects_v2(Bucket="mlflow", Prefix=uri.removeprefix("s3://mlflow/"))["Contents"]
        name = max(listing, key=lambda each: each["Size"])["Key"]
        good = s3.get_object(Bucket="mlflow", Key=name)["Body"].read()
        s3.put_object(Bucket="mlflow", Key=name, Body=good[:-1] + bytes([good[-1] ^ 1]))
        try:
            there.kill(pod["metadata"]["name"])
            # not the InferenceService's status: KServe does not watch a container that ends (0.20)
            said = "the files of fraud/1 are not the registered ones"
            there.wait("iml4e models to say it", lambda: said in release.run("iml4e", "models"), 180, pause=5)
        finally:
            s3.put_object(Bucket="mlflow", Key=name, Body=good)
    release.run("iml4e", "delete", "fraud")


def test_a_model_without_a_signature_is_refused_until_it_is_signed(release: Release) -> None:
    with pytest.raises(AssertionError, match=r"unsigned/1 has no signature, and this release loads signed models only"):
        release.run("iml4e", "deploy", "unsigned/1")
    release.run("iml4e", "sign", "unsigned/1", "--key", str(release.key))
    assert "unsigned version 1 serves" in release.run("iml4e", "deploy", "unsigned/1")
    release.run("iml4e", "delete", "unsigned")
