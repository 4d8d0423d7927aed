"""The program that makes the Secrets of a release: what it makes, what it leaves alone, what it says."""

from __future__ import annotations

import base64
import datetime
import http.server
import json
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store

from support.secrets import (
    ANNOTATIONS,
    CERTIFICATE,
    KEY,
    LASTING,
    PASSWORD,
    Cluster,
    decoded,
    make,
    make_secrets,
    webhooks,
)


def test_passwords_are_long_of_letters_and_digits_and_never_the_same() -> None:
    made = {make_secrets.password(32) for _ in range(100)}
    assert len(made) == 100
    assert {len(word) for word in made} == {32}
    assert all(word.isalnum() and word.isascii() for word in made)


def test_a_missing_secret_is_made_as_the_plan_says() -> None:
    cluster = Cluster()
    assert make(cluster, PASSWORD) == 0
    made = cluster.objects["db"]
    assert decoded(made)["username"] == "ann"
    assert len(decoded(made)["password"]) == 32
    assert (made["type"], made["metadata"]["labels"], made["metadata"]["annotations"]) == (
        "Opaque",
        {"a": "b"},
        {**ANNOTATIONS, "address": "here"},
    )


def test_an_encryption_key_is_one_that_mlflow_takes() -> None:
    made = set()
    for _ in range(20):
        cluster = Cluster()
        assert make(cluster, LASTING) == 0
        made.add(decoded(cluster.objects["lasting"])["encryptionKey"])
    assert len(made) == 20
    assert all(Fernet(key).decrypt(Fernet(key).encrypt(b"secret")) == b"secret" for key in made)
    assert make(Cluster({"metadata": {"name": "lasting"}, "data": {}}), LASTING) == 1, "a Secret without the key"


def test_a_second_run_changes_nothing() -> None:
    cluster = Cluster(webhooks(**{"iml4e/ca-from": "webhook"}))
    assert make(cluster, PASSWORD, CERTIFICATE) == 0
    before, cluster.written = json.dumps(cluster.objects), []
    assert make(cluster, PASSWORD, CERTIFICATE) == 0
    assert (json.dumps(cluster.objects), cluster.written) == (before, [])


def test_a_secret_of_somebody_else_keeps_its_data(capsys: pytest.CaptureFixture[str]) -> None:
    data = make_secrets.encoded({"username": "bob", "password": "x", "more": "y"})
    cluster = Cluster({"metadata": {"name": "db"}, "data": dict(data)})
    assert make(cluster, PASSWORD) == 0
    assert cluster.objects["db"]["data"] == data
    assert cluster.objects["db"]["metadata"]["annotations"] == {"address": "here"}
    assert "Secret db keeps its username" in capsys.readouterr().out


@pytest.mark.parametrize("data", [None, {}, {"password": ""}], ids=["no data", "empty", "an empty value"])
def test_a_secret_that_lacks_a_key_is_told_and_left_alone(data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster({"metadata": {"name": "db"}, "data": data})
    assert make(cluster, PASSWORD, {**PASSWORD, "name": "other"}) == 1
    told = capsys.readouterr().err
    assert "Secret db is there, but lacks username, password: add what is missing" in told
    # a sync alone starts no Job that has ended
    assert "delete this Job and sync" in told
    # the others are made all the same
    assert cluster.written == ["other"]


def test_a_certificate_that_cert_manager_made_is_not_taken() -> None:
    """The Secret would not be renewed any more, and expire."""
    theirs = {
        "metadata": {"name": "webhook", "annotations": {"cert-manager.io/certificate-name": "webhook"}},
        "data": dict.fromkeys(("ca.crt", "tls.crt", "tls.key"), "eA=="),
    }
    api = Cluster(theirs)
    with pytest.raises(make_secrets.Failure, match="Secret webhook is cert-manager's"):
        make_secrets.make(api, "ns", "pod", CERTIFICATE)
    assert api.written == []


def test_a_try_that_was_overtaken_takes_what_the_other_made() -> None:
    first = Cluster()
    make(first, PASSWORD)

    class Late(Cluster):
        """The Secret appears between the question and the answer."""

        def ask(self, method: str, path: str, *rest: Any, **more: Any) -> tuple[int, Any]:
            if method == "PATCH":
                self.objects = first.objects
            return super().ask(method, path, *rest, **more)

    late = Late()
    before = json.dumps(first.objects)
    assert make(late, PASSWORD) == 0
    assert json.dumps(late.objects) == before


def test_the_certificate_is_good_for_its_host_and_nothing_else() -> None:
    made = {key: value.encode() for key, value in make_secrets.certificate("hook.ns.svc").items()}
    authority, server = (x509.load_pem_x509_certificate(made[key]) for key in ("ca.crt", "tls.crt"))
    builder = PolicyBuilder().store(Store([authority]))
    assert builder.build_server_verifier(x509.DNSName("hook.ns.svc")).verify(server, []) == [server, authority]
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("other.ns.svc")).verify(server, [])
    assert server.not_valid_after_utc - datetime.datetime.now(datetime.UTC) > datetime.timedelta(days=3649)
    assert server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_webhooks_trust_the_authority_once_they_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_secrets.time, "sleep", lambda _: None)
    cluster = Cluster(webhooks(**{"iml4e/ca-from": "webhook"}), late=3)
    assert make(cluster, CERTIFICATE) == 0
    authority = cluster.objects["webhook"]["data"]["ca.crt"]
    assert [each["clientConfig"]["caBundle"] for each in cluster.objects["hook"]["webhooks"]] == [authority] * 2
    assert cluster.objects["hook"]["webhooks"][0]["clientConfig"]["service"] == {"name": "hook"}


