"""What an upgrade tells of its endpoints and of the objects that it reads."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from iml4e import Error, cli, rehearsal, upgrade

CRON = "apiVersion: batch/v1\nkind: CronJob\nmetadata:\n  name: ml-mlflow-gc\nspec:\n  schedule: SCHEDULE\n"
ROUTE = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: ml-mlflow\n"
MONITOR = "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata:\n  name: ml-pods\n"
SERVER = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: ml-gateway\n"
CRD = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: httproutes\nspec:\n  group: gateway.networking.k8s.io\n"
#: What kubectl says of an object, by a word in it; `create` of it, by the word after a bar.
SAID = {
    "LATE": 'The CronJob "ml-mlflow-gc" is invalid: spec.schedule: Invalid value: "0 24 * * *": end of range (24) above maximum (23): 24',
    "LATE|create": 'The CronJob "ml-mlflow-gc" is invalid: spec.schedule: Invalid value: "0 24 * * *": end of range (24) above maximum (23): 24',
    "TWICE": 'The CronJob "ml-mlflow-gc" is invalid: \n* spec.schedule: Invalid value: "a": no\n* spec.jobTemplate: Required value',
    "BERLN": 'The CronJob "ml-mlflow-gc" is invalid: spec.timeZone: Invalid value: "Europe/Berln": unknown time zone Europe/Berln',
    "HTTPRoute": 'error: resource mapping not found for name: "ml-mlflow" namespace: "" from "STDIN": no matches for kind "HTTPRoute" in version '
    '"gateway.networking.k8s.io/v1"\nensure CRDs are installed first',
    "PodMonitor": 'error: resource mapping not found for name: "ml-pods" namespace: "" from "STDIN": no matches for kind "PodMonitor" in version '
    '"monitoring.coreos.com/v1"\nensure CRDs are installed first',
    "NODRY": 'Error from server (BadRequest): admission webhook "a.b.c" does not support dry run',
    "EDITED": 'error: Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas\nPlease review the fields above--they',
    "MERGED": 'The CronJob "ml-mlflow-gc" is invalid: spec.env: Invalid value: "": may not be specified when `value` is not empty',
    "MERGED|create": 'Error from server (AlreadyExists): error when creating "STDIN": cronjobs.batch "ml-mlflow-gc" already exists',
    "kind: Namespaced": "",
    "elsewhere": 'Error from server (NotFound): namespaces "elsewhere" not found',
}  # fmt: skip
HELM = """
last = sys.argv[-1]
if sys.argv[1] == "history":
    print(json.dumps([{"revision": 3, "status": "deployed", "chart": "iml4e-0.1.0", "updated": ""}]))
elif sys.argv[1:3] == ["get", "metadata"]:
    print(json.dumps({"applyMethod": facts["method"]}))
elif sys.argv[1] == "get":
    print("{}")
elif sys.argv[1] == "show":
    print("version: 0.2.0")
elif sys.argv[1] == "template":
    print("---\\n".join(facts["crds"] + facts["things"]))
elif "--dry-run=server" in sys.argv:
    if facts["unknown"]:
        sys.exit('Error: no matches for kind "HTTPRoute" in version "gateway.networking.k8s.io/v1"')
    print(json.dumps({"manifest": "---\\n".join(facts["things"])}))
"""
KUBECTL = """
given, said = sys.stdin.read(), []
for word, line in facts["said"].items():
    word, _, verb = word.partition("|")
    conflict = "Apply failed" in line and "--force-conflicts" in sys.argv
    if word in given and (verb or "apply") == sys.argv[1] and line and not conflict:
        said.append(line)
if said and "--dry-run=server" in sys.argv:
    sys.exit("Warning: something\\n" + "\\n".join(said))
