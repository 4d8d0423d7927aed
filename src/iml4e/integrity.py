"""Digest and signature of a registered model: written as tags of its version, checked by the model server before it loads the model.

The digest of a folder is the SHA-256 of a list, in UTF-8: for each file, in the order of the paths' bytes, the file's SHA-256 in
hexadecimal digits, two spaces, its path within the folder with `/`, and a line feed. What is signed, by Ed25519, is the text
`MODEL/VERSION DIGEST`. `openssl genpkey -algorithm ed25519` makes a key.
"""

import base64
import hashlib
import os
import tempfile
from pathlib import Path

from iml4e import Error, registry

#: Tags of a version.
DIGEST, SIGNATURE = "iml4e.digest", "iml4e.signature"


def digest(folder: Path) -> str:
    """The digest of a folder: `sha256:` and hexadecimal digits."""
    listing = hashlib.sha256()
    names = (os.fsencode(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())
    for name in sorted(names):
        with open(os.path.join(os.fsencode(folder), name), "rb") as file:
            listing.update(hashlib.file_digest(file, "sha256").hexdigest().encode() + b"  " + name + b"\n")
    return f"sha256:{listing.hexdigest()}"


def signature(text: str, key: Path) -> str:
    """The signature of a text, in base64.

    Raises:
        Error: the file holds no private Ed25519 key in PEM without a passphrase.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Error(
            f"{key} cannot be read as a private key: {reason}; `openssl genpkey -algorithm ed25519` makes one"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise Error(f"{key} is no Ed25519 key: `openssl genpkey -algorithm ed25519` makes one")
    return base64.b64encode(private.sign(text.encode())).decode()


def sign(name: str, version: str, key: str = "") -> str:
    """Write the digest of a version's files into its tags, and a signature where there is a key.

    Args:
        name: registered model.
        version: its version.
        key: file with the private key; empty: the one that IML4E_SIGNING_KEY names, if any.

    Returns:
        The digest.

    Raises:
        Error: the files cannot be read, or the key cannot.
    """
    import mlflow

    key = key or os.environ.get("IML4E_SIGNING_KEY", "")
    with registry.told(f"model {name} has no version {version}"):
        # not models:/…, under which MLflow adds a file of its own
        source = registry.client().get_model_version_download_uri(name, version)
        with tempfile.TemporaryDirectory() as folder:
            found = digest(Path(mlflow.artifacts.download_artifacts(source, dst_path=folder)))
    signed = signature(f"{name}/{version} {found}", Path(key)) if key else ""
    registry.tag(name, version, **{DIGEST: found, SIGNATURE: signed})
    return found
