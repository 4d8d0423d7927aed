"""What a rehearsal and a purge conclude from what they read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from iml4e import Error, rehearsal
from scripts.platform import purge


def report(tables: list[rehearsal.Table], objects: dict[str, tuple[int, int]] | None = None) -> rehearsal.Report:
    """A report."""
    return rehearsal.Report(
        "iml4e",
        "0.2.0",
        "0.3.0",
        tables,
        objects or {},
        [],
        ["Role/a"],
        ["Deployment/b"],
        ["Deployment/b"],
        {"copy": 2.4},
        10**6,
    )


def test_tables_are_compared_by_rows_and_columns() -> None:
    before = {
        "db.same": (2, {"a": "1", "b": "2"}), "db.grown": (1, {"a": "1"}), "db.wider": (3, {"a": "1"}), "db.gone": (0, {"a": "0"}),
        "db.lost": (5, {"a": "1"}), "db.narrower": (5, {"a": "1", "b": "2"}), "db.rewritten": (1, {"a": "1"}), "db.dropped": (1, {"a": "1"}),
        "db.empty": (0, {"a": "0", "b": "0"}),
    }  # fmt: skip
    after = {
        "db.same": (2, {"b": "2", "a": "1"}), "db.grown": (2, {"a": "3"}), "db.wider": (3, {"a": "1", "n": "0"}), "db.new": (0, {"a": "0"}),
        "db.lost": (4, {"a": "2"}), "db.narrower": (5, {"a": "1"}), "db.rewritten": (1, {"a": "9"}), "db.empty": (0, {"a": "0"}),
    }  # fmt: skip
    tables = {table.name: table for table in rehearsal._compared(before, after)}
    assert {name for name, table in tables.items() if table.loses} == {"db.lost", "db.narrower", "db.dropped"}
    assert {name: table.changed for name, table in tables.items() if table.changed} == {
        "db.grown": ["~ a"], "db.wider": ["+ n"], "db.lost": ["~ a"], "db.narrower": ["- b"], "db.rewritten": ["~ a"],
    }  # fmt: skip
    assert (tables["db.new"].rows, tables["db.gone"].now) == (None, None)


def test_a_report_says_what_is_less() -> None:
    good = report([rehearsal.Table("db.a", 2, 2), rehearsal.Table("db.b", None, 1)], {"mlflow": (3, 3)})
    lines = list(rehearsal.text(good))
    assert good.loses == []
    assert lines[-1] == "nothing is lost"
    assert "1 tables with 2 rows stay as they are, by checksum of each column" in lines
    assert "table db.b is new, 1 rows" in lines
    assert "replaces the pods of Deployment/b" in lines
    bad = report([rehearsal.Table("db.a", 2, 1, ["- name"])], {"mlflow": (3, 2)})
    assert bad.loses == ["table db.a", "objects of bucket mlflow"]
    assert list(rehearsal.text(bad))[-1] == "LESS than before: table db.a, objects of bucket mlflow"
    assert "table db.a: 2 rows, then 1; - name" in list(rehearsal.text(bad))


def test_a_rehearsal_without_helm_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Error, match="there is no helm: a rehearsal needs helm and kubectl on the PATH"):
        rehearsal.rehearse("charts/iml4e")


def test_secrets_and_configmaps_are_found_wherever_a_pod_names_them() -> None:
    pod = {
        "imagePullSecrets": [{"name": "pull"}],
        "initContainers": [{"name": "init", "envFrom": [{"secretRef": {"name": "env"}}, {"configMapRef": {"name": "env"}}]}],
        "containers": [{
            "name": "main",
            "env": [
                {"name": "A", "value": "text"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "key", "key": "b"}}},
                {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "twice", "key": "c", "optional": True}}},
            ],
        }],
        "volumes": [
            {"name": "a", "secret": {"secretName": "volume"}}, {"name": "b", "configMap": {"name": "twice"}},
            {"name": "c", "projected": {"sources": [{"secret": {"name": "projected", "optional": True}}]}},
            {"name": "d", "secret": {"secretName": "planned"}}, {"name": "e", "configMap": {"name": "rendered"}},
        ],
    }  # fmt: skip
    template = {"metadata": {"labels": {"secret": "none"}}, "spec": pod}
    plan = {"plan.json": json.dumps({"secrets": [{"name": "planned"}]})}
    things: list[dict[str, Any]] = [
        {"kind": "ConfigMap", "metadata": {"name": "rendered"}, "data": plan},
        {"kind": "ConfigMap", "metadata": {"name": "empty"}, "data": None},
        {"kind": "NetworkPolicy", "metadata": {"name": "a"}, "spec": {"secret": {"name": "no pod"}}},
    ]
    wanted = {
        ("Secret", "pull"): False, ("Secret", "env"): True, ("ConfigMap", "env"): True, ("Secret", "key"): True,
        ("ConfigMap", "twice"): True, ("Secret", "volume"): True, ("Secret", "projected"): False,
    }  # fmt: skip
    for maker in (
        {"kind": "Pod", "metadata": {"name": "a"}, "spec": pod},
        {"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": template}},
        {"kind": "CronJob", "metadata": {"name": "a"}, "spec": {"jobTemplate": {"spec": {"template": template}}}},
    ):
        assert rehearsal.named([*things, maker]) == wanted


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> Path:
    """Programs of ours in the place of helm and kubectl; they note how they are called."""
    notes = folder / "notes"
    for name, body in programs.items():
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >>{notes}\ncase "$*" in\n{body}\nesac\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("IML4E_RELEASE", "ml")
    monkeypatch.setenv("IML4E_NAMESPACE", "team")
    return notes


def test_a_secret_is_copied_by_its_name_or_by_that_of_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing = '{"kind": "Secret", "metadata": {"name": "x", "uid": "1"}, "data": {"a": "YQ=="}, "type": "Opaque"}'
    made = tmp_path / "made"
    notes = fake(
        tmp_path, monkeypatch,
        kubectl=f"""*apply*) cat >>{made}; echo >>{made} ;;\n"get namespace ml-rehearsal "*) ;;\n*" get Secret missing "*) ;;\n*" get Secret "*) echo '{thing}' ;;\n*) echo '{{"metadata": {{}}}}' ;;""",
    )  # fmt: skip
    copy = rehearsal._Rehearsal("chart", [], tmp_path, print)
    pod = {"imagePullSecrets": [{"name": "missing"}], "containers": [{"envFrom": [{"secretRef": {"name": "token"}}, {"secretRef": {"name": "ml-rehearsal-own"}}]}]}  # fmt: skip
    copy.things = [{"kind": "Pod", "metadata": {"name": "a"}, "spec": pod}]
    copy._namespace()
    _, *secrets = [json.loads(line) for line in made.read_text().splitlines()]
    assert [each["metadata"] for each in secrets] == [
        {"name": "ml-rehearsal-own", "namespace": "ml-rehearsal"}, {"name": "token", "namespace": "ml-rehearsal"},
    ]  # fmt: skip
    assert {json.dumps(each["data"]) for each in secrets} == {'{"a": "YQ=="}'}
    assert "-n team get Secret ml-own " in notes.read_text()
    pod["containers"][0]["envFrom"] = [{"secretRef": {"name": "missing"}}]
    with pytest.raises(
        Error, match="Secret missing is not in namespace team, and pods of the new version wait for it: make"
    ):
        copy._namespace()


def test_databases_elsewhere_are_read_by_the_image_of_the_new_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Helm knows no values, and so no image, of a part that is off."""
    made = tmp_path / "made"
    fake(tmp_path, monkeypatch, kubectl=f"*apply*) cat >>{made} ;;")
    copy = rehearsal._Rehearsal("chart", [], tmp_path, print)
    spec = {"template": {"spec": {"containers": [{"name": "mariadb", "image": "mirror.example.org/mariadb:11.8"}]}}}
    copy.things = [{"kind": "StatefulSet", "metadata": {"name": "ml-rehearsal-mariadb"}, "spec": spec}]
    assert copy._source({"mariadb": {"enabled": False, "global": {}}, "global": {}})[-2:] == ["ml-rehearsal", "--"]
    assert json.loads(made.read_text())["spec"]["containers"][0]["image"] == "mirror.example.org/mariadb:11.8"


