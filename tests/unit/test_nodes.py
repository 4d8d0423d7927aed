"""Further nodes of a bare machine: how many, their addresses and files, and what keeps a node from being removed."""

from __future__ import annotations

import ipaddress
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.bare import cluster, doctor, host, node, nodes, processes
from scripts.bare.node import FIRST, Node
from scripts.common import console
from scripts.platform import release

EVERY = [Node(number) for number in range(1, nodes.MOST + 1)]


@pytest.mark.parametrize(("text", "count"), [("", None), ("1", 1), ("3", 3), ("9", 9)])
def test_the_number_of_nodes(monkeypatch: pytest.MonkeyPatch, text: str, count: int | None) -> None:
    monkeypatch.setenv("IML4E_NODES", text)
    assert nodes.wanted() == count


@pytest.mark.parametrize("text", ["0", "10", "-1", "three", "2.0", "²", " 3"])
def test_no_number_of_nodes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("IML4E_NODES", text)
    with pytest.raises(console.Failure, match="no number from 1 to 9") as caught:
        nodes.wanted()
    assert caught.value.cure == "Try `make up NODES=3`."


def test_a_cluster_of_others_gets_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IML4E_NODES", "3")
    monkeypatch.setattr(release, "foreign_cluster", lambda: True)
    with pytest.raises(console.Failure, match="NODES is 3, but the cluster that KUBECONFIG names"):
        release.up()


def test_the_first_node_is_the_machine() -> None:
    assert (FIRST.name, FIRST.address, FIRST.pods) == (node.NODE, node.NODE_ADDRESS, node.POD_RANGE)
    assert [process.name for process in node.workers(FIRST)] == ["containerd", "kubelet", "kube-proxy", "kube-router"]
    assert {process.within for process in node.every_process()} == {""}


def test_no_range_overlaps_another() -> None:
    ranges = [node.SERVICE_RANGE, *(each.pods for each in EVERY), *(f"{each.address}/32" for each in EVERY)]
    networks = [ipaddress.ip_network(each) for each in ranges]
    assert not [pair for pair in itertools.combinations(networks, 2) if pair[0].overlaps(pair[1])]
    of_nodes = ipaddress.ip_network(node.NODES_RANGE)
    assert all(of_nodes.supernet_of(ipaddress.ip_network(each.pods)) for each in EVERY[1:])


