"""Make the Secrets of a release that are missing, in the cluster. It runs in a Job, on the image of MLflow.

A plan (JSON) names the Secrets. One that exists keeps its data, whoever made it. The certificate of KServe's webhooks is a
Secret as well, and its authority is written into the webhook configurations that name it.

`make_secrets.py PLAN STATE RUN [NAME …]` takes the Secrets one step on in a rotation, which `iml4e rotate` directs. `next` adds a second
credential beside the present one, under the same keys with `second.` before them. `former` exchanges the two: readers that start now
get the new one, and the former one stays valid. `done` removes the former one. Key `rotation` of each Secret has RUN and STATE; a
Secret that is not in the state before stays as it is, so that a rotation which was cut short can go on.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import json
import os
import secrets
import ssl
import string
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LETTERS_AND_DIGITS = string.ascii_letters + string.digits
#: Annotation of a webhook configuration: the Secret whose `ca.crt` it waits for
CA_FROM = "iml4e/ca-from"
#: Seconds that the API server may be away, or may not know the account's rights yet
PATIENCE = 60
#: Prefix of the keys of the second credential, while a Secret rotates
SECOND = "second."
#: Key of a Secret that says how far it has rotated
ROTATION = "rotation"
#: Annotation of a Secret: when it came to hold the new credential; pods from before may have the former one
SWAPPED = "iml4e.org/swapped"
#: State of a Secret: the states that it may come from
STATES = {"next": ("", "done"), "former": ("next",), "done": ("former",)}
#: Seconds until the webhook configurations are there: they may be applied long after this Job started
WEBHOOKS_PATIENCE = 600


class Failure(Exception):
    """A sentence for the log: what is wrong, and what to do."""


class Api:
    """The Kubernetes API, with the account of the pod."""

    def __init__(self, host: str, port: str, account: Path = ACCOUNT) -> None:
        """Take the address from the environment of the pod, an IPv6 address without brackets."""
        self.url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self.token = account / "token"
        trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(account / "ca.crt")))
        # a proxy of the environment leads out of the cluster
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trust)

    def send(self, method: str, path: str, body: Any = None, kind: str = "") -> tuple[int, Any]:
        """Send a request once: status and answer."""
        headers = {"Authorization": f"Bearer {self.token.read_text()}", "Accept": "application/json"}
        data = None
        if body is not None:
            headers["Content-Type"] = kind
            data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with self.opener.open(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            try:
                return error.code, json.loads(text)
            except ValueError:
                return error.code, {"message": text[:300]}

    def ask(
        self, method: str, path: str, body: Any = None, kind: str = "", known: tuple[int, ...] = ()
    ) -> tuple[int, Any]:
        """Send a request, again while the API server is away or does not know the rights of the account yet.

        Args:
            method: of HTTP.
            path: with its query.
            body: sent as JSON.
            kind: media type of the body.
            known: statuses of errors that the caller expects.

        Returns:
            Status and answer.

        Raises:
            Failure: another error, or the same one for a minute.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                status, answer = self.send(method, path, body, kind)
            except (OSError, http.client.HTTPException, ValueError) as error:  # cut off, or no JSON
                status, answer = 0, {"message": str(error) or type(error).__name__}
            if status in (200, 201) or status in known:
                return status, answer
            passing = status in (0, 401, 403, 429) or status >= 500
            if not passing or time.monotonic() > end:
                what = f"{method} {path.partition('?')[0]}"
                raise Failure(
                    f"The Kubernetes API refuses {what} ({status or 'no answer'}): {answer.get('message', answer)}"
                )
            time.sleep(1)


def password(length: int) -> str:
    """A password of letters and digits: it goes into URLs."""
    return "".join(secrets.choice(LETTERS_AND_DIGITS) for _ in range(length))


def encryption_key(length: int) -> str:
    """So many random bytes in base64 for URLs, which is what Fernet takes."""
    return base64.urlsafe_b64encode(secrets.token_bytes(length)).decode()