"""


class Cluster:
    """Programs of ours in the place of helm and kubectl: they answer as a release would, and note how they are called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A release that the server applies, with nothing to say against an upgrade."""
        self.folder = folder
        self.facts = {"said": SAID, "method": "ssa", "crds": [CRD], "things": [SERVER, ROUTE], "unknown": False}
        for name, body in (("helm", HELM), ("kubectl", KUBECTL)):
            (folder / name).write_text(
                f"#!{sys.executable} -S\nimport json, pathlib, sys\nhere = pathlib.Path(__file__).parent\n"
                f"facts = json.loads((here / 'facts').read_text())\n"
                f"print({name!r}, *sys.argv[1:], file=(here / 'calls').open('a'))\n{body}"
            )
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        for key, value in {"RELEASE": "ml", "NAMESPACE": "team", "URL": "http://127.0.0.1:9"}.items():
            monkeypatch.setenv(f"IML4E_{key}", value)

    def upgrade(
        self, *things: str, force: bool = False, skip_crds: bool = False, version: str = "", **facts: object
    ) -> list[str]:
        """Upgrade to a chart with these objects: what changed something."""
        (self.folder / "facts").write_text(json.dumps(self.facts | facts | ({"things": things} if things else {})))
        (self.folder / "calls").unlink(missing_ok=True)
        upgrade.upgrade("oci://x/iml4e", version=version, force=force, skip_crds=skip_crds, say=lambda _: None)
        return self.changes()

    def calls(self) -> list[str]:
        """All calls of the last upgrade."""
        return (self.folder / "calls").read_text().splitlines()

    def changes(self) -> list[str]:
        """Those that change something."""
        return [
            call
            for call in self.calls()
            if " ".join(call.split()[:2]) in ("helm upgrade", "kubectl apply", "kubectl create")
            and "--dry-run" not in call
        ]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Programs in the place of helm and kubectl."""
    return Cluster(tmp_path, monkeypatch)


@pytest.mark.parametrize("unknown", [False, True], ids=["kinds known", "kinds unknown"])
@pytest.mark.parametrize("method", ["ssa", "csa"])
def test_what_the_api_server_refuses_is_told_before_anything_changes(
    cluster: Cluster, method: str, unknown: bool
) -> None:
    late = CRON.replace("SCHEDULE", "LATE")
    with pytest.raises(Error) as refused:
        cluster.upgrade(SERVER, late, ROUTE, late, method=method, unknown=unknown)
    assert str(refused.value) == (
        'the API server refuses CronJob ml-mlflow-gc: spec.schedule: Invalid value: "0 24 * * *": end of range (24) above maximum (23): 24 '
        "(and 1 objects more); correct the values, then upgrade again; nothing was changed"
    )
    assert cluster.changes() == []
    with pytest.raises(Error, match="the API server refuses CronJob"):
        cluster.upgrade(SERVER, late, force=True, method=method)
    assert cluster.changes() == []


def test_sentences_of_the_api_server_become_one(cluster: Cluster) -> None:
    with pytest.raises(
        Error,
        match=r'gc: spec\.schedule: Invalid value: "a": no; spec\.jobTemplate: Required value; correct the values, then',
    ):
        cluster.upgrade(SERVER, CRON.replace("SCHEDULE", "TWICE"))
    zone = 'refuses CronJob ml-mlflow-gc: spec.timeZone: Invalid value: "Europe/Berln": unknown time zone Europe/Berln; set global.timeZone to a name of'
    with pytest.raises(Error, match=zone):
        cluster.upgrade(CRON.replace("SCHEDULE", "BERLN"))
    with pytest.raises(Error, match="refuses PodMonitor ml-pods: resource mapping not found for name"):
        cluster.upgrade(SERVER, MONITOR)
    with pytest.raises(
        Error, match=r"^Deployment ml-gateway was changed since by kubectl-edit: \.spec\.replicas; put what is to stay"
    ):
        cluster.upgrade(f"{SERVER}# EDITED\n", ROUTE)
    assert cluster.changes() == []


