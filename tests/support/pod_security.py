"""The Pod Security Standard `restricted`, computed: what the API server would refuse, known before there is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# https://kubernetes.io/docs/concepts/security/pod-security-standards/
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip


def violations(pod: dict[str, Any]) -> list[str]:
    """Why `restricted` would refuse a pod spec, one sentence each; empty where it would not."""
    return [*_of_pod(pod), *(sentence for container in _all(pod) for sentence in _of_container(container, pod))]


def _all(pod: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("initContainers", "containers", "ephemeralContainers")
    return [container for key in keys for container in pod.get(key) or []]


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    yield from (f"{key} is on" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    for volume in pod.get("volumes") or []:
        if strange := set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is of kind {strange.pop()}"
    for sysctl in (pod.get("securityContext") or {}).get("sysctls") or []:
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']} is not a safe one"


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    name = container["name"]
    of_pod = pod.get("securityContext") or {}
    own = container.get("securityContext") or {}
    context = {**of_pod, **own}
    if own.get("privileged"):
        yield f"{name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name} lacks allowPrivilegeEscalation: false"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{name} does not drop ALL capabilities"
    if extra := set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds capabilities {sorted(extra)}"
    if context.get("runAsNonRoot") is not True:
        yield f"{name} lacks runAsNonRoot: true"
    if context.get("runAsUser") == 0:
        yield f"{name} runs as user 0"
    if (context.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name} lacks a seccomp profile"
    if own.get("procMount", "Default") != "Default":
        yield f"{name} changes procMount"
    if (context.get("seLinuxOptions") or {}).get("type", "") not in ("", "container_t", "container_init_t", "container_kvm_t"):  # fmt: skip
        yield f"{name} sets an SELinux type"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{name} is a host process"
    yield from (f"{name} takes a host port" for port in container.get("ports") or [] if port.get("hostPort"))
    handlers = [container.get(probe) or {} for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += (container.get("lifecycle") or {}).values()
    for handler in handlers:
        if (handler.get("httpGet") or {}).get("host") or (handler.get("tcpSocket") or {}).get("host"):
            yield f"{name} probes another host"