def test_a_release_without_databases_has_nothing_to_rehearse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(
        tmp_path, monkeypatch,
        helm="""*"get manifest"*) ;;\n"show chart"*) echo "version: 1.0.0" ;;\n"upgrade"*) echo '{"manifest": ""}' ;;\n*) echo '{"mlflow": {"enabled": false}}' ;;""",
        kubectl="*) ;;",
    )  # fmt: skip
    with pytest.raises(
        Error, match="release ml has no database to copy, as mlflow and pipelines are off: upgrade it without a"
    ):
        rehearsal.rehearse("chart")
    copy = rehearsal._Rehearsal("chart", [], tmp_path, print)
    shared = {"s3": {"endpoint": "http://s3", "region": "a"}}
    assert copy._objects("copy", 5, {"global": shared, "mlflow": {"enabled": False}}) == {}


@pytest.mark.parametrize("version", ["", "0.2.0"])
def test_a_version_of_the_chart_reaches_every_call_of_helm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    notes = fake(
        tmp_path, monkeypatch,
        helm="""*"get manifest"*) ;;\n"show chart"*) echo "version: 0.2.0" ;;\n"upgrade ml "*) echo '{"manifest": ""}' ;;\nesac\ncase x in""",
    )  # fmt: skip
    copy = rehearsal._Rehearsal("oci://x/iml4e", [], tmp_path, print, version)
    assert copy._about() == "0.2.0"
    copy._changes()
    copy._rendered(["mlflow"])
    copy._install("stores", [], first=True)
    copy._install("parts", ["mlflow"])
    named = [call for call in notes.read_text().splitlines() if "oci://x/iml4e" in call]
    assert [call.split()[1] for call in named] == ["show", "upgrade", "template", "install", "upgrade"]
    assert all(("oci://x/iml4e --version 0.2.0 " in f"{call} ") == bool(version) for call in named)
    assert all(("--version" in call) == bool(version) for call in named)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-26T10:11:51Z", 1795687911), ("2026-11-26T10:11:51.123456789Z", 1795687911),
        ("2026-11-26T11:11:51.123456789+01:00", 1795687911), ("2026-11-26T11:11:51+01:00", 1795687911),
    ],
)  # fmt: skip
def test_times_of_helm_and_kubernetes_are_read(text: str, seconds: int) -> None:
    assert purge.moment(text) == seconds


