"""Clients that use a release without a pause while something happens to it, each call once, and count what fails."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from kubernetes import client, config
from kubernetes.stream import portforward

from support.k8s import Cluster

#: Seconds between two calls of one client.
PAUSE = 0.1


class Traffic:
    """Calls functions in a thread each, until the end of the `with` block."""

    def __init__(self, **calls: Callable[[], Any]) -> None:
        """Take the calls by name; one that raises has failed."""
        self.calls = calls
        self.answered = dict.fromkeys(calls, 0)
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=each, daemon=True) for each in calls.items()]

    def __enter__(self) -> Self:
        """Start, and wait until every client had an answer."""
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + 60
        while not all(self.answered.values()) and not self.failures and time.monotonic() < end:
            time.sleep(PAUSE)
        assert all(self.answered.values()), self.failures or self.answered
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, name: str, call: Callable[[], Any]) -> None:
        while not self._stop.wait(PAUSE):
            start = time.time()
            try:
                call()
                self.answered[name] += 1
            except Exception as error:
                what = " ".join(str(error).split())[:300]
                self.failures.append(
                    f"{time.strftime('%H:%M:%S', time.gmtime(start))} {name}: {type(error).__name__} {what}"
                )


@contextlib.contextmanager
def forwarded(cluster: Cluster, pod: str, port: int) -> Iterator[int]:
    """A port of 127.0.0.1 that leads to a pod, each connection by itself; `kubectl port-forward` ends with the first refused one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, cluster, pod, port), daemon=True).start()
        yield server.getsockname()[1]


def _accept(server: socket.socket, cluster: Cluster, pod: str, port: int) -> None:
    with contextlib.suppress(OSError):  # the end of the test closes the server
        while True:
            near, _ = server.accept()
            threading.Thread(target=_pump, args=(near, cluster, pod, port), daemon=True).start()


def _pump(near: socket.socket, cluster: Cluster, pod: str, port: int) -> None:
    api = client.CoreV1Api(config.new_client_from_config(str(cluster.config)))
    with near, contextlib.suppress(OSError, client.ApiException):
        call = api.connect_get_namespaced_pod_portforward
        forward = portforward(call, pod, cluster.namespace, ports=str(port))
        far = forward.socket(port)
        far.setblocking(True)
        with contextlib.closing(far):
            ways = {near: far, far: near}
            while True:
                for source in select.select(list(ways), [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    ways[source].sendall(data)
