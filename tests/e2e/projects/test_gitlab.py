"""A project's pipeline of GitLab, run by gitlab-ci-local on this platform: a good change, and bad ones.

Jobs run in the shell of this machine, without GitLab, its runner and containers. The token of a service account, which lives for an
hour, stands for the one that GitLab signs for each job; it has the rights of deploy/gitlab-runner/rights.yaml and no more.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import AuthorizationV1Api
from kubernetes.client.exceptions import ApiException
from sklearn.datasets import load_breast_cancer

from support import delivery, helm, releases
from support import serving as by_hand
from support.helm import NAMESPACE, RELEASE, REPO
from support.k8s import Cluster
from support.platform import URL, Gateway

pytestmark = pytest.mark.timeout(240)

BIN = REPO / ".venv" / "bin"
#: Column of the truth in the data.
TARGET = "Befund (Labor)"
#: Where the runner of the tests would be.
RUNNER = "e2e-gitlab-runner"
#: Files of the runner's namespace and rights, for that namespace.
OBJECTS = ("ServiceAccount", "ResourceQuota", "Role", "RoleBinding")


@pytest.fixture(scope="module")
def runner(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace of jobs, with the quota, account and rights of deploy/gitlab-runner."""
    things = [thing for kind in OBJECTS for thing in delivery.runner_objects(kind)]
    text = json.dumps(things).replace('"gitlab-runner"', f'"{RUNNER}"')
    for name in ("model-ci-models", "model-ci"):  # beside those of a runner that is there
        text = text.replace(f'"name": "{name}", "namespace": "{NAMESPACE}"', f'"name": "e2e-{name}", "namespace": "{NAMESPACE}"')  # fmt: skip
    text = text.replace('"kind": "Role", "name": "model-ci"', '"kind": "Role", "name": "e2e-model-ci"')
    with releases.namespace(cluster, RUNNER) as there:
        things = json.loads(text)
        try:
            there.apply(*things)
            yield there
        finally:
            for thing in things:
                if thing["metadata"]["namespace"] == NAMESPACE:
                    cluster.delete(thing["apiVersion"], thing["kind"], thing["metadata"]["name"])


@dataclass
class Ended:
    """What a pipeline did."""

    code: int
    text: str
    """All that was printed."""
    jobs: dict[str, bool]
    """Whether a job passed, of those that ran."""

    def log(self, job: str) -> str:
        """What a job's commands printed."""
        return "\n".join(re.findall(rf"^{job} +> (.*)$", self.text, re.MULTILINE))


def spreadsheet(folder: Path) -> Path:
    """A file that nobody here invented, as its owner's spreadsheet writes it: decimal commas, a byte order mark, empty fields."""
    frame = load_breast_cancer(as_frame=True).frame
    frame["target"] = frame["target"].map({0: "bösartig", 1: "gutartig"})
    frame["Zentrum"] = [["Köln", "Oslo", ""][i % 3] for i in range(len(frame))]
    text = frame.rename(columns={"target": TARGET}).to_csv(index=False, sep=";", decimal=",", lineterminator="\r\n")
    file = folder / "Proben.csv"
    file.write_bytes(("\ufeff" + text).encode())
    return file


