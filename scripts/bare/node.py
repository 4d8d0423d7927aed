"""A node: its addresses, the command lines of its processes, certificates and configuration files."""

import json
import string
from dataclasses import dataclass
from pathlib import Path

from scripts.common import console
from scripts.common.paths import BIN, CONTAINERD, LOG, PKI, RUN, STATE

from . import golang, images
from .processes import Process, answers, listens, port_taken

NODE = "iml4e"
#: Test ranges of RFC 2544, which collide with no real network. The node has an address of its own on a dummy link,
#: so the cluster outlives a change of the host's network.
POD_RANGE, SERVICE_RANGE, NODE_ADDRESS, DNS_ADDRESS = "198.18.0.0/16", "198.19.0.0/17", "198.19.128.1", "198.19.0.10"
#: The addresses of further nodes and of their pods.
NODES_RANGE = "198.19.128.0/17"
BRIDGE = "iml4e0"
API = f"https://{NODE_ADDRESS}:6443"
#: Host ports that the cluster and the gateway use.
PORTS = {
    2379: "etcd",
    2380: "etcd",
    2381: "etcd",
    10248: "kubelet",
    10250: "kubelet",
    10256: "kube-proxy",
    10257: "kube-controller-manager",
    10258: "kube-router",
    10259: "kube-scheduler",
    30080: "the gateway",
}


@dataclass(frozen=True)
class Node:
    """A node by its number. Node 1 is the machine itself; a further node has namespaces of its own on the same machine (nodes.py)."""

    number: int

    @property
    def name(self) -> str:
        """Its name in the cluster; of a further node also its link's and its cgroup's."""
        return NODE if self.number == 1 else f"{NODE}-{self.number}"

    @property
    def address(self) -> str:
        """Its address; the API server reaches its kubelet there."""
        return f"{NODE_ADDRESS.rpartition('.')[0]}.{self.number}"

    @property
    def health_address(self) -> str:
        """Where kubelet and kube-proxy tell their health: 127.0.0.1 of a further node is not reached from the machine."""
        return "127.0.0.1" if self.number == 1 else self.address

    @property
    def pods(self) -> str:
        """The range of its pods."""
        return POD_RANGE if self.number == 1 else f"198.19.{128 + self.number}.0/24"

    @property
    def folder(self) -> Path:
        """Its configuration and data."""
        return STATE if self.number == 1 else STATE / "nodes" / str(self.number)

    @property
    def containerd(self) -> Path:
        """The socket of its containerd."""
        return CONTAINERD if self.number == 1 else self.folder / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """The cgroup that holds all of its pods and nothing else."""
        return "kubepods" if self.number == 1 else self.name

    def called(self, process: str) -> str:
        """Name of one of its processes among those of all nodes."""
        return process if self.number == 1 else f"{process}-{self.number}"


FIRST = Node(1)


