"""Notebooks of a second release, used by a real browser: through the gateway, with its websockets."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client.exceptions import ApiException

from scripts.bare import images
from support import browser, helm, releases
from support.k8s import Cluster, is_ready

NAME = "notebooks"
USER = "app.kubernetes.io/name=notebooks-user"
#: A tick a second for longer than the gateway keeps an idle connection (10 s), and longer than any default timeout of a proxy (60 s).
TICKS = 75
TICKING = f"import time\nfor tick in range({TICKS}):\n    print('tick', tick, flush=True)\n    time.sleep(1)"
#: After how long servers end that nobody uses, in seconds, and for how long a cell computes: longer than the former takes to be noticed.
IDLE, COMPUTES = 20, 150
#: Names of files that proxies in between may take for something else.
FILES = ("with space.txt", "50%.txt", "a#b.txt", "q?.txt", "ünïcode.txt", "plus+and&.txt", "%2F.txt")
QUIET = {"resources": {"requests": {"cpu": "10m"}}}
#: Names that identity providers give: an address, dashes, the longest that the hub admits.
PEOPLE = ("a.b_c@example.org", "anna-lena", "x" * 63)
#: Bytes of a notebook full of pictures, and of a dataset that a user uploads.
LARGE = 80 * 2**20


def image() -> dict[str, str]:
    """The image of notebooks of this working tree."""
    own = images.named("notebooks")
    return {"repository": own.repository, "tag": own.tag}


#: An identity provider that knows whom it is told to be (POST /as/NAME/GROUP), and checks what the hub must send.
PROVIDER = """
import base64, hashlib, json, secrets, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

