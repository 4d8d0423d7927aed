"""The Kubernetes API as plain JSON: read, apply and delete the objects that serving needs, in one namespace."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from iml4e import Error, platform

Object = dict[str, Any]

#: Field manager of server-side apply.
MANAGER = "iml4e"
API = {
    "InferenceService": ("serving.kserve.io/v1beta1", "inferenceservices"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproutes"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "Pod": ("v1", "pods"),
    "Event": ("v1", "events"),
    "ConfigMap": ("v1", "configmaps"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Secret": ("v1", "secrets"),
    "Deployment": ("apps/v1", "deployments"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "Job": ("batch/v1", "jobs"),
    "CronJob": ("batch/v1", "cronjobs"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
}


class RefusedError(Error):
    """The API server refused a request; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AwayError(Error):
    """The API server does not answer."""


class Cluster:
    """A namespace of the cluster, with the rights of this pod or of the kubeconfig."""

    def __init__(self, namespace: str, *, patience: float = 30, tries: int = 3) -> None:
        """Connect.

        Args:
            namespace: that the paths of objects are in.
            patience: seconds that an answer may take.
            tries: repetitions of a request whose connection fails.

        Raises:
            Error: there is neither a service account nor a kubeconfig.
        """
        self.api = platform.kubernetes()
        self.namespace, self.patience, self.tries = namespace, patience, tries

    def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        patch: str = "",
        accept: str = "application/json, */*",
        **query: Any,
    ) -> Any:
        """Send a request and parse its answer; text that is not JSON, such as a log, comes back as it is.

        Raises:
            RefusedError: the answer is an error.
            AwayError: there is no answer.
        """
        import urllib3

        headers = {"Accept": accept, "Content-Type": patch or "application/json"}
        timeout = urllib3.Timeout(connect=min(5, self.patience), read=self.patience)
        answer = self._send(method, path, body, headers, query, timeout=timeout)
        text = answer.data.decode(errors="replace")
        return json.loads(text) if answer.headers.get("Content-Type", "").startswith("application/json") else text

    def head(self) -> dict[str, str]:
        """Headers of an answer of the API server."""
        return dict(self._send("GET", "/version", None, {}, {}, timeout=self.patience).headers)

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str], query: Object, timeout: Any) -> Any:
        """Send through the connection pool of the Kubernetes client, whose own methods differ from release to release."""
        import urllib3

        configuration = self.api.configuration
        token = configuration.auth_settings().get("BearerToken")  # a kubeconfig may renew it
        url = configuration.host + path + ("?" + urlencode(query) if query else "")
        try:
            answer = self.api.rest_client.pool_manager.request(
                method,
                url,
                headers=headers | self.api.default_headers | ({token["key"]: token["value"]} if token else {}),
                body=None if body is None else json.dumps(body).encode(),
                preload_content=False,
                timeout=timeout,
                retries=urllib3.Retry(self.tries),
            )
        except urllib3.exceptions.HTTPError:
            raise AwayError(f"Kubernetes at {configuration.host} does not answer") from None
        if answer.status >= 400:
            raise RefusedError(_message(answer), answer.status)
        return answer

    def path(self, kind: str, name: str = "", namespace: str = "") -> str:
        """Path of a kind's objects, or of one."""
        version, plural = API[kind]
        root = "api" if "/" not in version else "apis"
        return f"/{root}/{version}/namespaces/{namespace or self.namespace}/{plural}" + (f"/{name}" if name else "")

    @contextlib.contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Turn a refusal of the API server into a sentence that begins with the attempted action.

        Raises:
            Error: the API server refused the request.
        """
        try:
            yield
        except RefusedError as error:
            said = " ".join(str(error).split())
            raise Error(f"cannot {what} models in namespace {self.namespace}: {said}") from None

    def get(self, kind: str, name: str) -> Object | None:
        """An object, or None."""
        try:
            return self.request("GET", self.path(kind, name))
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, labels: str = "") -> list[Object]:
        """Objects of a kind."""
        return self.request("GET", self.path(kind), labelSelector=labels)["items"]

    def apply(self, thing: Object, *, force: bool) -> Object:
        """Apply an object on the server's side; without `force`, fields that others manage are a conflict."""
        path = self.path(thing["kind"], thing["metadata"]["name"])
        flag = "true" if force else "false"
        return self.request(
            "PATCH", path, thing, patch="application/apply-patch+yaml", fieldManager=MANAGER, force=flag
        )

    def delete(self, kind: str, name: str, uid: str = "") -> bool:
        """Delete an object, with `uid` only the object of that UID; False if there was no such object.

        Raises:
            RefusedError: another of that name took its place (status 409), or it may not be deleted.
        """
        options = {"propagationPolicy": "Background"} | ({"preconditions": {"uid": uid}} if uid else {})
        try:
            self.request("DELETE", self.path(kind, name), options)
        except RefusedError as error:
            if error.status != 404:
                raise
            return False
        return True

    def log(self, pod: str, container: str, *, previous: bool = False, lines: int = 20) -> str:
        """The last lines that a container wrote; empty if there is no log, or no right to read it."""
        path = self.path("Pod", pod) + "/log"
        try:
            return self.request("GET", path, container=container, previous=str(previous).lower(), tailLines=lines)
        except RefusedError:
            return ""

    def follow(self, pod: str, container: str, *, previous: bool, follow: bool) -> Iterator[str]:
        """The whole log of a container, line by line; with `follow` as it is written.

        Raises:
            RefusedError: there is no such log.
        """
        query = {"container": container, "previous": str(previous).lower(), "follow": str(follow).lower()}
        answer = self._send("GET", self.path("Pod", pod) + "/log", None, {"Accept": "*/*"}, query, timeout=None)
        rest = ""
        for chunk in answer.stream():
            *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
            yield from lines
        if rest:
            yield rest

    def may(self, verb: str, kind: str) -> bool:
        """Whether this account may do something in the namespace."""
        version, plural = API[kind]
        group = version.rpartition("/")[0]
        wish = {"namespace": self.namespace, "verb": verb, "group": group, "resource": plural}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self.request("POST", path, review | {"spec": {"resourceAttributes": wish}})
        return bool(answer.get("status", {}).get("allowed"))


def secrets_in_environment(container: Object) -> Iterator[tuple[str, str]]:
    """Secrets in the environment of a container, and their keys; an empty key stands for all."""
    for source in container.get("envFrom") or []:
        if reference := source.get("secretRef"):
            yield reference["name"], ""
    for variable in container.get("env") or []:
        if reference := (variable.get("valueFrom") or {}).get("secretKeyRef"):
            yield reference["name"], reference["key"]


def _message(answer: Any) -> str:
    """What the API server says, in its own words."""
    try:
        return json.loads(answer.data)["message"]
    except (TypeError, ValueError, KeyError):
        return f"{answer.status} {answer.reason}"
