"""The Job of `make demo`, with the configuration that the chart gives to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.common.paths import REPO
from scripts.platform import demo
from support.helm import NAMESPACE, RELEASE, render
from support.objects import find
from support.pod_security import violations

CA = {"global": {"caCertificate": {"existingSecret": "company-ca", "key": "root.pem"}}}


def config(values: dict[str, Any] | None = None) -> dict[str, str]:
    """The data of the runner's ConfigMap."""
    return find(render("laptop", values), "ConfigMap", f"{RELEASE}-runner")["data"]


def pod(values: dict[str, Any] | None = None, *words: str) -> dict[str, Any]:
    """The spec of the Job's pod."""
    described = demo.job(f"{RELEASE}-demo-wine-1", RELEASE, NAMESPACE, config(values), list(words))
    return described["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", [None, CA])
def test_restricted_pod_security_admits_the_job(values: dict[str, Any] | None) -> None:
    spec = pod(values)
    assert violations(spec) == []
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


def test_the_job_takes_image_account_and_configuration_of_its_release() -> None:
    spec = pod(None, "wine", "--engine", "kfp")
    (container,) = spec["containers"]
    assert container["image"] == config()["RUNTIME_IMAGE"]
    assert container["args"] == ["wine", "--engine", "kfp"]
    assert {"configMapRef": {"name": f"{RELEASE}-runner"}} in container["envFrom"]
    assert {"secretRef": {"name": f"{RELEASE}-s3-pipelines"}} in container["envFrom"]
    assert {"name": "IML4E_NAMESPACE", "value": NAMESPACE} in container["env"]
    assert find(render("laptop"), "ServiceAccount", spec["serviceAccountName"])


def test_rights_from_the_cloud_need_no_key() -> None:
    (container,) = pod({"runner": {"s3Secret": ""}})["containers"]
    assert [source for source in container["envFrom"] if "secretRef" in source] == []


def test_certificate_authorities_of_the_release_are_mounted() -> None:
    spec = pod(CA)
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "ca"]
    assert volume["secret"] == {"secretName": "company-ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}
    env = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
    assert {env[name] for name in demo.CA_VARIABLES} == {demo.CA}
    assert "ca" not in {volume["name"] for volume in pod()["volumes"]}
    bundle = pod({"global": {"caCertificate": {"existingConfigMap": "company-ca", "key": "cabundle.crt"}}})
    (volume,) = [volume for volume in bundle["volumes"] if volume["name"] == "ca"]
    assert volume["configMap"] == {"name": "company-ca", "items": [{"key": "cabundle.crt", "path": "ca.crt"}]}


def test_a_long_release_name_leaves_a_legal_name_for_the_job(tmp_path: Path) -> None:
    """A kubectl that has the ConfigMap, and keeps what it is told to create."""
    (tmp_path / "config").write_text(json.dumps({"data": config()}))
    (tmp_path / "kubectl").write_text(
        f'#!/bin/sh\ncase "$*" in *configmap*) cat {tmp_path}/config;; *create*) cat > {tmp_path}/created; exit 1;; esac\n'
    )
    (tmp_path / "kubectl").chmod(0o755)
    subprocess.run(
        [sys.executable, REPO / "scripts" / "demo", "digits", "--release", "r" * 39 + "-" + "x" * 13],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "IML4E_STATE": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    name = json.loads((tmp_path / "created").read_text())["metadata"]["name"]
    assert len(name) <= 63
    assert name.startswith("r" * 39 + "-demo-digits-")
