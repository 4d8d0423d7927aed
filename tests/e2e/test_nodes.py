"""More than one node: replicas are spread, a drain loses no request, a node that vanishes costs what is told, volumes stay.

A release of its own has the machine's further nodes, whose taint keeps new pods of others away. Pods of others that are there already
are drained and lost with them.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from kubernetes.client.exceptions import ApiException

from availability import endpoints, machine
from availability.clients import Load
from availability.measurement import OK
from scripts.bare import images, nodes
from scripts.bare.node import Node
from support import releases
from support.k8s import Cluster, is_ready

pytestmark = [pytest.mark.disruptive, pytest.mark.timeout(900)]

NAME, PORT, MODEL = "e2e-nodes", 30081, "fraud"
URL = f"http://127.0.0.1:{PORT}"
MARK = "e2e-nodes"
#: The first node is drained and has replicas alone; the second one has the stores as well, and vanishes.
FIRST, SECOND = Node(2), Node(3)
FIRST_OF_ALL = Node(1).name
REPLICAS = ("gateway", "mlflow", "home")
EVERY = (*REPLICAS, MODEL)
MODEL_PODS = f"serving.kserve.io/inferenceservice={MODEL}"
SMALL = {"requests": {"cpu": "10m"}}
STORE = {"nodeSelector": {"kubernetes.io/hostname": SECOND.name}, "resources": SMALL}
VALUES: dict[str, Any] = {
    "global": {
        "nodeSelector": {MARK: "true"},
        "tolerations": [{"key": MARK, "operator": "Exists"}],
        "publicUrl": URL,
    },
    "gateway": {"replicas": 2, "service": {"type": "NodePort", "nodePort": PORT}},
    "mlflow": {"replicas": 2},
    "home": {"replicas": 2},
    "minio": STORE,
    "mariadb": STORE,
    "prometheus": {"enabled": False},
}
TRAIN = f"""
import mlflow
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

wines = load_wine(as_frame=True)
model = LogisticRegression(max_iter=5000).fit(wines.data, wines.target)
mlflow.set_experiment("nodes")
with mlflow.start_run() as run:
    mlflow.log_text("availability\\n", "note.txt")
    mlflow.sklearn.log_model(model, name="model", input_example=wines.data.head(2), registered_model_name="{MODEL}")
