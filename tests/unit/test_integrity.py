"""The digest of a model's files: written at registration, checked by the model server before anything of the model is run."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

from iml4e import Error, integrity, manifests, registry
from support.helm import CHART

sys.path.insert(0, str(CHART / "charts" / "kserve" / "files"))
from model_server import integrity as server

FILES = CHART / "charts" / "kserve" / "files"


@pytest.fixture
def model(tracking: mlflow.MlflowClient, tmp_path: Path) -> Path:
    """A model as KServe fetches it."""
    wines = load_wine(as_frame=True)
    folder = tmp_path / "model"
    mlflow.sklearn.save_model(LogisticRegression(max_iter=5000).fit(wines.data, wines.target), folder)
    return folder


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    """A file with a private key, and the public one, both in PEM."""
    made = Ed25519PrivateKey.generate()
    file = tmp_path / "key.pem"
    file.write_bytes(private(made))
    public = made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return file, public.decode()


def private(key: Any) -> bytes:
    """A private key in PEM."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def files(folder: Path) -> list[Path]:
    """All files of a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def start(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start the model server in vain: it ends before it listens."""
    command = [sys.executable, "-m", "model_server", "--model_name=wine", f"--model_dir={folder}", "--http_port=0"]
    return subprocess.run(
        command, cwd=FILES, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_both_sides_have_the_same_digest_which_depends_on_every_byte_and_name(model: Path) -> None:
    (model / "more").mkdir()
    (model / "more" / "größe \n.txt").write_text("x")
    (model / "more.txt").write_text("")
    digests = {server.digest(model)}
    assert digests == {integrity.digest(model)}
    for file in files(model):
        before = file.read_bytes()
        file.write_bytes(before + b"\0")
        digests.add(server.digest(model))
        if before:
            file.write_bytes(bytes([before[0] ^ 1]) + before[1:])
            digests.add(server.digest(model))
        file.write_bytes(before)
        moved = file.rename(file.with_name("zz"))
        digests.add(server.digest(model))
        moved.rename(file)
    assert len(digests) == 1 + 3 * len(files(model)) - 1  # an empty file has no byte to flip
    assert server.digest(model) in digests


def test_a_registered_model_has_the_digest_of_what_the_store_has(tracking: mlflow.MlflowClient, tmp_path: Path) -> None:
    with mlflow.start_run():
        logged = mlflow.sklearn.log_model(LogisticRegression(), name="model")
    version = registry.register(logged.model_uri, "fraud", "passed", "good")
    tags = registry.resolve(f"fraud/{version}").tags
    source = tracking.get_model_version_download_uri("fraud", version)
    fetched = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path)))
    assert tags["iml4e.digest"] == server.digest(fetched)
    assert "iml4e.signature" not in tags
    service = manifests.inference_service(
        "fraud", version, "s3://mlflow/m/", name="fraud", namespace="ns", account="a",
        model_digest=tags["iml4e.digest"], model_signature="",
    )  # fmt: skip
    annotations = service["metadata"]["annotations"]
    assert annotations["iml4e.org/model-digest"] == tags["iml4e.digest"]
    assert "iml4e.org/model-signature" not in annotations


def test_a_key_signs_model_version_and_digest(
    tracking: mlflow.MlflowClient, key: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, public = key
    monkeypatch.setenv("IML4E_SIGNING_KEY", str(file))
    with mlflow.start_run():
        logged = mlflow.sklearn.log_model(LogisticRegression(), name="model")
    version = registry.register(logged.model_uri, "fraud", "passed", "good")
    tags = registry.resolve(f"fraud/{version}").tags
    digest, signature = tags["iml4e.digest"], tags["iml4e.signature"]
    source = tracking.get_model_version_download_uri("fraud", version)
    fetched = mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path / "fetched"))
    assert server.problem(fetched, digest, signature, f"fraud/{version}", public) == ""
    for other in (
        (fetched, digest, signature, "fraud/77", public),
        (fetched, digest, signature, f"other/{version}", public),
        (fetched, f"sha256:{'0' * 64}", signature, f"fraud/{version}", public),
        (fetched, digest, base64.b64encode(b"0" * 64).decode(), f"fraud/{version}", public),
        (fetched, digest, "no base64", f"fraud/{version}", public),
    ):
        assert "the signature of" in server.problem(*other)
    assert "is no Ed25519 key" in server.problem(fetched, digest, signature, f"fraud/{version}", rsa_like())
    registry.tag("fraud", version, **{"iml4e.signature": ""})
    monkeypatch.delenv("IML4E_SIGNING_KEY")
    assert integrity.sign("fraud", version) == digest, "sign without a key writes the digest alone"
    assert "iml4e.signature" not in registry.resolve(f"fraud/{version}").tags


def rsa_like() -> str:
    """A public key of another kind."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read as a private key: [Errno 2]"),
        (b"no key", "cannot be read as a private key"),
        (private(ec.generate_private_key(ec.SECP256R1())), "is no Ed25519 key"),
    ],
)
def test_a_key_that_cannot_sign_is_told(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Error, match=re.escape(says)):
        integrity.signature("x", file)


def test_one_flipped_bit_ends_the_server_with_a_sentence_before_anything_of_the_model_is_run(
    model: Path, tmp_path: Path
) -> None:
    digest, ran = integrity.digest(model), tmp_path / "ran"
    pickled = next(path for path in files(model) if path.suffix in (".pkl", ".skops", ".cloudpickle"))
    code = f"cos\nsystem\n(S'touch {ran}'\ntR."
    for content in (bytes([pickled.read_bytes()[0] ^ 1]) + pickled.read_bytes()[1:], code.encode()):
        pickled.write_bytes(content)
        done = start(
            model,
            MODEL_REGISTERED="wine",
            MODEL_VERSION="3",
            MODEL_DIGEST=digest,
            MODEL_SERVER_PACKAGES="no-such-package",
        )
        assert done.returncode == 3
        (line,) = [line for line in done.stderr.splitlines() if line]
        assert re.fullmatch(
            rf"model_server: the files of wine/3 are not the registered ones: their digest is sha256:[0-9a-f]{{64}}, the registry has {digest}\. "
            r"If you changed them, `iml4e sign wine/3` and deploy again; otherwise they were damaged or tampered with: register the model anew",
            line,
        )
        assert not ran.exists()


def test_where_signatures_are_required_a_model_without_one_is_refused(model: Path, key: tuple[Path, str]) -> None:
    file, public = key
    digest = integrity.digest(model)
    done = start(model, MODEL_REGISTERED="wine", MODEL_VERSION="3", MODEL_DIGEST=digest, MODEL_PUBLIC_KEY=public)
    assert done.returncode == 3
    assert (
        "wine/3 has no signature, and this release loads signed models only (kserve.runtimes.mlflow.publicKey)"
        in done.stderr
    )
    signed = integrity.signature(f"wine/3 {digest}", file)
    assert server.problem(str(model), digest, signed, "wine/3", public) == ""
    assert (
        server.problem(str(model), digest, "", "wine/3", "") == server.problem(str(model), "", "", "wine/3", "") == ""
    )
