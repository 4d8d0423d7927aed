"""The hub's configuration, from the chart's values: run as JupyterHub runs it, without JupyterHub."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import importlib.util
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from support import helm

CONFIG = helm.CHART / "charts" / "notebooks" / "files" / "jupyterhub_config.py"


class Config(defaultdict):
    """Settings by class and name, as traitlets' own."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace)

    def __getattr__(self, name: str) -> SimpleNamespace:
        return self[name]


class Refused:
    """Stands in for the spawner: Kubernetes refuses each of its servers."""

    answer: str | None = '{"kind": "Status", "message": "exceeded quota: full"}'

    async def _start(self) -> None:
        error = RuntimeError("(403) Reason: Forbidden")
        error.body = self.answer  # type: ignore[attr-defined]
        raise error


@functools.cache
def defaults() -> str:
    """What the chart writes by default."""
    template = "charts/notebooks/templates/configmap.yaml"
    found = helm.helm("template", "iml4e", helm.CHART, "-n", "iml4e", "--set", "notebooks.enabled=true", "-s", template)
    return yaml.safe_load(found)["data"]["settings.json"]


def configure(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Config, dict[str, Any]]:
    """Run the file; changes are of settings.json, by path."""
    settings = json.loads(defaults())
    settings = helm.merged(settings, changes)
    (folder / "settings.json").write_text(json.dumps(settings))
    for name in ("password", "adminPassword", "cookieSecret", "clientSecret"):
        (folder / name).write_text(f"{name}-0123456789abcdef0123456789abcdef\n")
    for name, path in {"SETTINGS": folder / "settings.json", "PASSWORDS": folder, "PROXY": folder / "proxy"}.items():
        monkeypatch.setenv(name, str(path))
    (folder / "proxy").mkdir(exist_ok=True)
    # the client of Kubernetes' API is no package of this environment
    monkeypatch.setitem(sys.modules, "lazy", SimpleNamespace(install=lambda *names: None))
    monkeypatch.setitem(sys.modules, "kubespawner", SimpleNamespace(KubeSpawner=Refused))
    c = Config()
    namespace: dict[str, Any] = {"get_config": lambda: c}
    exec(compile(CONFIG.read_text(), CONFIG, "exec"), namespace)
    return c, namespace


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the file with changed settings."""
    return lambda **changes: configure(tmp_path, monkeypatch, **changes)


def pod() -> Any:
    """A pod as the spawner makes it."""
    container = SimpleNamespace(resources={"limits": {"nvidia.com/gpu": "1"}}, env=["own"])
    spec = SimpleNamespace(containers=[container], node_selector={"a": "b"}, tolerations=["all"])
    return SimpleNamespace(spec=spec, metadata=SimpleNamespace(labels={"x": "y"}, annotations={}))


def test_everybody_with_the_password_or_those_on_the_list(run: Any) -> None:
    c, _ = run()
    assert c.JupyterHub.authenticator_class == "shared-password"
    assert c.Authenticator.allow_all
    assert c.SharedPasswordAuthenticator.user_password.startswith("password-")
    assert "admin_password" not in vars(c.SharedPasswordAuthenticator)
    c, _ = run(login={"users": ["bob"], "admins": ["carol"]})
    assert c.SharedPasswordAuthenticator.admin_password.startswith("adminPassword-")
    assert not c.Authenticator.allow_all
    assert (c.Authenticator.allowed_users, c.Authenticator.admin_users) == ({"bob"}, {"carol"})


@pytest.mark.parametrize("limits", [{"users": ["bob"]}, {"oidc": {"groups": ["ml"]}}])
def test_an_identity_provider_admits_all_only_without_limits(run: Any, limits: dict[str, Any]) -> None:
    c, _ = run(login={"mode": "oidc"}, publicUrl="https://ml.example.org")
    assert c.JupyterHub.authenticator_class == "generic-oauth"
    assert c.Authenticator.allow_all
    assert c.GenericOAuthenticator.oauth_callback_url == "https://ml.example.org/notebooks/hub/oauth_callback"
    assert c.GenericOAuthenticator.client_secret.startswith("clientSecret-")
    assert not vars(c.SharedPasswordAuthenticator)
    c, _ = run(login=helm.merged({"mode": "oidc"}, limits))
    assert not c.Authenticator.allow_all


def test_nothing_of_a_former_profile_stays(run: Any) -> None:
    _, there = run(
        server={"extraEnv": [{"name": "A", "value": "{b}"}], "podAnnotations": {"n": "{}"}, "podLabels": {"t": "u"}}
    )
    made = there["shape"](SimpleNamespace(user_options={"profile": "large"}), pod())
    container = made.spec.containers[0]
    assert container.resources == there["PROFILES"]["large"]["resources"]
    assert container.env == ["own", {"name": "A", "value": "{b}"}]
    assert (made.metadata.labels, made.metadata.annotations) == ({"x": "y", "t": "u"}, {"n": "{}"})
    assert (made.spec.node_selector, made.spec.tolerations) == ({"a": "b"}, ["all"])
    assert made.spec.affinity is None


@pytest.mark.parametrize("options", [None, {}, {"profile": ""}])
def test_without_a_choice_the_first_profile_counts(run: Any, options: dict[str, str] | None) -> None:
    c, there = run()
    made = there["shape"](SimpleNamespace(user_options=options), pod())
    assert made.spec.containers[0].resources == there["PROFILES"]["small"]["resources"]
    assert [each["slug"] for each in c.KubeSpawner.profile_list] == ["small", "large"]


@pytest.mark.parametrize(("former", "kept"), [("gpu", {}), ("large", {"profile": "large"})])
def test_a_profile_that_is_gone_is_forgotten(run: Any, former: str, kept: dict[str, str]) -> None:
    _, there = run()
    spawner = SimpleNamespace(user_options={"profile": former})
    there["forget"](spawner)
    assert spawner.user_options == kept


def test_a_profile_has_nodes_of_its_own(run: Any) -> None:
    own = {"nodeSelector": {"pool": "huge"}, "tolerations": [{"key": "huge"}]}
    _, there = run(profiles={"small": own})
    made = there["shape"](SimpleNamespace(user_options={}), pod())
    assert (made.spec.node_selector, made.spec.tolerations) == (own["nodeSelector"], own["tolerations"])


@pytest.mark.parametrize(("age", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172800)])
def test_idle_servers_end(run: Any, age: str, seconds: int) -> None:
    c, _ = run(server={"idleAfter": age})
    assert f"--MappingKernelManager.cull_idle_timeout={seconds}" in c.KubeSpawner.args
    assert "--MappingKernelManager.cull_connected=True" in c.KubeSpawner.args
    assert "--MappingKernelManager.cull_busy=False" in c.KubeSpawner.args


def test_idle_servers_stay_where_values_say_so(run: Any) -> None:
    c, _ = run(server={"idleAfter": "0s"})
    assert not [each for each in c.KubeSpawner.args if "cull" in each or "shutdown" in each]


def test_the_proxys_password_outlives_the_hub(run: Any, tmp_path: Path) -> None:
    """Routes on disk have the hash of the former one: with another password, a hub that starts anew in the same pod would wait in vain."""
    c, _ = run()
    again, _ = run()
    assert c.TraefikProxy.traefik_api_password == again.TraefikProxy.traefik_api_password
    assert len(c.TraefikProxy.traefik_api_password) == 64
    assert (tmp_path / "proxy" / "password").stat().st_mode & 0o77 == 0
    digest = hashlib.sha1(c.TraefikProxy.traefik_api_password.encode()).digest()
    assert c.TraefikProxy.traefik_api_hashed_password == "{SHA}" + base64.b64encode(digest).decode()


def test_no_account_means_no_token(run: Any) -> None:
    c, _ = run()
    assert (c.KubeSpawner.service_account, c.KubeSpawner.automount_service_account_token) == ("iml4e-runner", True)
    c, _ = run(server={"serviceAccount": ""})
    assert (c.KubeSpawner.service_account, c.KubeSpawner.automount_service_account_token) == (None, False)


def test_files_stay(run: Any) -> None:
    c, _ = run()
    assert c.KubeSpawner.delete_pvc is False
    assert c.JupyterHub.cleanup_servers is False
    assert {"name": "home", "mountPath": c.KubeSpawner.environment["HOME"]} in c.KubeSpawner.volume_mounts


def test_a_lazy_package_imports_what_is_asked_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sub = tmp_path / "bulky" / "client"
    (sub / "models").mkdir(parents=True)
    (sub / "models" / "__init__.py").write_text("from bulky.client.used import Used\n")
    (tmp_path / "bulky" / "__init__.py").write_text("import bulky.client as client\n")
    (sub / "__init__.py").write_text("from bulky.client.used import Used\nfrom bulky.client.unused import Unused\n")
    (sub / "used.py").write_text("class Used: pass\n")
    (sub / "unused.py").write_text("raise AssertionError('nobody asked')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.util.spec_from_file_location("lazy_of_the_chart", CONFIG.with_name("lazy.py"))
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    lazy.install("bulky", "client", "client.models")
    try:
        from bulky import client
        from bulky.client import Used

        assert client.Used is client.models.Used is Used
        assert not hasattr(client, "Missing")
        assert "bulky.client.unused" not in sys.modules
        with pytest.raises(AssertionError, match="nobody asked"):
            client.Unused  # noqa: B018
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "bulky"]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Refused.answer, "Kubernetes refuses the server: exceeded quota: full"),
        ("<html>", None),
        (None, None),
        ('{"kind": "Status"}', None),
    ],
)
def test_a_refused_server_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, told: str | None
) -> None:
    c, _ = configure(tmp_path, monkeypatch)
    server = c.JupyterHub.spawner_class()
    server.answer = answer
    with pytest.raises(RuntimeError, match="Forbidden") as raised:
        asyncio.run(server._start())
    assert getattr(raised.value, "jupyterhub_message", None) == told