def every_process() -> tuple[Process, ...]:
    """The processes of the control plane and of node 1, in the order in which they start."""
    etcd = PKI / "etcd"
    return (
        Process(
            "etcd",
            (
                str(BIN / "etcd"),
                f"--name={NODE}",
                f"--data-dir={STATE / 'etcd'}",
                "--listen-client-urls=https://127.0.0.1:2379",
                "--advertise-client-urls=https://127.0.0.1:2379",
                "--listen-peer-urls=https://127.0.0.1:2380",
                "--initial-advertise-peer-urls=https://127.0.0.1:2380",
                f"--initial-cluster={NODE}=https://127.0.0.1:2380",
                "--listen-metrics-urls=http://127.0.0.1:2381",
                f"--cert-file={etcd / 'server.crt'}",
                f"--key-file={etcd / 'server.key'}",
                f"--trusted-ca-file={etcd / 'ca.crt'}",
                "--client-cert-auth",
                f"--peer-cert-file={etcd / 'peer.crt'}",
                f"--peer-key-file={etcd / 'peer.key'}",
                f"--peer-trusted-ca-file={etcd / 'ca.crt'}",
                "--peer-client-cert-auth",
                "--auto-compaction-retention=1",
            ),
            lambda: answers("http://127.0.0.1:2381/readyz"),
        ),
        Process(
            "kube-apiserver",
            (
                str(BIN / "kube-apiserver"),
                f"--advertise-address={NODE_ADDRESS}",
                f"--bind-address={NODE_ADDRESS}",
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                f"--client-ca-file={PKI / 'ca.crt'}",
                f"--tls-cert-file={PKI / 'apiserver.crt'}",
                f"--tls-private-key-file={PKI / 'apiserver.key'}",
                "--etcd-servers=https://127.0.0.1:2379",
                f"--etcd-cafile={etcd / 'ca.crt'}",
                f"--etcd-certfile={PKI / 'apiserver-etcd-client.crt'}",
                f"--etcd-keyfile={PKI / 'apiserver-etcd-client.key'}",
                f"--kubelet-client-certificate={PKI / 'apiserver-kubelet-client.crt'}",
                f"--kubelet-client-key={PKI / 'apiserver-kubelet-client.key'}",
                "--kubelet-preferred-address-types=InternalIP",
                f"--proxy-client-cert-file={PKI / 'front-proxy-client.crt'}",
                f"--proxy-client-key-file={PKI / 'front-proxy-client.key'}",
                f"--requestheader-client-ca-file={PKI / 'front-proxy-ca.crt'}",
                "--requestheader-allowed-names=front-proxy-client",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-username-headers=X-Remote-User",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={PKI / 'sa.pub'}",
                f"--service-account-signing-key-file={PKI / 'sa.key'}",
                f"--service-cluster-ip-range={SERVICE_RANGE}",
                "--profiling=false",
            ),
            lambda: answers(f"{API}/readyz"),
        ),
        Process(
            "kube-controller-manager",
            (
                str(BIN / "kube-controller-manager"),
                "--bind-address=127.0.0.1",
                f"--kubeconfig={STATE / 'controller-manager.conf'}",
                f"--client-ca-file={PKI / 'ca.crt'}",
                f"--cluster-signing-cert-file={PKI / 'ca.crt'}",
                f"--cluster-signing-key-file={PKI / 'ca.key'}",
                f"--root-ca-file={PKI / 'ca.crt'}",
                f"--service-account-private-key-file={PKI / 'sa.key'}",
                "--use-service-account-credentials",
                "--leader-elect=false",
                # The clock of a node's lease goes on while the API server is away. With leader election the controller would start
                # anew, and its clocks; without, 50 s (the default) took every pod out of its Service after an outage of 30 s.
                "--node-monitor-grace-period=90s",
            ),
            lambda: port_taken(10257),
        ),
        Process(
            "kube-scheduler",
            (
                str(BIN / "kube-scheduler"),
                "--bind-address=127.0.0.1",
                f"--kubeconfig={STATE / 'scheduler.conf'}",
                "--leader-elect=false",
            ),
            lambda: port_taken(10259),
        ),
        *workers(FIRST),
    )


def workers(node: Node) -> tuple[Process, ...]:
    """What every node runs, in the order in which it starts."""
    health = node.health_address
    within = node.called("node") if node.number > 1 else ""
    return (
        Process(
            node.called("containerd"),
            (str(BIN / "containerd"), "--config", str(node.folder / "containerd.toml")),
            lambda: listens(node.containerd),
            within,
        ),
        Process(
            node.called("kubelet"),
            (
                str(BIN / "kubelet"),
                f"--config={node.folder / 'kubelet.json'}",
                f"--kubeconfig={node.folder / 'kubelet.conf'}",
                f"--root-dir={node.folder / 'kubelet'}",
                f"--hostname-override={node.name}",
                f"--node-ip={node.address}",
            ),
            lambda: answers(f"http://{health}:10248/healthz"),
            within,
        ),
        Process(
            node.called("kube-proxy"),
            (
                str(BIN / "kube-proxy"),
                f"--config={node.folder / 'kube-proxy.json'}",
                f"--hostname-override={node.name}",
            ),
            lambda: answers(f"http://{health}:10256/healthz"),
            within,
        ),
        # enforces NetworkPolicies; asks for the node's address, which the kubelet has to write first
        Process(
            node.called("kube-router"),
            (
                str(BIN / "kube-router"),
                f"--kubeconfig={STATE / 'kube-router.conf'}",
                f"--hostname-override={node.name}",
                f"--service-cluster-ip-range={SERVICE_RANGE}",
                f"--healthz-bind-address={health}:10258",
            ),
            lambda: answers(f"http://{health}:10258/healthz"),
            within,
        ),
    )


