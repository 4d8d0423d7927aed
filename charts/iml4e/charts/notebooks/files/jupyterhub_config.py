"""JupyterHub's configuration: settings.json has the chart's values, the Secret has the passwords.

Everything that a user's pod may be is here; the hub's Role says what the hub may do.
"""

import base64
import contextlib
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(os.environ["SETTINGS"]).parent))
import lazy

SETTINGS = json.loads(Path(os.environ["SETTINGS"]).read_text())
PASSWORDS = Path(os.environ["PASSWORDS"])
#: Folder that the hub shares with the proxy, which reads the routes there.
PROXY = Path(os.environ["PROXY"])
HOME = "/home/notebook"
LOGIN, SERVER, PROFILES = SETTINGS["login"], SETTINGS["server"], SETTINGS["profiles"]

# the spawner's client
lazy.install("kubernetes_asyncio", "client", "client.models", "client.api")
from kubespawner import KubeSpawner  # noqa: E402 - after its client is lazy

c = get_config()  # noqa: F821 - a name that JupyterHub gives to this file


def password(name: str) -> str:
    """A value of the Secret."""
    return (PASSWORDS / name).read_text().strip()


def seconds(age: str) -> int:
    """Seconds of a time such as 1h."""
    return int(age[:-1]) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[age[-1]]


def of_the_proxy() -> str:
    """Password of the proxy's API, which listens in this pod alone; the same for all containers that start in the life of a pod."""
    path = PROXY / "password"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path.read_text()


# The hub: addresses, database, log
c.JupyterHub.bind_url = "http://:8000/notebooks/"
c.JupyterHub.hub_bind_url = "http://:8081"
# the proxy is in this pod; users' servers come by the Service
c.JupyterHub.hub_connect_url = "http://localhost:8081"
c.Spawner.hub_connect_url = SETTINGS["hubUrl"]
c.JupyterHub.db_url = "sqlite:////data/jupyterhub.sqlite"
# a new version migrates the database at its start, after a copy
c.JupyterHub.upgrade_db = True
c.JupyterHub.cookie_secret = hashlib.sha256(password("cookieSecret").encode()).digest()
c.JupyterHub.log_level = SETTINGS["logLevel"]
# users' servers go on while the hub restarts
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.active_server_limit = SETTINGS["maxServers"]
# Prometheus has no token; the figures name no user
c.JupyterHub.authenticate_prometheus = False

# The proxy: Traefik, the other container of this pod
c.JupyterHub.proxy_class = "traefik_file"
c.TraefikFileProviderProxy.dynamic_config_file = str(PROXY / "routes.toml")
c.TraefikProxy.should_start = False
c.TraefikProxy.traefik_entrypoint = "web"
c.TraefikProxy.traefik_api_url = "http://localhost:8099"
c.TraefikProxy.traefik_api_username = "hub"
c.TraefikProxy.traefik_api_password = of_the_proxy()
# not bcrypt, which would take a tenth of a second of each of the hub's requests: the password is random
c.TraefikProxy.traefik_api_hashed_password = (
    "{SHA}" + base64.b64encode(hashlib.sha1(of_the_proxy().encode(), usedforsecurity=False).digest()).decode()
)
# the hub waits for the proxy, whichever of both starts first
c.TraefikProxy.check_route_timeout = 60

# Who may log in
c.Authenticator.admin_users = set(LOGIN["admins"])
c.Authenticator.allowed_users = set(LOGIN["users"])
# a name becomes a path and a label; no `+`, which browsers encode in paths and Traefik compares encoded
c.Authenticator.username_pattern = r"[a-z0-9][a-z0-9._@-]{0,62}$"
if LOGIN["mode"] == "password":
    c.JupyterHub.authenticator_class = "shared-password"
    c.Authenticator.allow_all = not LOGIN["users"]
    c.SharedPasswordAuthenticator.user_password = password("password")
    if LOGIN["admins"]:
        c.SharedPasswordAuthenticator.admin_password = password("adminPassword")
else:
    OIDC = LOGIN["oidc"]
    c.JupyterHub.authenticator_class = "generic-oauth"
    c.Authenticator.allow_all = not LOGIN["users"] and not OIDC["groups"]
    c.GenericOAuthenticator.login_service = OIDC["title"]
    c.GenericOAuthenticator.client_id = OIDC["clientId"]
    c.GenericOAuthenticator.client_secret = password("clientSecret")
    c.GenericOAuthenticator.oauth_callback_url = f"{SETTINGS['publicUrl']}/notebooks/hub/oauth_callback"
    c.GenericOAuthenticator.authorize_url = OIDC["authorizeUrl"]
    c.GenericOAuthenticator.token_url = OIDC["tokenUrl"]
    c.GenericOAuthenticator.userdata_url = OIDC["userinfoUrl"]
    c.GenericOAuthenticator.scope = OIDC["scopes"]
    c.GenericOAuthenticator.username_claim = OIDC["usernameClaim"]
    if OIDC["groups"]:
        c.Authenticator.manage_groups = True
        c.GenericOAuthenticator.auth_state_groups_key = f"oauth_user.{OIDC['groupsClaim']}"
        c.GenericOAuthenticator.allowed_groups = set(OIDC["groups"])


class Server(KubeSpawner):
    """Servers whose page says why Kubernetes refused them: a quota, an admission policy."""

    async def _start(self) -> Any:
        try:
            return await super()._start()
        except Exception as error:
            with contextlib.suppress(AttributeError, TypeError, ValueError, KeyError):  # no answer of Kubernetes
                error.jupyterhub_message = f"Kubernetes refuses the server: {json.loads(error.body)['message']}"
            raise