who, codes, tokens = {}, {}, {}

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        text = json.dumps(body).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        if path == "/authorize":
            code = secrets.token_hex(8)
            codes[code] = asked
            back = {"code": code, "state": asked["state"]}
            self.answer(302, Location=asked["redirect_uri"] + "?" + urllib.parse.urlencode(back))
        elif path == "/userinfo":
            known = tokens.get(self.headers.get("Authorization", "").partition(" ")[2])
            self.answer(200 if known else 401, known)
        else:
            self.answer(200, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path.startswith("/as/"):
            _, _, name, group = self.path.split("/")
            who.update(sub="1", preferred_username=name, groups=[group])
            return self.answer(200, {})
        sent = dict(urllib.parse.parse_qsl(body))
        basic = self.headers.get("Authorization", "")
        secret = base64.b64decode(basic[6:]).decode().partition(":")[2] if basic else sent.get("client_secret")
        asked = codes.pop(sent.get("code"), None)
        verifier = hashlib.sha256(sent.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        if not asked or secret != "hush" or asked.get("code_challenge") != challenge:
            return self.answer(401, {"error": "invalid_grant"})
        token = secrets.token_hex(8)
        tokens[token] = dict(who)
        self.answer(200, {"access_token": token, "token_type": "Bearer"})

ThreadingHTTPServer(("", 9000), Handler).serve_forever()
"""

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium on this machine"),
]


class Person:
    """Somebody with a browser of their own."""

    def __init__(self, page: browser.Page, url: str, name: str) -> None:
        self.page, self.url, self.name, self.token = page, url, name, ""

    def run(self, script: str) -> Any:
        """What an asynchronous script returns in the page."""
        expression = f"(async () => {{ {script} }})()"
        found = self.page.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"].get("exception", {}).get("description")
        return found["result"].get("value")

    def until(self, what: str, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression of the page is true."""
        end = time.monotonic() + seconds

        def ask() -> Any:
            with contextlib.suppress(AssertionError):  # the page changes just now
                return self.page.value(expression)

        while not (value := ask()):
            assert time.monotonic() < end, (
                f"{what}: {self.page.value('location.href + document.body.innerText')[:1500]}"
            )
            time.sleep(0.3)
        return value

    def login(self, password: str) -> None:
        """Fill in the form."""
        self.page.open(f"{self.url}/notebooks/hub/login")
        self.until("a form", "!!document.querySelector('#password_input')")
        self.page.value(
            f"document.querySelector('#username_input').value = {json.dumps(self.name)};"
            f"document.querySelector('#password_input').value = {json.dumps(password)};"
            "document.querySelector('#password_input').form.submit()"
        )

    def enter(self, password: str) -> None:
        """Log in with the shared password."""
        self.login(password)
        self.admitted()

    def admitted(self) -> None:
        """Take a token for the API, as the hub's own page gives one."""
        self.until("profiles", "!!document.querySelector('input[name=profile]')")
        self.token = self.run(f"""
            const path = `/notebooks/hub/api/users/${{encodeURIComponent({json.dumps(self.name)})}}/tokens`;
            const headers = {{'Content-Type': 'application/json'}};
            const answer = await fetch(`${{path}}?_xsrf=${{encodeURIComponent(jhdata.xsrf_token)}}`, {{method: 'POST', body: '{{}}', headers}});
            return (await answer.json()).token""")
        assert self.token, "the hub gave no token"

    def start(self, profile: str = "small", seconds: float = 240) -> float:
        """Start the server, and open JupyterLab: seconds."""
        begin = time.monotonic()
        self.page.open(f"{self.url}/notebooks/hub/spawn")
        chosen = f"document.querySelector('input[name=profile][value={profile}]')"
        self.until("profiles", f"!!{chosen}")
        self.page.value(f"{chosen}.checked = true; {chosen}.form.submit()")
        self.until("JupyterLab", "!!document.querySelector('#jp-main-dock-panel')", seconds)
        return time.monotonic() - begin

    def running(self) -> bool:
        """Whether the hub's page says that the server runs."""
        self.page.open(f"{self.url}/notebooks/hub/home")
        return self.page.value("!!document.querySelector('#stop')")

    def api(self, method: str, path: str, body: Any = None, user: str = "") -> tuple[int, Any]:
        """Ask the API of a user's server through the gateway, with one's own token."""
        address = f"{self.url}/notebooks/user/{requests.utils.quote(user or self.name, safe='@~')}/api/{path}"
        answer = requests.request(
            method, address, json=body, headers={"Authorization": f"token {self.token}"}, timeout=30
        )
        try:
            return answer.status_code, answer.json()
        except ValueError:  # no body, or the page of a hub that knows no such server
            return answer.status_code, None

    def hub(self, path: str = "") -> dict[str, Any]:
        """How to ask the hub's API about oneself: arguments for `requests`."""
        quoted = requests.utils.quote(self.name, safe="")
        address = f"{self.url}/notebooks/hub/api/users/{quoted}/{path}".rstrip("/")
        return {"url": address, "headers": {"Authorization": f"token {self.token}"}}

    def write(self, name: str, *cells: str) -> None:
        """Make a notebook."""
        source = [
            {
                "cell_type": "code",
                "source": cell,
                "metadata": {},
                "outputs": [],
                "execution_count": None,
                "id": f"cell{i}",
            }
            for i, cell in enumerate(cells)
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        content = {"cells": source, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        status, _ = self.api("PUT", f"contents/{name}", {"type": "notebook", "format": "json", "content": content})
        assert status in (200, 201), status

    def execute(self, name: str, cells: int) -> None:
        """Open a notebook, and run its cells by the keyboard."""
        self.page.open(f"{self.url}/notebooks/user/{self.name}/lab/tree/{name}?reset", settle=2)
        self.until("cells", f"document.querySelectorAll('.jp-Notebook .jp-CodeCell').length >= {cells}")
        self.until("a kernel", "!!document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')", 90)
        place = "document.querySelector('.jp-Notebook .jp-CodeCell .cm-content').getBoundingClientRect()"
        prompt = "document.querySelector('.jp-Notebook .jp-CodeCell .jp-InputPrompt').innerText.trim()"
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 8}

        def run_cell() -> None:
            self.page.call("Input.dispatchKeyEvent", type="keyDown", **key)
            self.page.call("Input.dispatchKeyEvent", type="keyUp", **key)
            time.sleep(0.3)

        def begins() -> bool:  # JupyterLab may take the focus away while it loads
            x, y = self.page.value(f"{place}.x + 30"), self.page.value(f"{place}.y + 8")
            for kind in ("mousePressed", "mouseReleased"):
                self.page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
            run_cell()
            time.sleep(1)
            return self.page.value(prompt) != "[ ]:"

        releases.wait_until("the first cell to run", begins)
        for _ in range(cells - 1):
            run_cell()

    def output(self) -> str:
        """What the cells printed so far."""
        return self.page.value(
            "[...document.querySelectorAll('.jp-OutputArea-output')].map(each => each.innerText).join('\\n')"
        )


@contextlib.contextmanager
def person(url: str, name: str) -> Iterator[Person]:
    """Somebody with a browser, without anybody's cookies."""
    with browser.page() as page:
        yield Person(page, url, name)


@pytest.fixture(scope="module")
def there(cluster: Cluster) -> Iterator[Cluster]:
    """A release of its own with notebooks."""
    own = image()
    if not any(name.endswith(f"/{own['repository']}:{own['tag']}") for name in releases.on_nodes(cluster)):
        pytest.skip("no node has the image of notebooks of this working tree: IML4E_NOTEBOOKS=on make up")
    part = {
        "enabled": True, "image": own, **QUIET, "proxy": QUIET,
        "profiles": {"small": QUIET, "large": {"resources": {"requests": {"cpu": "20m", "memory": "600Mi"}}}},
    }  # fmt: skip
    values = {"notebooks": part, "prometheus": {"enabled": False}, "gateway": {"accessLog": {"enabled": True}}}
    with releases.namespace(cluster, NAME) as there, releases.installed(there, ["laptop"], values):
        yield there


@pytest.fixture(scope="module")
def url(there: Cluster) -> Iterator[str]:
    """Address of the gateway on this machine, by a forwarded port."""
    with there.port_forward(f"service/{NAME}-gateway", 80) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def password(there: Cluster) -> str:
    """The password that all users share."""
    return there.secret(f"{NAME}-notebooks")["password"]


@pytest.fixture(scope="module")
def alice(url: str, password: str) -> Iterator[Person]:
    """A user with a server that runs."""
    with person(url, "alice") as alice:
        alice.enter(password)
        seconds = alice.start()
        print(f"JupyterLab after {seconds:.1f} s")
        yield alice


@pytest.fixture(scope="module")
def ticking(alice: Person) -> float:
    """A cell that prints for longer than a minute in the open page, while the next tests go on: when it began."""
    alice.write("ticks.ipynb", TICKING)
    alice.execute("ticks.ipynb", 1)
    begin = time.monotonic()
    alice.until("the first tick", "document.querySelector('.jp-OutputArea-output')?.innerText.includes('tick 1')")
    assert alice.output().count("tick") < TICKS, "ticks arrive while the cell runs"
    return begin


def cells_of_the_documentation() -> list[str]:
    """What docs/notebooks.md tells users to run."""
    text = (helm.REPO / "docs" / "notebooks.md").read_text()
    return [cell.strip() for cell in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def pod_of(there: Cluster, user: str) -> dict[str, Any] | None:
    """The pod of a user's server."""
    found = there.pods(f"{USER},hub.jupyter.org/username={user}")
    return found[0] if found else None


def test_nobody_gets_in_without_the_password(url: str, password: str) -> None:
    with person(url, "alice") as stranger:
        stranger.login(f"{password}x")
        stranger.until("a refusal", "document.body.innerText.includes('Invalid username or password')")
        stranger.page.open(f"{url}/notebooks/user/alice/lab")
        stranger.until("the form again", "!!document.querySelector('#password_input')")
    assert requests.get(f"{url}/notebooks/hub/api/users", timeout=10).status_code == 403
    assert (
        requests.get(f"{url}/notebooks/hub/api/users", headers={"Authorization": "token x"}, timeout=10).status_code
        == 403
    )


def test_a_name_that_no_path_can_have_is_refused(url: str, password: str) -> None:
    """A server at such a path would answer with a redirect loop."""
    with person(url, "a+b") as user:
        user.login(password)
        user.until("a refusal", "document.body.innerText.includes('Invalid username or password')")


def test_a_user_chooses_a_size(url: str, password: str) -> None:
    """Looked at by people; what it must say is asked here."""
    with person(url, "pia") as user:
        user.login(password)
        user.until("profiles", "!!document.querySelector('input[name=profile]')")
        text = user.page.value("document.body.innerText")
        assert [name in text for name in ("Small", "Large", "GPU")] == [True, True, False]
        folder = Path(helm.REPO / "reports" / "notebooks")
        folder.mkdir(parents=True, exist_ok=True)
        user.page.screenshot(folder / "profiles.png")


def test_the_parts_page_is_on_the_landing_page(alice: Person, url: str) -> None:
    parts = requests.get(f"{url}/api/status", timeout=10)
    text = parts.text if parts.ok else requests.get(url, timeout=10).text
    assert "/notebooks/" in text


@pytest.mark.parametrize("name", FILES)
def test_files_of_any_name_go_through_the_gateway(alice: Person, ticking: float, name: str) -> None:
    path = f"contents/{requests.utils.quote(name, safe='')}"
    status, _ = alice.api("PUT", path, {"type": "file", "format": "text", "content": name})
    assert status in (200, 201)
    status, found = alice.api("GET", path)
    assert (status, found["name"], found["content"]) == (200, name, name)


def test_the_pod_is_what_the_values_say(alice: Person, there: Cluster) -> None:
    pod = pod_of(there, "alice")
    [container] = pod["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    assert pod["spec"]["serviceAccountName"] == f"{NAME}-runner"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    sources = [each.get("secretRef", each.get("configMapRef"))["name"] for each in container["envFrom"]]
    assert sources == [f"{NAME}-runner", f"{NAME}-s3-pipelines"]


def test_another_user_reaches_neither_server_nor_hub(
    alice: Person, there: Cluster, ticking: float, url: str, password: str
) -> None:
    """A name may be a mail address: it becomes a path, a label and the name of a pod."""
    alice.api("PUT", "contents/secret.txt", {"type": "file", "format": "text", "content": "of alice"})
    assert alice.api("GET", "contents/secret.txt")[1]["content"] == "of alice"
    with person(url, "bob.x@example.org") as bob:
        bob.enter(password)
        for path in ("contents/secret.txt", "kernels", "contents"):
            assert bob.api("GET", path, user="alice")[0] in (403, 404)
        mine = {"Authorization": f"token {bob.token}"}
        assert requests.get(f"{url}/notebooks/hub/api/users", headers=mine, timeout=10).status_code == 403
        assert requests.get(f"{url}/notebooks/hub/api/users/alice", headers=mine, timeout=10).status_code == 404
        stop = requests.delete(f"{url}/notebooks/hub/api/users/alice/server", headers=mine, timeout=10)
        assert stop.status_code in (403, 404)
        bob.page.open(f"{url}/notebooks/user/alice/lab/tree/secret.txt")
        bob.until("a refusal", "document.body.innerText.includes('403')")
        assert "of alice" not in bob.page.value("document.body.innerText")
        bob.start("large")
        assert bob.api("GET", "contents")[0] == 200
        limits = [each["spec"]["containers"][0]["resources"]["requests"] for each in there.pods(USER)]
        assert {"cpu": "20m", "memory": "600Mi"} in limits
        assert bob.running()
        bob.page.value("document.querySelector('#stop').click()")
        releases.wait_until("the server's end", lambda: not bob.running(), 60)


def as_the_hub(there: Cluster, **spec: Any) -> str:
    """What the API server says when the hub's account makes a pod."""
    client = ApiClient(there.core.api_client.configuration)
    client.set_default_header("Impersonate-User", f"system:serviceaccount:{NAME}:{NAME}-notebooks")
    own = json.loads(there.get("v1", "ConfigMap", f"{NAME}-notebooks")["data"]["settings.json"])
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "metadata": {"generateName": "taken-"},
        "spec": {
            "serviceAccountName": f"{NAME}-runner", "securityContext": own["podSecurityContext"],
            "containers": [{"name": "notebook", "image": own["image"], "securityContext": restricted}], **spec,
        },
    }  # fmt: skip
    try:
        CoreV1Api(client).create_namespaced_pod(NAME, pod, dry_run="All")
    except ApiException as error:
        return json.loads(error.body)["message"]
    return ""


def test_a_hub_that_was_taken_over_gets_neither_account_nor_secret(there: Cluster) -> None:
    assert as_the_hub(there) == ""
    assert "notebooks.server.serviceAccount" in as_the_hub(there, serviceAccountName=f"{NAME}-gateway")
    password = [{"name": "x", "secret": {"secretName": f"{NAME}-minio"}}]
    assert "no Secret" in as_the_hub(there, volumes=password)
    hidden = [{"name": "x", "projected": {"sources": [{"secret": {"name": f"{NAME}-minio"}}]}}]
    assert "no Secret" in as_the_hub(there, volumes=hidden)
    data = [{"name": "x", "persistentVolumeClaim": {"claimName": f"data-{NAME}-mariadb-0"}}]
    assert "volume of their user" in as_the_hub(there, volumes=data)


def test_cells_run_for_longer_than_a_minute_through_the_gateway(alice: Person, ticking: float) -> None:
    alice.until(
        "the last tick", f"document.querySelector('.jp-OutputArea-output').innerText.includes('tick {TICKS - 1}')", 90
    )
    assert [int(each) for each in re.findall(r"tick (\d+)", alice.output())] == list(range(TICKS))
    assert time.monotonic() - ticking >= TICKS - 3
    # JupyterLab itself closes one that it opened when it finds the kernel of a session
    own = "closed before the connection is established"
    assert not [said for said in alice.page.complaints() if "WebSocket" in said and own not in said]


def test_what_the_documentation_says_works_in_a_notebook(alice: Person, there: Cluster) -> None:
    cells = cells_of_the_documentation()
    assert len(cells) == 4
    # this release has no Kubeflow Pipelines: what the client is told is all that there is to see
    cells[3] = "import os; print('pipelines' if 'KF_PIPELINES_ENDPOINT' in os.environ else 'no pipelines')"
    alice.write("first.ipynb", *cells, "print('the', 'end')")
    alice.execute("first.ipynb", len(cells) + 1)
    alice.until(
        "the end",
        "[...document.querySelectorAll('.jp-OutputArea-output')].some(each => each.innerText.includes('the end'))",
        300,
    )
    said = alice.output()
    assert "Created version '1' of model 'notebook'" in said
    assert re.search(r"^prediction\n0\n0\n0\n0\n0$", said, re.MULTILINE), said
    assert "['datasets', 'mlflow', 'pipelines']" in said or "['datasets', 'pipelines']" in said, said
    models = there.list(*releases.MODELS)
    assert [each["metadata"]["name"] for each in models] == ["notebook"]
    pictures = helm.REPO / "reports" / "notebooks"
    pictures.mkdir(parents=True, exist_ok=True)
    alice.page.screenshot(pictures / "notebook.png")


def test_a_large_file_goes_through_the_gateway(alice: Person) -> None:
    """Proxies cut bodies of some megabytes elsewhere (jupyterhub/configurable-http-proxy#311, zero-to-jupyterhub-k8s#346)."""
    text = "0123456789abcdef" * (LARGE // 16)
    status, _ = alice.api("PUT", "contents/large.txt", {"type": "file", "format": "text", "content": text})
    assert status == 201
    status, found = alice.api("GET", "contents/large.txt")
    assert (status, found["content"] == text) == (200, True)
    assert alice.api("DELETE", "contents/large.txt")[0] == 204


@pytest.mark.parametrize("name", PEOPLE)
def test_a_user_of_any_name_gets_a_server(url: str, password: str, there: Cluster, name: str) -> None:
    """Names become labels and names of pods and volumes (jupyterhub/kubespawner#730, #324; zero-to-jupyterhub-k8s#571)."""
    with person(url, name) as user:
        user.enter(password)
        user.start()
        assert user.api("PUT", "contents/own.txt", {"type": "file", "format": "text", "content": name})[0] == 201
        assert requests.delete(**user.hub("server"), timeout=30).status_code in (202, 204)
        releases.wait_until("the end of the server", lambda: not user.running(), 60)


def test_a_server_that_the_quota_refuses_says_so_and_the_hub_lives(url: str, password: str, there: Cluster) -> None:
    """Elsewhere a hub ends itself after some failed starts (jupyterhub/jupyterhub#4414)."""
    hub, started = hub_of(there), restarts(there)
    there.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": {"hard": {"pods": "1"}}}
    )
    try:
        with person(url, "quentin") as user:
            user.enter(password)
            releases.wait_until(
                "the quota", lambda: there.get("v1", "ResourceQuota", "full").get("status", {}).get("used"), 30
            )
            for _ in range(6):
                requests.post(**user.hub("server"), timeout=60)
                releases.wait_until("an end", lambda: not requests.get(**user.hub(), timeout=10).json()["pending"], 60)
            user.page.open(f"{url}/notebooks/hub/spawn-pending/quentin")
            user.until("the reason", "document.body.innerText.includes('exceeded quota')")
            assert (hub_of(there), restarts(there)) == (hub, started)
            there.delete("v1", "ResourceQuota", "full")
            user.start()
    finally:
        there.delete("v1", "ResourceQuota", "full")


def test_a_server_that_was_killed_resumes_with_its_files(alice: Person, there: Cluster) -> None:
    former = pod_of(there, "alice")
    alice.api("PUT", "contents/kept.txt", {"type": "file", "format": "text", "content": "before"})
    there.kill(former["metadata"]["name"])
    begin = time.monotonic()
    end = begin + 150
    while alice.running():
        assert time.monotonic() < end, "the hub does not see that the server is gone"
        time.sleep(3)
    print(f"the hub knows after {time.monotonic() - begin:.0f} s")
    seconds = alice.start()
    print(f"resumed in {seconds:.1f} s")
    assert pod_of(there, "alice")["metadata"]["uid"] != former["metadata"]["uid"]
    assert alice.api("GET", "contents/kept.txt")[1]["content"] == "before"
    assert alice.api("GET", "contents/ticks.ipynb")[0] == 200


def test_servers_go_on_while_the_hub_restarts(alice: Person, there: Cluster) -> None:
    """And a hub that starts anew in the same pod finds the routes of its former self."""
    pod = pod_of(there, "alice")["metadata"]["uid"]
    [hub] = there.pods(f"app.kubernetes.io/name=notebooks,app.kubernetes.io/instance={NAME}")
    there.exec(hub["metadata"]["name"], "sh", "-c", "kill 1", container="hub")
    releases.wait_until("the hub's new start", lambda: restarts(there) == 1, 60)
    there.wait_ready("StatefulSet", f"{NAME}-notebooks", 90)
    assert pod_of(there, "alice")["metadata"]["uid"] == pod
    releases.wait_until("the server by its route", lambda: alice.api("GET", "contents/kept.txt")[0] == 200, 30)
    there.kill(hub["metadata"]["name"])
    releases.wait_until("another hub", lambda: hub_of(there) not in (None, hub["metadata"]["uid"]), 60)
    there.wait_ready("StatefulSet", f"{NAME}-notebooks", 120)
    assert pod_of(there, "alice")["metadata"]["uid"] == pod
    releases.wait_until("the server by its new route", lambda: alice.api("GET", "contents/kept.txt")[0] == 200, 60)


def hub_of(there: Cluster) -> str | None:
    """UID of the hub's pod."""
    found = there.pods(f"app.kubernetes.io/name=notebooks,app.kubernetes.io/instance={NAME}")
    return found[0]["metadata"]["uid"] if found else None


def restarts(there: Cluster) -> int:
    """How often the hub's container started anew."""
    [hub] = there.pods(f"app.kubernetes.io/name=notebooks,app.kubernetes.io/instance={NAME}")
    return sum(each["restartCount"] for each in hub["status"]["containerStatuses"] if each["name"] == "hub")


def test_hub_and_proxy_are_small_at_rest(there: Cluster) -> None:
    """Anonymous memory: what the kernel cannot take back."""
    [hub] = there.pods(f"app.kubernetes.io/name=notebooks,app.kubernetes.io/instance={NAME}")
    read = "cat /sys/fs/cgroup/memory.stat 2>/dev/null || cat /sys/fs/cgroup/memory/memory.stat"
    used = {}
    for container in ("hub", "proxy"):
        said = there.exec(hub["metadata"]["name"], "sh", "-c", read, container=container)
        used[container] = int(re.search(r"^(?:anon|rss) (\d+)", said, re.MULTILINE)[1]) / 2**20
    print({name: f"{size:.0f} MiB" for name, size in used.items()})
    assert sum(used.values()) < 150, used


@pytest.fixture(scope="module")
def provider(there: Cluster) -> Iterator[str]:
    """An identity provider in the release's namespace: its address on this machine."""
    own = json.loads(there.get("v1", "ConfigMap", f"{NAME}-notebooks")["data"]["settings.json"])
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "idp", "image": own["image"], "command": ["python", "-c", PROVIDER], "securityContext": restricted,
        "readinessProbe": {"httpGet": {"path": "/", "port": 9000}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
    }  # fmt: skip
    labels = {"app": "idp"}
    there.apply(
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "idp", "labels": labels},
            "spec": {"securityContext": own["podSecurityContext"], "automountServiceAccountToken": False, "containers": [container]},
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "idp"},
            "spec": {"selector": labels, "ports": [{"port": 9000}]},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "idp"}, "stringData": {"clientSecret": "hush"}},
    )  # fmt: skip
    releases.wait_until("the identity provider", lambda: any(is_ready(pod) for pod in there.pods("app=idp")), 60)
    with there.port_forward("service/idp", 9000) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def by_provider(there: Cluster, url: str, provider: str) -> str:
    """The release with the identity provider, and servers that end soon: address of the provider on this machine."""
    inside = f"http://idp.{NAME}.svc:9000"
    oidc = {
        "title": "the test's", "clientId": "hub", "existingSecret": "idp", "authorizeUrl": f"{provider}/authorize",
        "tokenUrl": f"{inside}/token", "userinfoUrl": f"{inside}/userinfo", "groups": ["ml"],
    }  # fmt: skip
    changed = {"login": {"mode": "oidc", "oidc": oidc}, "server": {"idleAfter": f"{IDLE}s"}}
    releases.upgrade(there, notebooks=changed, **{"global.publicUrl": url})
    return provider