class Project:
    """A repository with a remote one, and its pipelines."""

    def __init__(self, folder: Path, name: str, variables: dict[str, str]) -> None:
        """Make the project as its owner does, commit and push it."""
        self.folder, self.name, self.variables = folder / name, name, variables
        self.command, _ = delivery.local_ci()
        # no kubeconfig, and no home with one: jobs have their token only
        self.env = {key: value for key, value in os.environ.items() if key not in ("KUBECONFIG", "MLFLOW_TRACKING_URI")}
        self.env |= {
            "HOME": str(folder / "home"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPO / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # its own test of the whole pipeline takes a minute
            "PYTEST_ADDOPTS": "tests/test_features.py -p no:cacheprovider",
        }
        (folder / "home").mkdir()
        self.env |= {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        words = ("--data", str(spreadsheet(folder)), "--target", TARGET, "--folder", str(folder))
        made = self.run(str(BIN / "iml4e"), "new", name, *words, cwd=folder)
        assert made.returncode == 0, made.stdout + made.stderr
        remote = folder / "ml" / f"{name}.git"
        self.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", str(remote))
        self.git("remote", "add", "origin", f"file://{remote}")
        self.commit("a project")
        self.git("push", "--quiet", "--set-upstream", "origin", "main")
        self.git("remote", "set-head", "origin", "main")

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program in the project."""
        return subprocess.run(
            command, cwd=cwd or self.folder, env=self.env, capture_output=True, text=True, timeout=230, check=False
        )

    def git(self, *words: str) -> str:
        """Run git."""
        done = self.run("git", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        """Commit all changes; return the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def pipeline(self, *jobs: str, **variables: str) -> Ended:
        """Run the pipeline of the present commit, or some of its jobs; the release is approved."""
        given = {**self.variables, **variables}
        words = [word for key, value in given.items() for word in ("--variable", f"{key}={value}")]
        options = ["--force-shell-executor", "--shell-isolation", "--input", "tools=", "--no-color"]
        approved = ("--manual", "release") if not jobs or "release" in jobs else ()
        done = self.run(*self.command, *options, *words, *jobs, *approved)
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        ended = {job: how == "PASS" for how, job in re.findall(r"^ (PASS|FAIL) +(\w+)", text, re.MULTILINE)}
        return Ended(done.returncode, text, ended)

    def jobs(self, **variables: str) -> list[str]:
        """Names of the jobs that the pipeline of a merge request has."""
        words = [word for key, value in variables.items() for word in ("--variable", f"{key}={value}")]
        done = self.run(*self.command, "--list-csv", "--unset-variable", "CI_COMMIT_BRANCH", *words)
        listed = [line.split(";")[0] for line in done.stdout.splitlines() if ";" in line]
        assert listed[:1] == ["name"], done.stdout + done.stderr
        return listed[1:]

    def change(self, path: str, edit: Callable[[str], str]) -> None:
        """Change a file of the project."""
        file = self.folder / path
        before = file.read_text()
        file.write_text(edit(before))
        assert file.read_text() != before


@pytest.fixture(scope="module")
def project(
    cluster: Cluster, gateway: Gateway, runner: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """A new project whose jobs reach the platform by a token."""
    _, missing = delivery.local_ci()
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("gitlab")
    config = yaml.safe_load(cluster.config.read_text())["clusters"][0]["cluster"]
    (folder / "ca.crt").write_bytes(base64.b64decode(config["certificate-authority-data"]))
    body = {"spec": {"expirationSeconds": 3600}}
    token = runner.core.create_namespaced_service_account_token("model-ci", RUNNER, body).status.token
    name = f"e2e-gitlab-{uuid.uuid4().hex[:6]}"
    variables = {
        "IML4E_URL": URL,
        "IML4E_IMAGE": "none",
        "KUBERNETES_API": config["server"],
        "KUBERNETES_CA": str(folder / "ca.crt"),
        "PLATFORM_TOKEN": token,
        "CI_PIPELINE_URL": f"https://gitlab.example.com/ml/{name}/-/pipelines/7",
    }
    yield Project(folder, name, variables)
    by_hand.remove(cluster, name)
    client = gateway.mlflow
    for model in client.search_registered_models(f"name = '{name}'"):
        client.delete_registered_model(model.name)
    if experiment := client.get_experiment_by_name(name):
        client.delete_experiment(experiment.experiment_id)


@pytest.fixture(scope="module")
def released(project: Project) -> Ended:
    """The pipeline of the first commit, which is merged and approved."""
    return project.pipeline()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """A change of a test is gone after it."""
    yield
    if project := request.node.funcargs.get("project"):
        project.git("reset", "--quiet", "--hard", "origin/main")


def versions(gateway: Gateway, name: str) -> list[Any]:
    """Versions of a model, the oldest first."""
    found = gateway.mlflow.search_model_versions(f"name = '{name}'")
    return sorted(found, key=lambda each: int(each.version))


def test_a_good_change_serves(released: Ended, project: Project, gateway: Gateway) -> None:
    assert released.code == 0, released.text[-4000:]
    order = ["lint", "unit", "data", "compile", "run", "gate", "release", "endpoint"]
    assert released.jobs == dict.fromkeys(order, True)
    (version,) = versions(gateway, project.name)
    assert gateway.mlflow.get_model_version_by_alias(project.name, "champion").version == version.version
    assert re.search(r"http://\S+/(mlflow/#/experiments|pipeline/#/runs)/\w", released.log("run")), (
        "the page of the run"
    )
    cancer = load_breast_cancer()
    row = dict(zip(cancer.feature_names, cancer.data[0].tolist(), strict=True))
    row["Zentrum"] = "a place that training never saw"
    assert gateway.model(project.name, NAMESPACE).predict([row]).json()["predictions"] == ["bösartig"]


def test_version_commit_and_pipeline_lead_to_each_other(released: Ended, project: Project, gateway: Gateway) -> None:
    (version,) = versions(gateway, project.name)
    for tags in (version.tags, gateway.mlflow.get_run(version.run_id).data.tags):
        assert tags["mlflow.source.git.commit"] == project.git("rev-parse", "origin/main")
        assert tags["ci.pipeline"] == project.variables["CI_PIPELINE_URL"]
        assert tags["git.ref"] == "main"


def test_a_released_version_is_released_again_by_hand(released: Ended, project: Project, gateway: Gateway) -> None:
    """As for a former champion: without a run, by its number."""
    ended = project.pipeline(RELEASE_VERSION="1")
    assert ended.code == 0, ended.text[-3000:]
    assert ended.jobs == {"release": True, "endpoint": True}
    assert len(versions(gateway, project.name)) == 1


def test_a_merge_request_trains_on_a_sample_and_registers_nothing(
    released: Ended, project: Project, gateway: Gateway
) -> None:
    project.commit("a change")
    own = {"CI_PIPELINE_SOURCE": "merge_request_event", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "1217"}
    assert project.jobs(**own) == ["lint", "unit", "data", "compile", "trial"]
    assert project.jobs(**own | {"CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "77"}) == ["lint", "unit", "compile"]  # a fork
    ended = project.pipeline("trial", **own)
    assert ended.jobs == {"trial": True}, ended.text[-3000:]
    assert len(versions(gateway, project.name)) == 1
    kept = project.folder / ".gitlab-ci-local" / "artifacts"
    # gitlab-ci-local keeps no reports; `run` lists the file of metrics as a path, too
    metrics = next((kept / "run").rglob("metrics.txt")).read_text().splitlines()
    assert metrics
    assert all(re.fullmatch(r"[a-z_0-9]+ -?[0-9.e+-]+", line) for line in metrics)
    assert next((kept / "trial").rglob("report.md")).read_text().splitlines()[0] in ended.log("trial")


def test_a_failing_test_ends_the_pipeline_before_a_run(released: Ended, project: Project, gateway: Gateway) -> None:
    project.change("tests/test_features.py", lambda text: text + "\n\ndef test_wrong() -> None:\n    assert 1 == 2\n")
    project.commit("a mistake")
    ended = project.pipeline("unit", "run")
    assert ended.jobs == {"unit": False}, ended.text[-3000:]
    assert "assert 1 == 2" in ended.log("unit")
    assert len(versions(gateway, project.name)) == 1


def test_broken_data_ends_the_pipeline_before_a_run(released: Ended, project: Project, gateway: Gateway) -> None:
    data = yaml.safe_load((project.folder / "iml4e.yaml").read_text())["data"]

    # the first field of the second row
    project.change(data, lambda text: re.sub(r"(\n[^\n]*\n)[^;]*", r"\1many", text, count=1))
    project.commit("newer data")
    ended = project.pipeline("data", "run")
    assert ended.jobs == {"data": False}, ended.text[-3000:]
    assert "many" in ended.log("data")
    assert len(versions(gateway, project.name)) == 1


def test_a_worse_model_is_registered_and_not_released(released: Ended, project: Project, gateway: Gateway) -> None:
    settings = yaml.safe_load((project.folder / "iml4e.yaml").read_text())
    settings["gate"] = {"metric": settings["gate"]["metric"], "floor": 1.5}
    (project.folder / "iml4e.yaml").write_text(yaml.safe_dump(settings))
    project.commit("a worse model")
    ended = project.pipeline("run", "gate", "release", "endpoint")
    assert ended.code != 0
    assert ended.jobs == {"run": True, "gate": False}, ended.text[-3000:]
    assert "below the floor" in ended.log("gate")
    first, second = versions(gateway, project.name)
    assert second.tags["status"] == "rejected"
    ended = project.pipeline(RELEASE_VERSION=second.version)
    assert ended.jobs == {"release": False}, ended.text[-3000:]
    assert "is rejected" in ended.log("release")
    assert gateway.mlflow.get_model_version_by_alias(project.name, "champion").version == first.version


def test_a_platform_that_does_not_answer_is_told_in_a_sentence(
    released: Ended, project: Project, gateway: Gateway
) -> None:
    before = len(versions(gateway, project.name))
    start = time.monotonic()
    ended = project.pipeline("run", "gate", IML4E_URL="http://127.0.0.1:9")
    assert ended.jobs == {"run": False}, ended.text[-3000:]
    (sentence,) = [line for line in ended.log("run").splitlines() if line.startswith("iml4e: ")]
    assert "127.0.0.1:9" in sentence
    assert "does not answer" in sentence
    assert "Traceback" not in ended.text
    assert time.monotonic() - start < 60
    assert len(versions(gateway, project.name)) == before


def test_a_mistake_in_the_pipeline_is_refused_by_the_schema_of_gitlab(released: Ended, project: Project) -> None:
    project.change(".gitlab/model.yml", lambda text: text.replace("interruptible: true", "interruptile: true", 1))
    done = project.run(*project.command, "--list")
    assert done.returncode != 0
    assert "interruptile" in done.stdout + done.stderr


# --- the runner's side, on the cluster


def test_the_quota_and_pod_security_admit_the_pods_of_jobs(runner: Cluster) -> None:
    pod = delivery.job_pod()
    for each in (*pod["initContainers"], *pod["containers"]):
        each["image"] = "any"
    lacking = json.loads(json.dumps(pod))
    for each in lacking["containers"]:
        each["resources"].pop("limits")
    told = "must specify limits"
    releases.wait_until("the quota to count", lambda: told in releases.refused(runner, lacking))
    assert releases.refused(runner, pod) == ""


def test_a_pod_of_the_runner_uses_the_platform_by_its_account(runner: Cluster, cluster: Cluster, unique: str) -> None:
    """The component's own lines write its kubeconfig; then it stores data, and sees models."""
    image = releases.runtime(cluster)
    if image["repository"] != "iml4e/runtime":
        pytest.skip("the node has no runtime image, which has the package `iml4e`")
    _, jobs = delivery.component()
    (code,) = (line for line in jobs[".iml4e:platform"]["before_script"] if "KUBECONFIG" in line)
    pod = delivery.job_pod()
    pod.pop("initContainers")
    build = pod["containers"][0]
    script = [
        code.replace("$[[ inputs.kubernetes ]]", ""),
        "echo a,b > /tmp/data.csv",
        f"iml4e data put /tmp/data.csv {unique}/data.csv",
        "iml4e models",
    ]
    build |= {
        "image": f"{image['registry']}/{image['repository']}:{image['tag']}",
        "command": ["sh", "-ec", "\n".join(script)],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "IML4E_URL", "value": f"http://{RELEASE}-gateway.{NAMESPACE}.svc"},
        ],
    }
    pod["containers"] = [build]
    runner.core.create_namespaced_pod(RUNNER, {"metadata": {"name": "job"}, "spec": pod})
    try:

        def phase() -> str:
            return runner.core.read_namespaced_pod("job", RUNNER).status.phase

        runner.wait("the job to end", lambda: phase() in ("Succeeded", "Failed"), 90)
        said = runner.core.read_namespaced_pod_log("job", RUNNER)
        assert phase() == "Succeeded", said
        assert f"s3://datasets/{unique}/data.csv?versionId=" in said
    finally:
        runner.core.delete_namespaced_pod("job", RUNNER, grace_period_seconds=0)


@pytest.mark.parametrize(
    ("verb", "resource", "name", "allowed"),
    [
        ("get", "configmaps", "iml4e-runner", True),
        ("update", "configmaps", "iml4e-runner", False),
        ("get", "secrets", "iml4e-s3-pipelines", True),
        ("get", "secrets", "iml4e-mariadb", False),
        ("list", "secrets", "", False),
        ("create", "pods/portforward", "iml4e-minio-0", True),
        ("create", "pods/portforward", "iml4e-mariadb-0", False),
        ("create", "pods/exec", "iml4e-minio-0", False),
        ("create", "pods", "", False),
        ("create", "serving.kserve.io/inferenceservices", "", True),
        ("update", "apps/deployments", "", False),
    ],
)
def test_the_account_of_jobs_has_no_right_too_many(
    runner: Cluster, verb: str, resource: str, name: str, allowed: bool
) -> None:
    asked = {"namespace": NAMESPACE, "verb": verb, "name": name}
    group, _, kind = resource.rpartition("/")
    if group == "pods":
        asked |= {"resource": group, "subresource": kind}
    else:
        asked |= {"group": group, "resource": kind}
    review = {"spec": {"user": f"system:serviceaccount:{RUNNER}:model-ci", "resourceAttributes": asked}}
    answer = AuthorizationV1Api(runner.core.api_client).create_subject_access_review(review)
    assert bool(answer.status.allowed) is allowed, answer.status.reason


# --- the platform's own delivery


def test_the_platforms_pipeline_plans_and_applies(cluster: Cluster, tmp_path: Path) -> None:
    """A small release of its own: made, then nothing changes, then what changes is told before it is applied."""
    command, missing = delivery.local_ci()
    if missing:
        pytest.skip(missing)
    name = "e2e-delivery"
    for folder in ("charts", "deploy", "values"):
        shutil.copytree(REPO / folder, tmp_path / folder)
    off = {part: {"enabled": False} for part in ("kserve", "mlflow", "minio", "mariadb", "pipelines", "prometheus", "grafana")}  # fmt: skip
    image = {"imageRegistry": helm.release_values()["global"]["imageRegistry"]}
    small = {**off, "global": image, "gateway": {"service": {"type": "ClusterIP"}}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(small))
    (tmp_path / ".gitlab-ci.yml").write_text("include: {local: deploy/gitlab/platform.yml}\n")
    for words in (
        ("init", "--quiet", "--initial-branch", "main"),
        ("config", "user.name", "test"),
        ("config", "user.email", "test@example.com"),
        ("add", "--all"),
        ("commit", "--quiet", "--message", "platform"),
        ("remote", "add", "origin", "https://gitlab.example.com/ml/iml4e.git"),
        ("update-ref", "refs/remotes/origin/main", "HEAD"),
        ("remote", "set-head", "origin", "main"),
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)

    def pipeline(*words: str, values: str = "") -> str:
        given = {"RELEASE": name, "NAMESPACE": name, "VALUES": f"--values values/laptop.yaml --values my.yaml {values}"}
        options = [word for key, value in given.items() for word in ("--variable", f"{key}={value}")]
        every = [*command, "--force-shell-executor", "--shell-isolation", "--no-color", *options, *words]
        done = subprocess.run(every, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        return done.stdout

    try:
        first = pipeline("--manual", "apply")
        assert "a new installation" in first
        assert re.findall(r"^ PASS +(\w+)", first, re.MULTILINE) == ["render", "plan", "apply", "check"]
        planned = pipeline("render", "plan", values="--set home.podLabels.team=ml")
        lines = re.findall(r"^plan +> ([-+](?!-- |[+][+] ).*)$", planned, re.MULTILINE)
        assert [line.split() for line in lines] == [["+", "team:", "ml"]], planned[-3000:]
        assert "team" not in cluster.get("apps/v1", "Deployment", f"{name}-home", name)["spec"]["template"]["metadata"]["labels"]  # fmt: skip
    finally:
        helm.helm("uninstall", name, "--namespace", name, "--ignore-not-found")
        with contextlib.suppress(ApiException):
            cluster.core.delete_namespace(name)
