"""A single-node Kubernetes made of plain processes: start, heal, look at, remove."""

import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import string
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import console, golang, images
from .paths import BIN, CACHE, KUBECONFIG, LOG, PKI, RUN, STATE

NODE = "iml4e"
#: Test ranges of RFC 2544, which collide with no real network. The node has an address of its own on a dummy link,
#: so the cluster outlives a change of the host's network.
POD_RANGE, SERVICE_RANGE, NODE_ADDRESS, DNS_ADDRESS = "198.18.0.0/16", "198.19.0.0/17", "198.19.128.1", "198.19.0.10"
BRIDGE = "iml4e0"
SOCKET = RUN / "containerd.sock"
API = f"https://{NODE_ADDRESS}:6443"
MANIFESTS = Path(__file__).parent / "manifests"
BOOTSTRAP_RBAC = Path(__file__).parent / "bootstrap-rbac.yaml"
#: What the node's programs change in the kernel; `down` puts it back.
SYSCTLS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/bridge/bridge-nf-call-iptables",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
#: Folders outside the state that the kubelet makes by itself.
FOLDERS = (Path("/var/lib/kubelet"), Path("/var/log/containers"))
MASQUERADE = (
    "POSTROUTING",
    "-s",
    POD_RANGE,
    "!",
    "-d",
    "198.18.0.0/15",
    "-m",
    "comment",
    "--comment",
    "iml4e",
    "-j",
    "MASQUERADE",
)


@dataclass(frozen=True)
class Component:
    """A process of the cluster: its command line and the question that tells whether it is ready."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool]

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return LOG / f"{self.name}.log"

    @property
    def signature(self) -> str:
        """Changes with the command line, the program and the configuration files named in it."""
        digest = hashlib.sha256(repr((self.command, os.path.realpath(self.command[0]))).encode())
        for word in self.command[1:]:
            path = Path(word.split("=", 1)[-1])
            if path.suffix in (".json", ".toml") and path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


def _answers(url: str) -> bool:
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt")) if url.startswith("https") else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def kubectl(*words: str, stdin: str | None = None) -> str:
    """Run kubectl as the cluster's administrator."""
    return console.run([BIN / "kubectl", "--kubeconfig", KUBECONFIG, *words], stdin=stdin)


def _kubectl_ok(*words: str) -> bool:
    try:
        kubectl(*words)
    except console.Failure:
        return False
    return True


def components() -> tuple[Component, ...]:
    """The processes in the order in which they start."""
    etcd = PKI / "etcd"
    return (
        Component(
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
            lambda: _answers("http://127.0.0.1:2381/readyz"),
        ),
        Component(
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
            lambda: _answers(f"{API}/readyz"),
        ),
        Component(
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
            ),
            lambda: port_taken(10257),
        ),
        Component(
            "kube-scheduler",
            (
                str(BIN / "kube-scheduler"),
                "--bind-address=127.0.0.1",
                f"--kubeconfig={STATE / 'scheduler.conf'}",
                "--leader-elect=false",
            ),
            lambda: port_taken(10259),
        ),
        Component(
            "containerd",
            (str(BIN / "containerd"), "--config", str(STATE / "containerd.toml")),
            lambda: _listens(SOCKET),
        ),
        Component(
            "kubelet",
            (
                str(BIN / "kubelet"),
                f"--config={STATE / 'kubelet.json'}",
                f"--kubeconfig={STATE / 'kubelet.conf'}",
                f"--root-dir={STATE / 'kubelet'}",
                f"--hostname-override={NODE}",
                f"--node-ip={NODE_ADDRESS}",
            ),
            lambda: _answers("http://127.0.0.1:10248/healthz"),
        ),
        Component(
            "kube-proxy",
            (str(BIN / "kube-proxy"), f"--config={STATE / 'kube-proxy.json'}", f"--hostname-override={NODE}"),
            lambda: _answers("http://127.0.0.1:10256/healthz"),
        ),
    )