def certificate(host: str) -> dict[str, str]:
    """A certificate for a host and the authority that signed it, good for ten years; nobody keeps the authority's key.

    Raises:
        Failure: the image lacks what that takes.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as error:
        raise Failure(
            f"The image of global.runtime cannot make a certificate ({error}): add the Python package cryptography to it, or set "
            "kserve.webhook.certificate.mode to certManager or existingSecret."
        ) from error

    now = datetime.datetime.now(datetime.UTC)
    own_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    uses = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "iml4e webhook authority")])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            # clocks of nodes differ
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(**uses, key_cert_sign=ca, crl_sign=ca, digital_signature=not ca), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own_key.public_key()), critical=False)
        )

    # a common name has at most 64 characters: the name that counts is the alternative one
    server = (
        builder(x509.Name([]), key.public_key(), ca=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(own_key, hashes.SHA256())
    )
    ca = builder(authority, own_key.public_key(), ca=True).sign(own_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "ca.crt": ca.public_bytes(pem).decode(),
        "tls.crt": server.public_bytes(pem).decode(),
        "tls.key": private.decode(),
    }


def encoded(values: dict[str, str]) -> dict[str, str]:
    """Values as a Secret holds them."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def keys(wanted: dict[str, Any]) -> list[str]:
    """Keys that a Secret of the plan has."""
    return [
        *wanted.get("fixed", {}),
        *wanted.get("alternating", {}),
        *wanted.get("generated", {}),
        *wanted.get("lasting", {}),
        *(("ca.crt", "tls.crt", "tls.key") if "host" in wanted else ()),
    ]


def credential(wanted: dict[str, Any]) -> dict[str, str]:
    """New values of what a Secret of the plan has at random."""
    made = {key: password(int(length)) for key, length in wanted.get("generated", {}).items()}
    return made | (certificate(wanted["host"]) if "host" in wanted else {})


def body(wanted: dict[str, Any]) -> dict[str, Any]:
    """A new Secret."""
    lasting = {key: encryption_key(int(length)) for key, length in wanted.get("lasting", {}).items()}
    values = {**wanted.get("fixed", {}), **wanted.get("alternating", {}), **credential(wanted), **lasting}
    annotations = wanted["annotations"] | wanted.get("facts", {})
    metadata = {"name": wanted["name"], "labels": wanted["labels"], "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": wanted["type"], "data": encoded(values)}