def test_webhooks_of_an_older_chart_or_of_cert_manager_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An apply that replaces them is under way, and would take away again what is written now."""
    monkeypatch.setattr(make_secrets, "WEBHOOKS_PATIENCE", -1)
    cluster = Cluster(webhooks(), PASSWORD_THERE)
    assert make(cluster, CERTIFICATE) == 1
    assert "hook" not in cluster.written
    assert "no webhook configuration with annotation iml4e/ca-from: webhook" in capsys.readouterr().err


PASSWORD_THERE = {"metadata": {"name": "db"}, "data": make_secrets.encoded({"username": "ann", "password": "x"})}


def test_an_image_without_cryptography_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert make(Cluster(), CERTIFICATE, PASSWORD) == 1
    assert "kserve.webhook.certificate.mode" in capsys.readouterr().err


@pytest.fixture
def account(tmp_path: Path) -> Iterator[tuple[Path, int, list[int]]]:
    """Files of a pod's account, and an API server on this machine that answers with the given statuses first."""
    made = make_secrets.certificate("localhost")
    for name, text in {"ca.crt": made["ca.crt"], "pair": made["tls.crt"] + made["tls.key"], "token": "t0ken"}.items():
        (tmp_path / name).write_text(text)
    statuses: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == "Bearer t0ken"
            self.send_response(statuses.pop(0) if statuses else 200 if allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"message": f"about {self.path}"}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, server.server_port, statuses
    server.shutdown()
    server.server_close()