def test_a_purge_that_nobody_confirms_deletes_nothing(tmp_path: Path) -> None:
    """With programs of ours in the place of kubectl and helm, which note what is deleted."""
    notes = tmp_path / "notes"
    secret = '{"items": [{"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "iml4e-minio", "namespace": "iml4e", "uid": "1"}}]}'
    (tmp_path / "kubectl").write_text(
        f'#!/bin/bash\ncase "$*" in\n*delete*|*patch*) echo "$*" >>{notes} ;;\n"get secrets"*) echo \'{secret}\' ;;\n'
        '"get namespace"*) echo \'{"metadata": {"name": "iml4e"}}\' ;;\n*) echo \'{"items": []}\' ;;\nesac\n'
    )
    (tmp_path / "helm").write_text(
        f'#!/bin/bash\ncase "$*" in\nuninstall*) echo "$*" >>{notes} ;;\nstatus*) exit 1 ;;\n*) echo "[]" ;;\nesac\n'
    )
    for name in ("kubectl", "helm"):
        (tmp_path / name).chmod(0o755)
    program = Path(purge.__file__).parents[1] / "purge"
    for words in ([], ["--yes", "another"]):
        done = subprocess.run(
            ["python3", program, *words], env={"PATH": f"{tmp_path}:/usr/bin:/bin", "KUBECONFIG": "/none"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert "Secret/iml4e-minio" in done.stdout
        assert "Run it with --yes iml4e to delete all that is listed above" in done.stderr
        assert not notes.exists()
