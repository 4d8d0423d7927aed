"""Whether the files of a model are the registered ones, and whether a key that the release trusts has signed them.

The digest of a folder is the SHA-256 of a list, in UTF-8: for each file, in the order of the paths' bytes, the file's SHA-256 in
hexadecimal digits, two spaces, its path within the folder with `/`, and a line feed. `iml4e.integrity` writes it when a model is
registered. What is signed, by Ed25519, is the text `MODEL/VERSION DIGEST`.
"""

import base64
import hashlib
import os
from pathlib import Path


def digest(folder: Path) -> str:
    """The digest of a folder: `sha256:` and hexadecimal digits."""
    listing = hashlib.sha256()
    names = (os.fsencode(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())
    for name in sorted(names):
        with open(os.path.join(os.fsencode(folder), name), "rb") as file:
            listing.update(hashlib.file_digest(file, "sha256").hexdigest().encode() + b"  " + name + b"\n")
    return f"sha256:{listing.hexdigest()}"


def problem(folder: str, registered: str, signature: str, model: str, public_key: str) -> str:
    """Say what is wrong with the files of a model; empty if nothing is.

    Args:
        folder: holds the files.
        registered: digest in the registry; empty if the version has none.
        signature: of model, version and that digest, in base64; empty if the version has none.
        model: model and version, such as `fraud/3`.
        public_key: Ed25519 key in PEM whose signature every model must have; empty: none is needed.
    """
    if public_key and not (registered and signature):
        return (
            f"{model} has no signature, and this release loads signed models only (kserve.runtimes.mlflow.publicKey): "
            f"`iml4e sign {model} --key FILE`, then deploy it again"
        )
    if public_key and (why := _unsigned(f"{model} {registered}", signature, public_key)):
        return f"the signature of {model} is not valid ({why}): `iml4e sign {model} --key FILE`, then deploy it again"
    if registered and (found := digest(Path(folder))) != registered:
        return (
            f"the files of {model} are not the registered ones: their digest is {found}, the registry has {registered}. If you changed "
            f"them, `iml4e sign {model}` and deploy again; otherwise they were damaged or tampered with: register the model anew"
        )
    return ""


def _unsigned(text: str, signature: str, public_key: str) -> str:
    """Why a text is not signed; empty if it is."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(public_key.encode())
        if not isinstance(key, Ed25519PublicKey):
            return "kserve.runtimes.mlflow.publicKey is no Ed25519 key"
        key.verify(base64.b64decode(signature, validate=True), text.encode())
    except InvalidSignature:
        return "another key, model, version or digest was signed"
    except ValueError as error:
        return " ".join(str(error).split())[:200]
    return ""