def test_the_api_is_asked_again_while_it_is_away(
    account: tuple[Path, int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(make_secrets.time, "sleep", lambda _: None)
    folder, port, statuses = account
    api = make_secrets.Api("localhost", str(port), folder)
    statuses += [503, 403, 429, 401]
    assert api.ask("GET", "/a") == (200, {"message": "about /a"})
    statuses += [404]
    assert api.ask("GET", "/a", known=(404,))[0] == 404


def test_what_the_api_refuses_for_good_is_told_at_once(account: tuple[Path, int, list[int]]) -> None:
    folder, port, statuses = account
    statuses += [422]
    with pytest.raises(make_secrets.Failure, match=r"refuses GET /a \(422\): about /a\?b"):
        make_secrets.Api("localhost", str(port), folder).ask("GET", "/a?b")


def test_an_api_that_stays_away_is_told(account: tuple[Path, int, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_secrets, "PATIENCE", -1)
    with pytest.raises(make_secrets.Failure, match="no answer"):
        make_secrets.Api("localhost", "9", account[0]).ask("GET", "/a")


def test_an_address_of_ipv6_stands_in_brackets(account: tuple[Path, int, list[int]]) -> None:
    assert make_secrets.Api("fd00::1", "443", account[0]).url == "https://[fd00::1]:443"
    assert make_secrets.Api("198.18.0.1", "443", account[0]).url == "https://198.18.0.1:443"


def rotate(cluster: Cluster, state: str, *wanted: dict[str, Any], run: str = "one", names: tuple[str, ...] = ()) -> int:
    """Run the program for one step of a rotation."""
    return make_secrets.main({"secrets": list(wanted)}, "ns", cluster, state, run, *names)


@pytest.mark.parametrize("wanted", [PASSWORD, KEY], ids=["password", "key"])
def test_a_rotation_leaves_one_new_credential_and_has_two_meanwhile(wanted: dict[str, Any]) -> None:
    cluster = Cluster()
    make(cluster, wanted)
    turning = set(wanted["generated"]) | set(wanted.get("alternating", {}))
    states = [decoded(cluster.objects[wanted["name"]])]
    for state in ("next", "former", "done"):
        assert rotate(cluster, state, wanted) == 0
        states.append(decoded(cluster.objects[wanted["name"]]))
    before, following, former, after = states
    assert [values.pop("rotation") for values in states[1:]] == ["one next", "one former", "one done"]
    second = {key: following.pop(f"second.{key}") for key in turning}
    assert following == before
    assert all(second[key] != before[key] for key in turning)
    assert {key: former.pop(f"second.{key}") for key in turning} == {key: before[key] for key in turning}
    assert former == after == before | second
    assert "iml4e.org/swapped" in cluster.objects[wanted["name"]]["metadata"]["annotations"]


def test_the_name_of_a_key_alternates() -> None:
    cluster, names = Cluster(), []
    for run in ("one", "two", "three"):
        make(cluster, KEY)
        names.append(decoded(cluster.objects["key"])["AWS_ACCESS_KEY_ID"])
        for state in ("next", "former", "done"):
            rotate(cluster, state, KEY, run=run)
    assert names == ["ann", "ann.2", "ann"]


def test_a_step_is_taken_once_and_none_is_left_out() -> None:
    cluster = Cluster()
    make(cluster, PASSWORD)
    for state in ("former", "done"):  # nothing was begun
        before = json.dumps(cluster.objects)
        assert rotate(cluster, state, PASSWORD) == 0
        assert json.dumps(cluster.objects) == before
    for state in ("next", "former"):
        rotate(cluster, state, PASSWORD)
        before = json.dumps(cluster.objects)
        assert rotate(cluster, state, PASSWORD, run="two") == 0
        assert json.dumps(cluster.objects) == before
    assert rotate(cluster, "next", PASSWORD, run="two") == 0  # the former one is still valid
    assert decoded(cluster.objects["db"])["rotation"] == "one former"


def test_a_lasting_key_stays_whatever_an_earlier_command_asks_for() -> None:
    """Such a command names every Secret of the plan, and waits until each says that it rotated."""
    cluster = Cluster()
    make(cluster, LASTING)
    before = decoded(cluster.objects["lasting"])
    for state in ("next", "former", "done"):
        assert rotate(cluster, state, LASTING) == 0
        assert decoded(cluster.objects["lasting"]) == before | {"rotation": f"one {state}"}


def test_only_the_named_secrets_rotate() -> None:
    cluster = Cluster()
    make(cluster, PASSWORD, KEY)
    assert rotate(cluster, "next", PASSWORD, KEY, names=("key",)) == 0
    assert ["rotation" in decoded(cluster.objects[name]) for name in ("db", "key")] == [False, True]


def test_a_secret_that_another_writes_to_meanwhile_does_not_rotate(capsys: pytest.CaptureFixture[str]) -> None:
    class Changing(Cluster):
        """Another client changes the Secret between question and answer."""

        def ask(self, method: str, path: str, *rest: Any, **more: Any) -> tuple[int, Any]:
            if method == "PATCH" and "db" in self.objects:
                self.objects["db"]["metadata"]["resourceVersion"] = "9"
            return super().ask(method, path, *rest, **more)

    cluster = Changing()
    make(cluster, PASSWORD)
    before = decoded(cluster.objects["db"])
    assert rotate(cluster, "next", PASSWORD) == 1
    assert decoded(cluster.objects["db"]) == before
    assert "Secret db changed meanwhile: run `iml4e rotate` again." in capsys.readouterr().err


def test_webhooks_trust_both_authorities_while_the_certificate_rotates() -> None:
    cluster = Cluster(webhooks(**{"iml4e/ca-from": "webhook"}))
    make(cluster, CERTIFICATE)

    def trusted() -> list[bytes]:
        bundle = base64.b64decode(cluster.objects["hook"]["webhooks"][0]["clientConfig"]["caBundle"])
        return [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(bundle)]

    def own() -> bytes:
        pem = decoded(cluster.objects["webhook"])["ca.crt"].encode()
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)

    first = own()
    assert trusted() == [first]
    rotate(cluster, "next", CERTIFICATE)
    assert own() == first
    assert len(trusted()) == 2
    rotate(cluster, "former", CERTIFICATE)
    second = own()
    assert second != first
    assert set(trusted()) == {first, second}
    make(cluster, CERTIFICATE)  # an upgrade meanwhile
    assert set(trusted()) == {first, second}
    rotate(cluster, "done", CERTIFICATE)
    assert trusted() == [second]
