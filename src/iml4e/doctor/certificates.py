"""Certificates: their dates, names, and the authority that signed them."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from iml4e.cluster import RefusedError
from iml4e.doctor.faults import Finding
from iml4e.doctor.state import State

#: Days before its last in which a certificate is told.
SOON = 14


def of_secret(state: State, namespace: str, name: str, check: str) -> bytes:
    """The certificate in a Secret, as PEM; empty if there is none, or no right to read it."""
    try:
        data = state.cluster.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}").get("data") or {}
    except RefusedError as error:
        if error.status != 404:
            state.skip(f"certificate of {check}", f"this account may not get Secret {name} in namespace {namespace}")
        return b""
    return base64.b64decode(data.get("tls.crt", ""))


def read(pem: bytes) -> Any:
    """The first certificate of PEM text; None if there is none."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        return None


def dates(state: State, pem: bytes, about: str, secret: str, namespace: str) -> Iterator[Finding]:
    """Whether a certificate is valid now, and for some days."""
    certificate = read(pem)
    if not certificate:
        yield state.finding("certificate-expired", about, "its tls.crt is no certificate", name=secret, other=namespace)
        return
    now, first, last = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    fields = {"name": secret, "other": namespace}
    if now > last:
        yield state.finding(
            "certificate-expired", about, f"its certificate expired on {last:%Y-%m-%d %H:%M} UTC", **fields
        )
    elif now < first:
        yield state.finding(
            "certificate-expired", about, f"its certificate is valid only from {first:%Y-%m-%d %H:%M} UTC", **fields
        )
    elif (last - now).days < SOON:
        text = f"its certificate ends on {last:%Y-%m-%d %H:%M} UTC, in {(last - now).days} days"
        yield state.finding("certificate-soon", about, text, **fields)


def hosts(pem: bytes) -> list[str]:
    """Host names and addresses of a certificate."""
    from cryptography import x509

    certificate = read(pem)
    if not certificate:
        return []
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(each.value) for each in names]


def covers(pem: bytes, host: str) -> bool:
    """Whether a certificate is for a host; true for text that is no certificate, which `dates` tells."""
    known = hosts(pem)
    wildcard = "*." + host.partition(".")[2]
    return not read(pem) or host in known or wildcard in known


def untrusted(pem: bytes, bundle: bytes) -> str:
    """Why a bundle of authorities does not vouch for a certificate; empty if it does."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    certificate = read(pem)
    if not certificate:
        return ""
    if not bundle.strip():
        return "its caBundle is empty"
    try:
        authorities = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return "its caBundle is no certificate"
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
            return ""
        except (ValueError, TypeError, InvalidSignature):
            if authority == certificate:
                return ""
    try:  # through intermediates of the same Secret
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        chain = [certificate]
    for link in chain[1:]:
        for authority in authorities:
            try:
                link.verify_directly_issued_by(authority)
                return ""
            except (ValueError, TypeError, InvalidSignature):
                continue
    return f"its caBundle has {authorities[0].subject.rfc4514_string()}, the certificate is by {certificate.issuer.rfc4514_string()}"