print(run.info.experiment_id, run.info.run_id)
"""
#: A slow answer is no lost one: the machine may be busy with something else.
PATIENCE = 90.0
#: This cluster waits 90 s for a sign of life of a node before it takes the node's pods out of Services; Kubernetes' default is 50 s.
NOTICED = 150


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Any:
    """A function that runs kubectl."""
    program = shutil.which("kubectl")
    assert program

    def run(*words: str, timeout: float = 400) -> str:
        command = [program, "--kubeconfig", str(cluster.config), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def there(cluster: Cluster, kubectl: Any) -> Iterator[Cluster]:
    """A release with two replicas of what can have two, on nodes 2 and 3."""
    if why := machine.missing():
        pytest.skip(why)
    if nodes.present()[:2] != [FIRST, SECOND]:
        pytest.skip("this machine's cluster has fewer than three nodes: `make up NODES=3` adds the others")
    both = [FIRST.name, SECOND.name]
    kubectl("label", "node", *both, f"{MARK}=true", "--overwrite")
    kubectl("taint", "node", *both, f"{MARK}=true:NoSchedule", "--overwrite")
    try:
        with releases.namespace(cluster, NAME) as place, releases.installed(place, ["laptop"], VALUES):
            yield place
    finally:
        for one in (FIRST, SECOND):
            nodes.start(one)
        kubectl("uncordon", *both)
        kubectl("taint", "node", *both, f"{MARK}-")
        kubectl("label", "node", *both, f"{MARK}-")


@pytest.fixture(scope="module")
def asked(there: Cluster) -> list[endpoints.Endpoint]:
    """What clients ask: a model of two replicas, the gateway, the landing page, MLflow and its artifacts."""
    experiment, run = releases.run(NAME, URL, "python", "-W", "ignore", "-c", TRAIN).split()[-2:]
    releases.run(NAME, URL, "iml4e", "deploy", f"{MODEL}/1", "--replicas", "2", "--max-replicas", "2", "--cpu", "10m")
    with httpx.Client(base_url=URL, timeout=PATIENCE, trust_env=False) as session:
        found = endpoints.model(session, NAME, MODEL, 10.0, 2)
        found += [each for each in endpoints.pages(session, NAME, NAME).endpoints if "Grafana" not in each.name]
    found += endpoints.mlflow("", run, experiment)
    for each in found:
        each.patience = PATIENCE
    return found


def lost(load: Load, *groups: str) -> Counter[tuple[str, str]]:
    """Failures by endpoint and kind, of some groups of endpoints or of all."""
    names = {each.name for each in load.endpoints if not groups or each.group in groups}
    asked = Counter(each.endpoint for each in load.requests)
    assert all(asked[name] >= 20 for name in names), asked
    return Counter(
        (each.endpoint, each.outcome) for each in load.requests if each.endpoint in names and each.outcome != OK
    )


def pods(there: Cluster, part: str) -> list[dict[str, Any]]:
    """Pods of a part, or of the model."""
    if part == MODEL:
        return there.pods(MODEL_PODS)
    labels = there.workload("Deployment", f"{NAME}-{part}")["spec"]["selector"]["matchLabels"]
    return there.pods(",".join(f"{key}={value}" for key, value in labels.items()))


def places(there: Cluster, part: str) -> list[str]:
    """Nodes of the pods of a part that are Ready."""
    return sorted(pod["spec"]["nodeName"] for pod in pods(there, part) if is_ready(pod))


def settle(there: Cluster) -> None:
    """Wait until every replica and every store is Ready."""
    for part in EVERY:
        there.wait(f"two replicas of {part}", lambda part=part: len(places(there, part)) == 2, 240)
    for part in ("minio", "mariadb"):
        there.wait_ready("StatefulSet", f"{NAME}-{part}", 240)


def spread(there: Cluster) -> None:
    """Bring replicas back to two nodes: Kubernetes moves no pod that runs."""
    for part in EVERY:
        if len(set(places(there, part))) == 1:
            name = pods(there, part)[0]["metadata"]["name"]
            there.core.delete_namespaced_pod(name, NAME)
    there.wait("the replicas to be on two nodes", lambda: all(
        places(there, part) == [FIRST.name, SECOND.name] for part in EVERY
    ), 300)  # fmt: skip


def test_every_node_has_the_images(cluster: Cluster) -> None:
    if why := machine.missing():
        pytest.skip(why)
    found = {node.metadata.name: node.status.images for node in cluster.core.list_node().items}
    if len(found) == 1:
        pytest.skip("the cluster has one node: `make up NODES=3` adds others")
    names = {node: {name for image in present for name in image.names or ()} for node, present in found.items()}
    # the first node may lack one whose sources have changed since `make up`
    wanted = {image.reference for image in images.wanted()} & names[FIRST_OF_ALL]
    assert len(wanted) > 10
    for node, present in names.items():
        assert wanted - present == set(), node


def test_replicas_are_on_different_nodes(there: Cluster, asked: list[endpoints.Endpoint]) -> None:
    settle(there)
    found = {part: places(there, part) for part in EVERY}
    assert found == {part: [FIRST.name, SECOND.name] for part in EVERY}


def test_volumes_belong_to_the_node_of_their_pod(cluster: Cluster, there: Cluster) -> None:
    for claim in there.core.list_namespaced_persistent_volume_claim(NAME).items:
        volume = cluster.core.read_persistent_volume(claim.spec.volume_name)
        terms = volume.spec.node_affinity.required.node_selector_terms
        assert [term.match_expressions[0].values for term in terms] == [[SECOND.name]]
        folder = SECOND.folder / "volumes" / (volume.spec.host_path or volume.spec.local).path.rpartition("/")[2]
        assert any(folder.iterdir()), f"{folder} is empty"


@pytest.mark.parametrize("part", EVERY)
def test_only_one_replica_may_be_evicted(there: Cluster, asked: list[endpoints.Endpoint], part: str) -> None:
    settle(there)
    names = [pod["metadata"]["name"] for pod in pods(there, part)]

    def evict(name: str) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAME}}
        there.core.create_namespaced_pod_eviction(name, NAME, body)

    evict(names[0])
    with pytest.raises(ApiException) as refused:
        evict(names[1])
    assert refused.value.status == 429


DRAIN = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=380s")


def test_a_drain_loses_no_request(
    there: Cluster, asked: list[endpoints.Endpoint], kubectl: Any, record_property: Any
) -> None:
    settle(there)
    spread(there)
    with Load(URL, asked) as load:
        time.sleep(3)
        begun = time.monotonic()
        kubectl("drain", FIRST.name, *DRAIN)
        record_property("seconds", round(time.monotonic() - begun))
        settle(there)
        time.sleep(3)
    kubectl("uncordon", FIRST.name)
    record_property("requests", len(load.requests))
    assert {part: places(there, part) for part in EVERY} == {part: [SECOND.name] * 2 for part in EVERY}
    assert lost(load) == Counter()


def test_a_drain_of_the_stores_keeps_the_last_replica_that_needs_them(
    cluster: Cluster, there: Cluster, asked: list[endpoints.Endpoint], kubectl: Any, record_property: Any
) -> None:
    """The volumes stay on their node, so a new replica of a model has no object store: the drain waits, and the old replica serves."""
    settle(there)
    for part in EVERY:  # the drain before moved all of them here
        assert places(there, part) == [SECOND.name] * 2, part
    program = shutil.which("kubectl")
    assert program
    with Load(URL, asked) as load:
        time.sleep(3)
        command = [program, "--kubeconfig", str(cluster.config), "drain", SECOND.name, *DRAIN]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as drain:
            try:
                there.wait(
                    "gateway and landing page to have moved",
                    lambda: all(places(there, part) == [FIRST.name] * 2 for part in ("gateway", "home")),
                    240,
                )
                time.sleep(10)
                waiting = {pod["metadata"]["name"] for pod in there.pods() if not pod["spec"].get("nodeName")}
                left = places(there, MODEL)
                assert drain.poll() is None
            finally:
                drain.terminate()
                kubectl("uncordon", SECOND.name)
        settle(there)
        time.sleep(3)
    record_property("requests", len(load.requests))
    record_property("lost", str(dict(lost(load))))
    assert {f"{NAME}-mariadb-0", f"{NAME}-minio-0"} <= waiting
    assert left == [SECOND.name]
    assert lost(load, endpoints.MODELS, endpoints.GATEWAY, endpoints.PAGES) == Counter()
    assert answers(asked)


def answers(asked: list[endpoints.Endpoint]) -> bool:
    """Whether MLflow has the run and its artifact, from the database and the object store."""
    with httpx.Client(base_url=URL, timeout=PATIENCE, trust_env=False) as session:
        for each in asked:
            if each.name in ("MLflow, read", "MLflow, artifact"):
                answer = session.request(each.method, each.path, json=each.body(0))
                assert each.judge(answer.status_code, answer.content) == OK, each.name
    return True


def test_a_node_that_vanishes_is_noticed_and_comes_back_with_its_data(
    there: Cluster, asked: list[endpoints.Endpoint], kubectl: Any, record_property: Any
) -> None:
    """Clients wait or fail while Kubernetes still counts on the node; after that the other replicas answer all of them."""
    settle(there)
    spread(there)
    for each in asked:
        each.patience = 10.0
    with Load(URL, [each for each in asked if each.group in (endpoints.MODELS, endpoints.GATEWAY)]) as load:
        time.sleep(5)
        nodes.halt(SECOND)
        gone = time.time()
        there.wait(
            "the node to be taken for lost",
            lambda: all(SECOND.name not in places(there, part) for part in EVERY),
            NOTICED,
        )
        noticed = time.time() - gone
        time.sleep(20)
        calm = [each.outcome for each in load.requests if each.due > gone + noticed + 5]
        # alone, the replicas of the other node answer everything
        assert len(calm) >= 100
        assert Counter(calm) == {OK: len(calm)}
        begun = time.monotonic()
        nodes.start(SECOND)
        settle(there)
        back = time.monotonic() - begun
        time.sleep(3)
    failed = Counter(each.outcome for each in load.requests if each.outcome != OK)
    late = max((each.due - gone for each in load.requests if each.outcome != OK), default=0.0)
    for name, value in {
        "noticed": round(noticed), "back": round(back), "requests": len(load.requests), "failed": dict(failed),
        "last failure": round(late),
    }.items():  # fmt: skip
        record_property(name, value)
    other = [
        (each.endpoint, each.connection, each.outcome, f"{each.due - gone:.1f} s, ended after {each.seconds:.1f} s")
        for each in load.requests
        # a machine that loses a link forgets the connections over it, and their next packet reaches the other replica
        if each.outcome not in (OK, "timeout", *(["reset"] if each.due < gone else []))
    ]
    assert other == [], f"noticed after {noticed:.0f} s"
    assert late <= noticed + 10
    assert answers(asked)