def test_processes_files_and_links_of_nodes_are_their_own() -> None:
    names = [process.name for each in EVERY[1:] for process in nodes.every_process(each)]
    names += [process.name for process in node.every_process()]
    assert len(set(names)) == len(names)
    assert len({each.folder for each in EVERY}) == len({each.containerd for each in EVERY}) == len(EVERY)
    # a name of a link has 15 characters at most, a path of a socket 107
    assert all(len(each.name) <= 15 and len(f"{each.containerd}.ttrpc") <= 107 for each in EVERY)


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Node 2 of a state folder of its own."""
    for module in (node, nodes, processes):
        for name in ("STATE", "RUN", "LOG"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, tmp_path)
    return Node(2)


def test_the_configuration_of_a_further_node(second: Node, tmp_path: Path) -> None:
    node.configuration(second)
    folder = tmp_path / "nodes" / "2"
    kubelet = json.loads((folder / "kubelet.json").read_text())
    assert kubelet["address"] == kubelet["healthzBindAddress"] == "198.19.128.2"
    assert (kubelet["cgroupRoot"], kubelet["podLogsDir"]) == ("/iml4e-2", str(folder / "log" / "pods"))
    network = json.loads((folder / "cni" / "10-iml4e.conflist").read_text())["plugins"][0]["ipam"]
    assert network["ranges"] == [[{"subnet": "198.19.130.0/24"}]]
    proxy = json.loads((folder / "kube-proxy.json").read_text())
    assert (proxy["clusterCIDR"], proxy["nodePortAddresses"]) == ("198.19.130.0/24", ["127.0.0.0/8"])
    assert f'root = "{folder / "containerd"}"' in (folder / "containerd.toml").read_text()


def test_the_configuration_of_the_first_node_knows_of_no_other(second: Node, tmp_path: Path) -> None:
    node.configuration()
    kubelet = json.loads((tmp_path / "kubelet.json").read_text())
    assert not {"cgroupRoot", "healthzBindAddress"} & set(kubelet)
    assert not (tmp_path / "nodes").exists()


def test_processes_of_a_node_follow_its_namespaces(second: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "pid_of", {"node-2": 77}.get)
    kubelet = node.workers(second)[1]
    before = kubelet.signature
    assert processes.inside(kubelet.within) == ["nsenter", "--net=/proc/77/ns/net", "--mount=/proc/77/ns/mnt", "--"]
    monkeypatch.setattr(processes, "pid_of", {"node-2": 78}.get)
    assert kubelet.signature != before
    monkeypatch.setattr(processes, "pid_of", {}.get)
    with pytest.raises(console.Failure, match="node-2 is not running"):
        processes.inside(kubelet.within)


def test_nodes_that_there_are(second: Node, tmp_path: Path) -> None:
    assert nodes.present() == []
    for name in ("2", "3", "images"):
        (tmp_path / "nodes" / name).mkdir(parents=True)
    assert nodes.present() == [Node(2), Node(3)]


def test_a_new_node_shares_files_and_copies_databases(
    second: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "nodes" / "images"
    monkeypatch.setattr(nodes, "STORE", store)
    monkeypatch.setattr(nodes, "_images", lambda: None)
    files = {"snapshotter/metadata.db": "a", "bolt/meta.db": "b", "snapshotter/snapshots/1/fs/usr/lib/x.db": "c"}
    for name, text in files.items():
        (store / "containerd" / name).parent.mkdir(parents=True, exist_ok=True)
        (store / "containerd" / name).write_text(text)
    (store / "marks").mkdir()
    (store / "marks" / "mlflow").write_text("key")
    second.folder.mkdir(parents=True)
    nodes._copy_images(second)
    copied = {name: second.folder / "containerd" / name for name in files}
    assert {name: path.read_text() for name, path in copied.items()} == files
    shared = {name: path.samefile(store / "containerd" / name) for name, path in copied.items()}
    assert shared == {name: "fs" in name for name in files}
    assert (second.folder / "images" / "mlflow").read_text() == "key"


def volume(claim: str, *names: str) -> dict[str, Any]:
    """A volume that some nodes can mount."""
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(names)}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    return {
        "spec": {"claimRef": {"namespace": "iml4e", "name": claim}, **({"nodeAffinity": affinity} if names else {})}
    }


def test_the_claims_of_a_node() -> None:
    volumes = [volume("b", "iml4e-2"), volume("a", "iml4e-2"), volume("c", "iml4e"), volume("shared")]
    assert cluster.claims_on(volumes, "iml4e-2") == ["iml4e/a", "iml4e/b"]
    assert cluster.claims_on(volumes, "iml4e-3") == []


def test_a_node_with_volumes_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "kubectl", lambda *words: json.dumps({"items": [volume("data-minio-0", "iml4e-2")]}))
    monkeypatch.setattr(nodes, "remove", lambda one: pytest.fail("it was removed"))
    with pytest.raises(console.Failure, match="Node iml4e-2 has the data of 1 volumes, iml4e/data-minio-0 first"):
        cluster._remove(Node(2))


@pytest.mark.parametrize(
    ("present", "count", "started", "removed"),
    [
        ([], None, [], []),
        ([], 1, [], []),
        ([], 3, [2, 3], []),
        ([2], 3, [2, 3], []),
        ([2, 3], None, [2, 3], []),
        ([2, 3], 2, [2], [3]),
        ([2, 3], 1, [], [3, 2]),
    ],
)
def test_nodes_are_added_kept_and_removed(
    monkeypatch: pytest.MonkeyPatch, present: list[int], count: int | None, started: list[int], removed: list[int]
) -> None:
    done: list[tuple[str, int]] = []
    monkeypatch.setattr(nodes, "present", lambda: [Node(number) for number in present])
    monkeypatch.setattr(nodes, "start", lambda one: done.append(("start", one.number)))
    monkeypatch.setattr(cluster, "_remove", lambda one: done.append(("remove", one.number)))
    assert [one.number for one in cluster._nodes(count)] == started
    assert done == [*(("remove", number) for number in removed), *(("start", number) for number in started)]


def test_the_doctor_counts_the_nodes_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory() -> str:
        return next(each.what for each in doctor.findings() if "GiB of memory" in each.what).partition(" GiB")[0]

    monkeypatch.delenv("IML4E_NODES", raising=False)
    monkeypatch.setattr(nodes, "present", list)
    assert memory() == "at least 6"
    monkeypatch.setenv("IML4E_NODES", "3")
    assert memory() == "at least 7"
    monkeypatch.setattr(nodes, "present", lambda: [Node(2), Node(3)])
    assert memory() == "at least 6"


def test_masquerading_covers_every_pod_and_no_address_of_the_cluster() -> None:
    for source in (node.POD_RANGE, node.NODES_RANGE):
        rule = host._masquerading(source)
        assert rule[1:6] == ["-s", source, "!", "-d", "198.18.0.0/15"]