def lacks(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Keys that a Secret should have and has not."""
    return [key for key in keys(wanted) if not (found.get("data") or {}).get(key)]


def differs(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Keys whose value in a Secret is another one than in the chart's values."""
    data = found.get("data") or {}
    return [key for key, value in encoded(wanted.get("fixed", {})).items() if data.get(key) != value]


def make(api: Api, namespace: str, writer: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a Secret of the plan as it is in the cluster; make it if there is none.

    Raises:
        Failure: it is there, and lacks a key.
    """
    name = wanted["name"]
    path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
    status, found = api.ask("GET", path, known=(404,))
    made = False
    if status == 404:
        # Not POST: RBAC cannot limit that to names. A conflict means that another try of this Job, which writes under another
        # name, made the Secret in the meantime.
        query = f"?fieldManager={writer}&force=false"
        status, found = api.ask("PATCH", path + query, body(wanted), "application/apply-patch+yaml", known=(409,))
        made = status != 409
        if not made:
            _, found = api.ask("GET", path)
    if missing := lacks(found, wanted):
        raise Failure(
            f"Secret {name} is there, but lacks {', '.join(missing)}: add what is missing, or delete the Secret and it is made anew; "
            "then upgrade, or delete this Job and sync."
        )
    if "host" in wanted and "cert-manager.io/certificate-name" in (found["metadata"].get("annotations") or {}):
        raise Failure(
            f"Secret {name} is cert-manager's, which renews it no more: delete the Secret and it is made anew; then upgrade, or delete this "
            "Job and sync. Or set kserve.webhook.certificate.mode back to certManager."
        )
    if other := differs(found, wanted):
        print(
            f"Secret {name} keeps its {', '.join(other)}, though the values say otherwise: delete it to have it made anew."
        )
    annotations, facts = found["metadata"].get("annotations") or {}, wanted.get("facts", {})
    if any(annotations.get(key) != value for key, value in facts.items()):
        # the address of the store, for example: annotations that follow the values, whoever made the Secret
        change = {"metadata": {"annotations": facts}}
        _, found = api.ask("PATCH", f"{path}?fieldManager=iml4e-secrets", change, "application/merge-patch+json")
    print(f"Secret {name}: {'made' if made else 'was there'}", flush=True)
    return found


def state_of(found: dict[str, Any]) -> str:
    """How far a Secret has rotated: next, former, done, or empty for one that never did."""
    return base64.b64decode((found.get("data") or {}).get(ROTATION, "")).decode().rpartition(" ")[2]


def step(found: dict[str, Any], wanted: dict[str, Any], state: str, run: str) -> dict[str, str | None]:
    """What of a Secret's data one step of a rotation changes; None removes a key."""
    data = found["data"]
    # a lasting key stays: what it encrypted could not be read any more
    own = [key for key in keys(wanted) if key not in wanted.get("fixed", {}) | wanted.get("lasting", {})]
    if state == "next":
        new = credential(wanted)
        for key in wanted.get("alternating", {}):
            present = base64.b64decode(data[key]).decode()
            new[key] = present.removesuffix(".2") if present.endswith(".2") else f"{present}.2"
        change: dict[str, str | None] = {SECOND + key: value for key, value in encoded(new).items()}
    elif state == "former":
        change = {key: data[SECOND + key] for key in own} | {SECOND + key: data[key] for key in own}
    else:
        change = {SECOND + key: None for key in own}
    return change | encoded({ROTATION: f"{run} {state}"})


def rotate(api: Api, namespace: str, wanted: dict[str, Any], state: str, run: str) -> dict[str, Any]:
    """Take a Secret of the plan one step on in a rotation.

    Raises:
        Failure: another one writes to it.
    """
    path = f"/api/v1/namespaces/{namespace}/secrets/{wanted['name']}"
    _, found = api.ask("GET", path)
    if state_of(found) in STATES[state]:
        version = found["metadata"]["resourceVersion"]
        change = {"metadata": {"resourceVersion": version}, "data": step(found, wanted, state, run)}
        if state == "former":
            change["metadata"]["annotations"] = {SWAPPED: f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"}
        query = "?fieldManager=iml4e-secrets"
        status, found = api.ask("PATCH", path + query, change, "application/merge-patch+json", known=(409,))
        if status == 409:
            raise Failure(f"Secret {wanted['name']} changed meanwhile: run `iml4e rotate` again.")
        print(f"Secret {wanted['name']}: {state}", flush=True)
    return found


def authorities(found: dict[str, Any]) -> str:
    """The certificate authorities to trust (base64): of the certificate in use, and of the second one while it rotates."""
    data = found["data"]
    if SECOND + "ca.crt" not in data:
        return data["ca.crt"]
    both = (base64.b64decode(data[key]).rstrip() + b"\n" for key in ("ca.crt", SECOND + "ca.crt"))
    return base64.b64encode(b"".join(both)).decode()


def trust(api: Api, path: str, secret: str, authority: str) -> None:
    """Write a certificate authority (base64) into a webhook configuration, as soon as that names the Secret.

    One that does not name it yet is an older one, which a later step of the same upgrade replaces.

    Raises:
        Failure: it does not name the Secret for ten minutes.
    """
    end = time.monotonic() + WEBHOOKS_PATIENCE
    path = f"/apis/admissionregistration.k8s.io/v1/{path}"
    print(f"waiting for {path.rpartition('v1/')[2]} to name Secret {secret}", flush=True)
    while True:
        status, found = api.ask("GET", path, known=(404,))
        if status == 200 and (found["metadata"].get("annotations") or {}).get(CA_FROM) == secret:
            break
        if time.monotonic() > end:
            raise Failure(
                f"{path.rpartition('/')[2]}: no webhook configuration with annotation {CA_FROM}: {secret}. Apply the whole chart."
            )
        time.sleep(1)
    if all(webhook["clientConfig"].get("caBundle") == authority for webhook in found["webhooks"]):
        return
    change = {
        "webhooks": [{"name": each["name"], "clientConfig": {"caBundle": authority}} for each in found["webhooks"]]
    }
    api.ask("PATCH", f"{path}?fieldManager=iml4e-secrets", change, "application/strategic-merge-patch+json")
    print(f"{found['kind']} {found['metadata']['name']} trusts Secret {secret}", flush=True)


def main(plan: dict[str, Any], namespace: str, api: Api, state: str = "", run: str = "", *names: str) -> int:
    """Make what is missing, or with a state rotate; say what is wrong. Returns the exit code."""
    wrong = []
    for wanted in plan["secrets"]:
        if names and wanted["name"] not in names:
            continue
        try:
            found = make(api, namespace, os.uname().nodename, wanted)
            if state:
                found = rotate(api, namespace, wanted, state, run)
            for path in wanted.get("trustedBy", []):
                trust(api, path, wanted["name"], authorities(found))
        except Failure as failure:
            wrong.append(str(failure))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    api = Api(os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"])
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text()), (ACCOUNT / "namespace").read_text(), api, *sys.argv[2:]))