def write(path: Path, text: str) -> None:
    """Write a file unless it has this content; an interruption leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        part = path.with_name(f"{path.name}.part")
        part.write_text(text)
        part.replace(path)


def certificates() -> None:
    """Keys, certificates and kubeconfigs by kubeadm's phases: they keep what is there and make what is missing."""
    config = STATE / "kubeadm.json"
    documents = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": NODE_ADDRESS, "bindPort": 6443},
            "nodeRegistration": {"name": NODE, "criSocket": f"unix://{CONTAINERD}"},
        },
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "clusterName": "iml4e",
            "kubernetesVersion": golang.KUBERNETES_VERSION,
            "certificatesDir": str(PKI),
            "controlPlaneEndpoint": f"{NODE_ADDRESS}:6443",
            "networking": {"podSubnet": POD_RANGE, "serviceSubnet": SERVICE_RANGE, "dnsDomain": "cluster.local"},
            "apiServer": {"certSANs": ["localhost", "127.0.0.1"]},
        },
    ]
    write(config, "\n---\n".join(json.dumps(document) for document in documents))
    log = LOG / "kubeadm.log"
    if (
        not (PKI / "apiserver.crt").exists()
        or not (PKI / "etcd" / "peer.crt").exists()
        or not (PKI / "sa.pub").exists()
    ):
        console.run([BIN / "kubeadm", "init", "phase", "certs", "all", "--config", config], log=log)
    if not all(
        (STATE / name).exists()
        for name in ("admin.conf", "super-admin.conf", "kubelet.conf", "controller-manager.conf", "scheduler.conf")
    ):
        console.run(
            [BIN / "kubeadm", "init", "phase", "kubeconfig", "all", "--config", config, "--kubeconfig-dir", STATE],
            log=log,
        )
    for name, user in (("kube-proxy.conf", "system:kube-proxy"), ("kube-router.conf", "iml4e:kube-router")):
        if not (STATE / name).exists():
            words = ["kubeconfig", "user", "--client-name", user, "--config", config]
            write(STATE / name, console.run([BIN / "kubeadm", *words]))
            (STATE / name).chmod(0o600)


def kubeconfig(node: Node) -> None:
    """The kubeconfig of a further node's kubelet; kubeadm's phases make the one of node 1."""
    path = node.folder / "kubelet.conf"
    if not path.exists():
        user = ["--client-name", f"system:node:{node.name}", "--org", "system:nodes"]
        text = console.run([BIN / "kubeadm", "kubeconfig", "user", *user, "--config", STATE / "kubeadm.json"])
        write(path, text)
        path.chmod(0o600)


def containerd(folder: Path, run: Path, socket: Path) -> None:
    """Write the configuration of a containerd whose data is below a folder."""
    write(
        folder / "containerd.toml",
        string.Template((Path(__file__).parent / "containerd.toml").read_text()).substitute(
            root=folder / "containerd",
            run=run,
            socket=socket,
            pause=images.named("pause").reference,
            cni_bin=BIN / "cni",
            cni_conf=folder / "cni",
        ),
    )


def configuration(node: Node = FIRST) -> None:
    """Write the configuration files of containerd, of the network of pods, of kubelet and kube-proxy."""
    folder, first = node.folder, node.number == 1
    containerd(folder, RUN / "containerd" if first else folder / "run", node.containerd)
    network = {
        "cniVersion": "1.0.0",
        "name": "iml4e",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "cni-addresses"),
                    "ranges": [[{"subnet": node.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
    write(folder / "cni" / "10-iml4e.conflist", json.dumps(network, indent=1))
    resolv = Path("/run/systemd/resolve/resolv.conf")
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(PKI / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "containerLogMaxSize": "5Mi",
        "containerRuntimeEndpoint": f"unix://{node.containerd}",
        # Evicting pods would not free a disk that other programs have filled.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "500Mi", "imagefs.available": "500Mi"},
        "failCgroupV1": False,
        "failSwapOn": False,
        # An image that was removed could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str((LOG if first else folder / "log") / "pods"),
        "resolvConf": str(resolv if resolv.exists() else "/etc/resolv.conf"),
        "serializeImagePulls": False,
    }
    if not first:
        kubelet |= {"cgroupRoot": f"/{node.cgroup}", "healthzBindAddress": node.health_address}
    write(folder / "kubelet.json", json.dumps(kubelet, indent=1))
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(STATE / "kube-proxy.conf")},
        "clusterCIDR": node.pods,
        "conntrack": {"maxPerCore": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
        "healthzBindAddress": f"{node.health_address}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "iptables",
        # The gateway of a bare machine accepts connections from that machine only.
        "nodePortAddresses": ["127.0.0.0/8"],
    }
    write(folder / "kube-proxy.json", json.dumps(proxy, indent=1))