# Users' servers: a pod and a volume each
c.JupyterHub.spawner_class = Server
# a failed start is the user's alone: the hub never ends itself
c.KubeSpawner.consecutive_failure_limit = 0
c.KubeSpawner.namespace = SETTINGS["namespace"]
# `-notebook-`, not the prefix of the hub's own pod
c.KubeSpawner.pod_name_template = f"{SETTINGS['release']}-notebook-{{user_server}}"
c.KubeSpawner.pvc_name_template = f"{SETTINGS['release']}-notebook-{{user_server}}"
c.KubeSpawner.image = SETTINGS["image"]
c.KubeSpawner.image_pull_policy = SETTINGS["imagePullPolicy"]
c.KubeSpawner.image_pull_secrets = SETTINGS["imagePullSecrets"]
c.KubeSpawner.common_labels = SETTINGS["labels"]
c.KubeSpawner.component_label = "notebooks-user"
c.KubeSpawner.start_timeout = SERVER["startTimeout"]
c.KubeSpawner.http_timeout = 120
c.KubeSpawner.delete_grace_period = 10
c.KubeSpawner.cmd = ["jupyterhub-singleuser"]
# every address, IPv4 and IPv6
c.KubeSpawner.ip = ""
c.KubeSpawner.working_dir = c.KubeSpawner.notebook_dir = HOME
c.KubeSpawner.default_url = "/lab"
c.KubeSpawner.args = [
    # no requests to the internet: news, updates, list of extensions
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
]
if after := seconds(SERVER["idleAfter"]):
    # The server itself ends what is idle, as it knows which kernel computes (images/notebooks/jupyter_server_config.py: what activity is).
    often = max(10, min(300, after // 4))
    c.KubeSpawner.args += [
        f"--MappingKernelManager.cull_idle_timeout={after}",
        f"--MappingKernelManager.cull_interval={often}",
        "--MappingKernelManager.cull_connected=True",
        "--MappingKernelManager.cull_busy=False",
        f"--TerminalManager.cull_inactive_timeout={after}",
        f"--TerminalManager.cull_interval={often}",
        f"--ServerApp.shutdown_no_activity_timeout={after}",
    ]
c.KubeSpawner.environment = {
    "HOME": HOME,
    # packages that users install are on their volume
    "PYTHONUSERBASE": f"{HOME}/.local",
    # what a server leaves behind when it is killed is no file of the user
    "JUPYTER_RUNTIME_DIR": "/tmp/jupyter",
    **SETTINGS["environment"],
}
c.KubeSpawner.service_account = SERVER["serviceAccount"] or None
c.KubeSpawner.automount_service_account_token = bool(SERVER["serviceAccount"])
c.KubeSpawner.node_selector = SERVER["nodeSelector"]
c.KubeSpawner.tolerations = SERVER["tolerations"]
c.KubeSpawner.priority_class_name = SERVER["priorityClassName"]
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = SERVER["storage"]["size"]
if SERVER["storage"]["storageClass"]:
    c.KubeSpawner.storage_class = SERVER["storage"]["storageClass"]
c.KubeSpawner.storage_access_modes = ["ReadWriteOnce"]
# files stay when an administrator deletes a user
c.KubeSpawner.delete_pvc = False
c.KubeSpawner.volumes = [
    {"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}},
    {"name": "tmp", "emptyDir": {}},
    # data loaders of PyTorch pass batches in it; it counts as memory of the pod
    {"name": "shm", "emptyDir": {"medium": "Memory"}},
    *SETTINGS["volumes"],
]
c.KubeSpawner.volume_mounts = [
    {"name": "home", "mountPath": HOME},
    {"name": "tmp", "mountPath": "/tmp"},
    {"name": "shm", "mountPath": "/dev/shm"},
    *SETTINGS["volumeMounts"],
]
# Pod Security `restricted`
c.KubeSpawner.pod_security_context = SETTINGS["podSecurityContext"]
c.KubeSpawner.container_security_context = SETTINGS["containerSecurityContext"]
c.KubeSpawner.extra_pod_config = {"enableServiceLinks": False, "terminationGracePeriodSeconds": 10}
# the environment of pipeline steps
c.KubeSpawner.extra_container_config = {"envFrom": SETTINGS["envFrom"]}

FIRST = SETTINGS["defaultProfile"]
c.KubeSpawner.profile_list = [
    {"slug": name, "display_name": PROFILES[name]["title"], "description": PROFILES[name]["description"]}
    for name in sorted(PROFILES, key=lambda each: (each != FIRST, each))
]


def shape(spawner: Any, pod: Any) -> Any:
    """Give a pod what its profile and the values say: not as settings, where an earlier profile's would stay and braces would count."""
    profile = PROFILES[(spawner.user_options or {}).get("profile") or FIRST]
    container = pod.spec.containers[0]
    container.resources = profile["resources"]
    container.env = [*container.env, *SERVER["extraEnv"]]
    pod.metadata.labels |= SERVER["podLabels"]
    pod.metadata.annotations |= SERVER["podAnnotations"]
    pod.spec.node_selector = profile.get("nodeSelector") or pod.spec.node_selector
    pod.spec.tolerations = profile.get("tolerations") or pod.spec.tolerations
    pod.spec.affinity = SERVER["affinity"] or None
    return pod


c.KubeSpawner.modify_pod_hook = shape


def forget(spawner: Any) -> None:
    """Forget the profile of a user's former server where the values offer it no more: a start without a choice would fail."""
    if (spawner.user_options or {}).get("profile") not in PROFILES:
        spawner.user_options = {}


c.KubeSpawner.pre_spawn_hook = forget