def test_what_the_upgrade_brings_is_no_reason_against_it(cluster: Cluster) -> None:
    """Kinds of the chart's CRDs, namespaces of its manifest, webhooks without a dry run, and conflicts that are taken over."""
    space = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: elsewhere\n"
    done = cluster.upgrade(SERVER, ROUTE, f"{SERVER}# NODRY\n", space)
    assert [call.split()[:2] for call in done] == [["kubectl", "apply"], ["helm", "upgrade"]]
    assert cluster.upgrade(f"{SERVER}# EDITED\n", force=True)
    assert cluster.upgrade(f"{SERVER}# EDITED\n", method="csa")
    with pytest.raises(Error, match='namespaces "elsewhere" not found'):
        cluster.upgrade(f"{SERVER}# elsewhere\n")
    with pytest.raises(Error, match=r'HTTPRoute ml-mlflow: .*no matches for kind "HTTPRoute"'):
        cluster.upgrade(SERVER, ROUTE, skip_crds=True)


def test_a_release_of_the_client_is_not_refused_for_what_only_the_server_merges(cluster: Cluster) -> None:
    merged = CRON.replace("SCHEDULE", "MERGED")
    assert cluster.upgrade(merged, method="csa")
    with pytest.raises(Error, match="may not be specified"):
        cluster.upgrade(merged, method="ssa")


def test_a_version_of_the_chart_reaches_every_call_of_helm(cluster: Cluster) -> None:
    cluster.upgrade(version="0.2.0")
    named = [call for call in cluster.calls() if "oci://x/iml4e" in call]
    assert [call.split()[1] for call in named] == ["show", "upgrade", "template", "upgrade"]
    assert [call for call in named if "oci://x/iml4e --version 0.2.0" not in call] == []
    cluster.upgrade()
    assert not [call for call in cluster.calls() if "--version" in call]


@pytest.mark.parametrize(("name", "module"), [("upgrade", upgrade), ("rehearse", rehearsal)])
def test_a_version_is_an_option_of_both_commands(name: str, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def called(chart: str, **options: object) -> None:
        given.update(options, chart=chart)
        raise Error("enough")

    monkeypatch.setattr(module, name, called)
    for words, version in (([], ""), (["--version", "1.2.3"], "1.2.3")):
        options = cli.parser().parse_args([name, "--chart", "oci://x/iml4e", *words])
        with pytest.raises(Error, match="enough"):
            options.run(options)
        assert (given["chart"], given["version"]) == ("oci://x/iml4e", version)


class Server(ThreadingHTTPServer):
    """Answers with its present status."""

    status = 200


class Handler(BaseHTTPRequestHandler):
    """Of the server above."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a port of its own."""
    with Server(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_downtime_lasts_from_the_first_failure_to_the_next_answer() -> None:
    page = upgrade.Endpoint("page", "")
    for begun, ended, trouble in (
        (0, 0.1, ""), (1, 1.1, "answer 502"), (2, 7, "no answer within 5 s"), (7, 7.2, ""), (8, 8.1, "answer 503"), (9, 9.1, ""),
    ):  # fmt: skip
        page.count(begun, ended, trouble)
    assert (page.requests, page.failed, page.longest, page.last) == (6, 3, 6.2, "answer 503")
    # still down at the end
    page.count(20, 20.1, "answer 503")
    page.count(40, 40.1, "answer 503")
    assert page.longest == pytest.approx(20.1)


def test_endpoints_are_asked_twice_a_second(server: Server) -> None:
    page = upgrade.Endpoint("page", f"http://127.0.0.1:{server.server_port}/")
    gone = upgrade.Endpoint("gone", "http://127.0.0.1:9/")
    with upgrade.Probe([page, gone]):
        time.sleep(0.7)
        server.status = 302
        time.sleep(0.5)
        server.status = 503
        time.sleep(0.5)
        server.status = 200
        time.sleep(0.5)
    assert 4 <= page.requests <= 6
    assert 1 <= page.failed <= 2
    assert 0.3 < page.longest < 1.5
    assert page.last == "answer 503"
    assert (gone.failed, gone.last) == (gone.requests, "ConnectionError")
    header, *rows = upgrade.text(upgrade.Report("iml4e", "1", "2", 2, [page, gone], []))
    assert header[:4] == ("ENDPOINT", "REQUESTS", "FAILED", "LONGEST DOWNTIME")
    assert [row[0] for row in rows] == ["page", "gone"]


def test_an_upgrade_without_helm_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Error, match="there is no helm: an upgrade needs helm and kubectl on the PATH"):
        upgrade.upgrade("charts/iml4e")