@contextlib.contextmanager
def member(url: str, provider: str, name: str, group: str) -> Iterator[Person]:
    """Somebody whom the identity provider knows, on the way back from it."""
    assert requests.post(f"{provider}/as/{name}/{group}", timeout=10).ok
    with person(url, name) as user:
        user.page.open(f"{url}/notebooks/hub/oauth_login")
        yield user


def test_an_identity_provider_keeps_strangers_of_a_group_out(url: str, by_provider: str) -> None:
    with member(url, by_provider, "gus", "sales") as user:
        user.until("a refusal", "document.body.innerText.includes('403')")
        user.page.open(f"{url}/notebooks/hub/home")
        assert not user.page.value("!!document.querySelector('#start')")


def test_an_idle_server_ends_although_its_tab_is_open_and_one_that_computes_does_not(
    there: Cluster, url: str, by_provider: str
) -> None:
    """Members of the group. A user 0 must not have the name of the hub's own pod."""
    hub = hub_of(there)
    with member(url, by_provider, "0", "ml") as idle, member(url, by_provider, "erik", "ml") as busy:
        for each in (busy, idle):
            each.admitted()
            each.start()
        assert hub_of(there) == hub
        busy.write("busy.ipynb", f"import time; time.sleep({COMPUTES}); open('done.txt', 'w').write('computed')")
        busy.execute("busy.ipynb", 1)
        begun = time.monotonic()
        idle.write("idle.ipynb", "print(6 * 7)")
        idle.execute("idle.ipynb", 1)
        idle.until("an answer", "document.querySelector('.jp-OutputArea-output')?.innerText.includes('42')")
        begin = time.monotonic()
        releases.wait_until("the end of the idle server", lambda: pod_of(there, "0") is None, COMPUTES)
        print(f"the idle server ended after {time.monotonic() - begin:.0f} s")
        assert pod_of(there, "erik"), "a server that computes goes on"
        assert time.monotonic() - begun > 2 * IDLE, "the cell computed for longer than a server may be idle"
        left = begun + COMPUTES + 20 - time.monotonic()
        releases.wait_until("the result", lambda: busy.api("GET", "contents/done.txt")[0] == 200, max(left, 20))
    for user in ("0", "erik"):
        assert there.list("v1", "PersistentVolumeClaim", f"{USER},hub.jupyter.org/username={user}"), "files stay"
