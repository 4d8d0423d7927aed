"""The node: its addresses, the command lines of its processes, certificates and configuration files."""

import json
import string
from pathlib import Path

from scripts.common import console
from scripts.common.paths import BIN, CONTAINERD, LOG, PKI, RUN, STATE

from . import golang, images
from .processes import Process, answers, listens, port_taken

NODE = "iml4e"
#: Test ranges of RFC 2544, which collide with no real network. The node has an address of its own on a dummy link,
#: so the cluster outlives a change of the host's network.
POD_RANGE, SERVICE_RANGE, NODE_ADDRESS, DNS_ADDRESS = "198.18.0.0/16", "198.19.0.0/17", "198.19.128.1", "198.19.0.10"
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


def every_process() -> tuple[Process, ...]:
    """The processes in the order in which they start."""
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
        Process(
            "containerd",
            (str(BIN / "containerd"), "--config", str(STATE / "containerd.toml")),
            lambda: listens(CONTAINERD),
        ),
        Process(
            "kubelet",
            (
                str(BIN / "kubelet"),
                f"--config={STATE / 'kubelet.json'}",
                f"--kubeconfig={STATE / 'kubelet.conf'}",
                f"--root-dir={STATE / 'kubelet'}",
                f"--hostname-override={NODE}",
                f"--node-ip={NODE_ADDRESS}",
            ),
            lambda: answers("http://127.0.0.1:10248/healthz"),
        ),
        Process(
            "kube-proxy",
            (str(BIN / "kube-proxy"), f"--config={STATE / 'kube-proxy.json'}", f"--hostname-override={NODE}"),
            lambda: answers("http://127.0.0.1:10256/healthz"),
        ),
        # enforces NetworkPolicies
        Process(
            "kube-router",
            (
                str(BIN / "kube-router"),
                f"--kubeconfig={STATE / 'kube-router.conf'}",
                f"--hostname-override={NODE}",
                f"--service-cluster-ip-range={SERVICE_RANGE}",
                "--healthz-bind-address=127.0.0.1:10258",
            ),
            lambda: answers("http://127.0.0.1:10258/healthz"),
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


def configuration() -> None:
    """Write the configuration files of containerd, of the network of pods, of kubelet and kube-proxy."""
    write(
        STATE / "containerd.toml",
        string.Template((Path(__file__).parent / "containerd.toml").read_text()).substitute(
            root=STATE / "containerd",
            run=RUN / "containerd",
            socket=CONTAINERD,
            pause=images.named("pause").reference,
            cni_bin=BIN / "cni",
            cni_conf=STATE / "cni",
        ),
    )
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
                    "dataDir": str(STATE / "cni-addresses"),
                    "ranges": [[{"subnet": POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
    write(STATE / "cni" / "10-iml4e.conflist", json.dumps(network, indent=1))
    resolv = Path("/run/systemd/resolve/resolv.conf")
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
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
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        # Evicting pods would not free a disk that other programs have filled.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "500Mi", "imagefs.available": "500Mi"},
        "failCgroupV1": False,
        "failSwapOn": False,
        # An image that was removed could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(LOG / "pods"),
        "resolvConf": str(resolv if resolv.exists() else "/etc/resolv.conf"),
        "serializeImagePulls": False,
    }
    write(STATE / "kubelet.json", json.dumps(kubelet, indent=1))
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(STATE / "kube-proxy.conf")},
        "clusterCIDR": POD_RANGE,
        "conntrack": {"maxPerCore": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "iptables",
        # The gateway of a bare machine accepts connections from that machine only.
        "nodePortAddresses": ["127.0.0.0/8"],
    }
    write(STATE / "kube-proxy.json", json.dumps(proxy, indent=1))