#: Host ports that the cluster and the gateway use.
PORTS = {
    2379: "etcd",
    2380: "etcd",
    2381: "etcd",
    10248: "kubelet",
    10250: "kubelet",
    10256: "kube-proxy",
    10257: "kube-controller-manager",
    10259: "kube-scheduler",
    30080: "the gateway",
}


def port_taken(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


# Processes


def _started_at(pid: int) -> str | None:
    """The kernel's start time of a process: with the number it names one process for good. None for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def pid_of(name: str) -> int | None:
    """The number of the running process that we started under this name."""
    try:
        noted = json.loads((RUN / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return noted["pid"] if _started_at(noted["pid"]) == noted["started"] else None


def _runs_as_configured(component: Component) -> bool:
    """Whether our process of this name runs, with today's command line, program and configuration."""
    if not pid_of(component.name):
        return False
    return json.loads((RUN / f"{component.name}.json").read_text())["signature"] == component.signature


def _start(component: Component) -> None:
    note = RUN / f"{component.name}.json"
    pid = pid_of(component.name)
    if _runs_as_configured(component):
        return
    if pid:
        _stop(component.name)
    component.log.parent.mkdir(parents=True, exist_ok=True)
    with component.log.open("a") as log:
        process = subprocess.Popen(
            component.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=STATE,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        )
    note.write_text(
        json.dumps({"pid": process.pid, "started": _started_at(process.pid), "signature": component.signature})
    )


def _stop(name: str, seconds: float = 20) -> None:
    pid = pid_of(name)
    if pid:
        started = _started_at(pid)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while _started_at(pid) == started and time.monotonic() < deadline:
            time.sleep(0.1)
        if _started_at(pid) == started:
            os.kill(pid, signal.SIGKILL)
    (RUN / f"{name}.json").unlink(missing_ok=True)


def _start_and_wait(component: Component, seconds: float = 90) -> None:
    if _runs_as_configured(component) and component.ready():
        return
    with console.step(f"start {component.name}"):
        _start(component)

        def ready() -> bool:
            if not pid_of(component.name):
                raise console.Failure(
                    f"{component.name} ended right after its start.",
                    f"Its whole log is {component.log}. Run `make doctor`, then `make up` again.",
                    console.tail(component.log),
                )
            return component.ready()

        console.wait_until(ready, component.name, seconds, component.log, "Run `make up` again.")


# Configuration


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _save_host() -> None:
    """Note once what the host looked like, so that `down` can put it back."""
    note = STATE / "host.json"
    if note.exists():
        return
    kernel = {}
    for name in SYSCTLS:
        path = Path("/proc/sys") / name
        if path.exists():
            kernel[name] = path.read_text().strip()
    _write(note, json.dumps({"sysctls": kernel, "folders": [str(folder) for folder in FOLDERS if not folder.exists()]}))


def _set_up_network() -> None:
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-a", "br_netfilter", "overlay"], capture_output=True)
    for name in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != "1":
            path.write_text("1")
    console.run(["ip", "address", "replace", f"{NODE_ADDRESS}/32", "dev", "lo"])
    if subprocess.run(["iptables", "-w", "-t", "nat", "-C", *MASQUERADE], capture_output=True).returncode:
        console.run(["iptables", "-w", "-t", "nat", "-A", *MASQUERADE])


def _certificates() -> None:
    """Keys, certificates and kubeconfigs by kubeadm's phases: they keep what is there and make what is missing."""
    config = STATE / "kubeadm.json"
    documents = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": NODE_ADDRESS, "bindPort": 6443},
            "nodeRegistration": {"name": NODE, "criSocket": f"unix://{SOCKET}"},
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
    _write(config, "\n---\n".join(json.dumps(document) for document in documents))
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
    if not (STATE / "kube-proxy.conf").exists():
        text = console.run(
            [BIN / "kubeadm", "kubeconfig", "user", "--client-name", "system:kube-proxy", "--config", config]
        )
        _write(STATE / "kube-proxy.conf", text)
        (STATE / "kube-proxy.conf").chmod(0o600)


def _configuration() -> None:
    _write(
        STATE / "containerd.toml",
        string.Template((MANIFESTS / "containerd.toml").read_text()).substitute(
            root=STATE / "containerd",
            run=RUN / "containerd",
            socket=SOCKET,
            pause=images.BY_NAME["pause"].reference,
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
    _write(STATE / "cni" / "10-iml4e.conflist", json.dumps(network, indent=1))
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
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        # A full disk is a person's to solve: evicting pods would not free what others filled.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "500Mi", "imagefs.available": "500Mi"},
        "failCgroupV1": False,
        "failSwapOn": False,
        # An image that was removed could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(LOG / "pods"),
        "resolvConf": str(resolv if resolv.exists() else "/etc/resolv.conf"),
        "serializeImagePulls": False,
    }
    _write(STATE / "kubelet.json", json.dumps(kubelet, indent=1))
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(STATE / "kube-proxy.conf")},
        "clusterCIDR": POD_RANGE,
        "conntrack": {"maxPerCore": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "iptables",
        # The gateway of a bare machine is for people on that machine.
        "nodePortAddresses": ["127.0.0.0/8"],
    }
    _write(STATE / "kube-proxy.json", json.dumps(proxy, indent=1))


def _add_ons() -> None:
    """Name service, volumes, metrics: what the platform expects of any cluster."""
    text = "\n---\n".join(
        string.Template(path.read_text()).substitute(
            busybox=images.BY_NAME["busybox"].reference,
            coredns=images.BY_NAME["coredns"].reference,
            dns_address=DNS_ADDRESS,
            local_path=images.BY_NAME["local-path-provisioner"].reference,
            metrics_server=images.BY_NAME["metrics-server"].reference,
            volumes=STATE / "volumes",
        )
        for path in sorted(MANIFESTS.glob("*.yaml"))
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    mark = STATE / "add-ons"
    if mark.exists() and mark.read_text() == digest:
        return
    with console.step("install the cluster's add-ons"):
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        mark.write_text(digest)


# What people call


def up() -> None:
    """Start what does not run; a second call takes seconds, a call after a crash heals."""
    _save_host()
    (STATE / "volumes").mkdir(parents=True, exist_ok=True)
    RUN.mkdir(parents=True, exist_ok=True)
    _set_up_network()
    _certificates()
    _configuration()
    every = {component.name: component for component in components()}
    for name in ("etcd", "kube-apiserver", "containerd"):
        _start_and_wait(every[name])
    # Only this kubeconfig has its rights without a binding.
    console.run(
        [BIN / "kubectl", "--kubeconfig", STATE / "super-admin.conf", "apply", "--server-side", "-f", BOOTSTRAP_RBAC]
    )
    images.load_all()
    for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
        _start_and_wait(every[name])
    _add_ons()
    with console.step("wait for the node and its add-ons"):
        log = every["kubelet"].log
        console.wait_until(
            lambda: _kubectl_ok("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=1s"),
            "The node",
            90,
            log,
            "Run `make up` again.",
        )
        # metrics-server is ready after its first round only, which nobody needs to wait for.
        for name in ("coredns", "local-path-provisioner"):
            console.wait_until(
                lambda name=name: _kubectl_ok(
                    "-n", "kube-system", "rollout", "status", f"deployment/{name}", "--timeout=1s"
                ),
                f"The add-on {name}",
                120,
                cure=f"Look at it with `{BIN}/kubectl --kubeconfig {KUBECONFIG} -n kube-system describe pods`.",
            )


def status() -> None:
    """Print what runs and where."""
    print(f"state  {STATE}{'' if STATE.exists() else ' (none: nothing is up)'}")
    print(f"cache  {CACHE}")
    for component in components():
        pid = pid_of(component.name)
        health = "ready" if pid and component.ready() else "not ready" if pid else "not running"
        print(f"{component.name:<24} {health:<12} {f'pid {pid}' if pid else ''}")
    if not pid_of("kube-apiserver"):
        return
    print(f"\nexport KUBECONFIG={KUBECONFIG}\n")
    # not those that are done, of which a run of a pipeline leaves twenty
    print(kubectl("get", "pods", "--all-namespaces", "--field-selector=status.phase!=Succeeded"), end="")


def _pod_cgroups() -> list[Path]:
    """The kubelet's cgroups: one on a unified hierarchy, one a controller otherwise."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob("kubepods"), *root.glob("*/kubepods")]


def _in_cgroups() -> list[int]:
    """The processes of all pods: our kubelet's cgroups hold them and nothing else."""
    pids = set()
    for folder in _pod_cgroups():
        for path in folder.rglob("cgroup.procs"):
            try:
                pids.update(int(pid) for pid in path.read_text().split())
            except OSError:
                continue
    return sorted(pids)


def _shims() -> list[int]:
    """The containerd shims that belong to our socket."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"containerd-shim-runc-v2") and str(SOCKET).encode() in words:
            found.append(int(path.parent.name))
    return found


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _remove_firewall_chains() -> None:
    """The kubelet leaves its chains behind; no other one runs on this machine, since its port was ours."""
    for program in ("iptables", "ip6tables"):
        for table in ("mangle", "nat", "filter"):
            command = [program, "-w", "-t", table]
            listing = subprocess.run([*command, "-S"], capture_output=True, text=True).stdout.splitlines()
            for rule in (shlex.split(line) for line in listing if line.startswith("-A") and "-j KUBE-" in line):
                subprocess.run([*command, "-D", *rule[1:]], capture_output=True)
            chains = [line.split()[1] for line in listing if line.startswith("-N KUBE-")]
            for action in ("-F", "-X"):
                for chain in chains:
                    subprocess.run([*command, action, chain], capture_output=True)


def down() -> None:
    """Remove processes, mounts, networks, firewall rules and state; the cache stays."""
    note = STATE / "host.json"
    if not note.exists():
        console.say("Nothing is up.")
        return
    host = json.loads(note.read_text())
    with console.step("stop the pods"):
        _stop("kubelet")
        _kill(_in_cgroups())
        time.sleep(1)
        _kill(_in_cgroups())
        _kill(_shims())
    with console.step("stop the cluster"):
        _stop("kube-proxy")
        if (BIN / "kube-proxy").exists():
            console.run(
                [BIN / "kube-proxy", "--cleanup", f"--config={STATE / 'kube-proxy.json'}"], log=LOG / "cleanup.log"
            )
        for component in reversed(components()):
            _stop(component.name)
    with console.step("restore the host"):
        while not subprocess.run(["iptables", "-w", "-t", "nat", "-D", *MASQUERADE], capture_output=True).returncode:
            pass
        _remove_firewall_chains()
        subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True)
        subprocess.run(["ip", "address", "delete", f"{NODE_ADDRESS}/32", "dev", "lo"], capture_output=True)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(f"{STATE}/")), key=len, reverse=True):
            subprocess.run(["umount", "--lazy", mount], capture_output=True)
        for folder in _pod_cgroups():
            for path in sorted(
                (p for p in [folder, *folder.rglob("*")] if p.is_dir()), key=lambda p: len(p.parts), reverse=True
            ):
                try:
                    path.rmdir()
                except OSError:
                    continue
        for name, value in host["sysctls"].items():
            path = Path("/proc/sys") / name
            if path.exists() and path.read_text().strip() != value:
                path.write_text(value)
        for folder in host["folders"]:
            shutil.rmtree(folder, ignore_errors=True)
        left = [
            line.split()[1]
            for line in Path("/proc/mounts").read_text().splitlines()
            if line.split()[1].startswith(f"{STATE}/")
        ]
        if left:
            raise console.Failure(
                f"{len(left)} mounts below {STATE} are still there, {left[0]} first.",
                "End what uses them, then `make down` again.",
            )
        shutil.rmtree(STATE)
