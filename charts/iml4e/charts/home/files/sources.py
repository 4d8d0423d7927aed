"""What the landing page shows, asked of the Kubernetes API, MLflow, Prometheus and the models; each answer is kept for seconds.

A source that does not answer is missing from the page, with a sentence; nothing waits for it longer than the page may take.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import example
import reasons
from reasons import Object, one_line

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MODEL, VERSION, REVISION = "iml4e.org/model", "iml4e.org/model-version", "iml4e.org/revision"
#: Largest answer that is read, and largest example.
LARGEST, LARGEST_EXAMPLE = 32 * 2**20, 256 * 2**10
#: Seconds of one request, of an answer of Kubernetes, of the registry, and of what never changes but may fail.
TIMEOUT, FRESH, REGISTRY, AGAIN = 2.0, 2.0, 15.0, 30.0
#: Seconds that an old answer may be shown while a new one is late.
STALE = 20.0


@dataclass(frozen=True)
class Known:
    """A part of the platform, whether it is on or not."""

    name: str
    title: str
    what: str
    path: str = ""
    """Path of its page at the gateway."""
    needs: tuple[str, ...] = ()
    """Parts without which it cannot answer."""


KNOWN = {
    each.name: each
    for each in (
        Known("mlflow", "MLflow", "Experiments, models, artifacts", "/mlflow/", ("mariadb", "minio")),
        Known("pipelines", "Kubeflow Pipelines", "Pipelines and their runs", "/pipeline/", ("mariadb", "minio")),
        Known("notebooks", "Notebooks", "JupyterLab, a server for each user", "/notebooks/"),
        Known("grafana", "Grafana", "Dashboards", "/grafana/", ("prometheus",)),
        Known("prometheus", "Prometheus", "Metrics and alerts", "/prometheus/"),
        Known("kserve", "KServe", "Serves models"),
        Known("gateway", "Gateway", "The one address of all parts"),
        Known("minio", "MinIO", "Object store: datasets, artifacts, models"),
        Known("mariadb", "MariaDB", "Database of MLflow and Kubeflow Pipelines"),
        Known("home", "Landing page", "This page"),
    )
}


@dataclass(frozen=True)
class Part:
    """A part that is on."""

    name: str
    title: str
    what: str
    path: str
    """Path of its page; empty without a page or a route."""
    reason: str
    """Why it is not ready; empty if it is."""


@dataclass
class Served:
    """A served model."""

    namespace: str
    name: str
    model: str
    version: str
    reason: str
    ready: int
    wanted: int
    key: tuple[str, ...]
    champion: str | None = None
    """Version with the alias champion; empty: none; None: MLflow did not tell."""
    dataset: str = ""
    traffic: dict[str, float] | None = None
    instance: Any = None
    python: str = ""

    @property
    def path(self) -> str:
        """Path of the model at the gateway."""
        return f"/models/{self.namespace}/{self.name}"


@dataclass
class State:
    """What is known; None where a source did not answer."""

    parts: list[Part] | None = None
    models: list[Served] | None = None
    missing: list[str] = field(default_factory=list)

    def pages(self) -> list[Part]:
        """Parts with a page."""
        return [each for each in self.parts or [] if each.path]

    def model(self, namespace: str, name: str) -> Served | None:
        """One served model."""
        return next((each for each in self.models or [] if (each.namespace, each.name) == (namespace, name)), None)


class AwayError(Exception):
    """A source does not answer; the text is the sentence for people."""


def why(error: OSError) -> str:
    """The reason of a failed request, without the address."""
    reason = getattr(error, "reason", error)
    return one_line(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)


class Cached:
    """An answer that is kept for a while. One thread asks at a time, and nobody waits for it longer than it wants."""

    def __init__(self, fetch: Callable[[], Any], name: str, seconds: float) -> None:
        self.fetch, self.name, self.seconds = fetch, name, seconds
        self.value: Any = None
        self.problem = ""
        self.at = self.good = -math.inf
        self.task: asyncio.Task[None] | None = None

    async def get(self, wait: float) -> tuple[Any, str]:
        """The answer, or None and why it is missing."""
        if time.monotonic() - self.at > self.seconds:
            if self.task is None or self.task.done():
                self.task = asyncio.create_task(self._ask())
            await asyncio.wait({self.task}, timeout=max(wait, 0.01))
            if not self.task.done():
                late = time.monotonic() - self.good > STALE
                return (None, f"{self.name} does not answer in time") if late else (self.value, "")
        return (None, self.problem) if self.problem else (self.value, "")

    async def _ask(self) -> None:
        try:
            value, problem = await asyncio.to_thread(self.fetch), ""
        except AwayError as error:
            value, problem = None, str(error)
        except Exception as error:
            value, problem = None, f"{self.name} answers what this page cannot read ({type(error).__name__})"
        self.value, self.problem, self.at = value, problem, time.monotonic()
        self.good = self.good if problem else self.at


class Web:
    """JSON of servers inside the cluster, without a proxy."""

    def __init__(self, authorities: str | None = None) -> None:
        context = ssl.create_default_context(cafile=authorities)
        self.open = build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open

    def get(self, url: str, *, largest: int = LARGEST, **headers: str) -> Any:
        """Ask for JSON.

        Raises:
            HTTPError: the answer is an error.
            OSError: there is no answer.
            ValueError: it is not JSON, or too large.
        """
        with self.open(Request(url, headers=headers), timeout=TIMEOUT) as answer:
            text = answer.read(largest + 1)
        if len(text) > largest:
            raise ValueError("too large")
        return json.loads(text)


class Platform:
    """A release and its sources."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.release, self.namespace = env["RELEASE"], env["NAMESPACE"]
        others = json.loads(env.get("MODEL_NAMESPACES", "[]"))
        self.namespaces = [""] if "*" in others else list(dict.fromkeys([self.namespace, *others]))
        self.mlflow = env.get("MLFLOW_URL", "").rstrip("/")
        self.prometheus = env.get("PROMETHEUS_URL", "").rstrip("/")
        host = env.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        self.api = f"https://{f'[{host}]' if ':' in host else host}:{env.get('KUBERNETES_SERVICE_PORT', '443')}"
        authorities = ACCOUNT / "ca.crt"
        self.kubernetes = Web(str(authorities) if authorities.exists() else None)
        self.web = Web(env.get("CA_FILE") or None)
        self.wanted: dict[tuple[str, str], None] = {}
        self.cluster = Cached(self._cluster, "The Kubernetes API", FRESH)
        self.registry = Cached(self._registry, "MLflow", REGISTRY)
        self.traffic: dict[str, Cached] = {}
        self.examples: dict[tuple[str, ...], Cached] = {}

    async def state(self, wait: float, last: str = "") -> State:
        """All that is known within some seconds; `last`: with the registry, the traffic of this window, and examples."""
        end = time.monotonic() + wait
        rate = asyncio.ensure_future(self._rates(last).get(wait)) if last and self.prometheus else None
        found, problem = await self.cluster.get(wait * 0.7 if last else wait)
        parts, models, refused = found or (None, None, [])
        state = State(parts, [Served(**each) for each in models] if models is not None else None, [])
        state.missing = [f"{problem}: the state of parts and models is missing"] if problem else list(refused)
        if not last:
            return state
        if state.models:
            known = await self._tell(state, end)
            await self._show(state, end, known)
        rates, problem = await rate if rate else (None, "No Prometheus is named (global.monitoring.url)")
        if self._off("prometheus", self.prometheus, state):
            rates, problem = None, "Prometheus is off in this release, and global.monitoring.url names no other"
        if problem:
            state.missing.append(f"{problem}: requests, errors and latency are missing")
        for each in state.models or []:
            each.traffic = None if rates is None else rates.get(f"{each.namespace}-{each.name}", {})
        return state

    def _off(self, part: str, url: str, state: State) -> bool:
        """Whether an address is that of a part of this release which is off."""
        own = (urlsplit(url).hostname or "").startswith(f"{self.release}-{part}.")
        return own and state.parts is not None and part not in {each.name for each in state.parts}

    async def _tell(self, state: State, end: float) -> bool:
        """Add what MLflow knows of served versions; whether MLflow answered, or is not there to be asked."""
        names = {(each.model, each.version): None for each in state.models or [] if each.model}
        if not names or not self.mlflow or self._off("mlflow", self.mlflow, state):
            return True
        if not names.keys() <= self.wanted.keys():
            self.registry.at = -math.inf
        self.wanted = names
        known, problem = await self.registry.get(end - time.monotonic())
        if problem:
            state.missing.append(f"{problem}: champions and datasets are missing")
        for each in state.models or []:
            if known and (told := known.get((each.model, each.version))):
                each.champion, each.dataset, _ = told
        return known is not None

    async def _show(self, state: State, end: float, known: bool) -> None:
        """Add a request that each model takes. It is asked for again where MLflow, which has the best one, did not answer."""
        present = {each.key: each for each in state.models or [] if each.ready}
        self.examples = {key: cached for key, cached in self.examples.items() if key in present}
        for key, each in present.items():
            if key not in self.examples:
                self.examples[key] = Cached(lambda each=each: self._example(each), "The model", AGAIN)
        keys = list(present)
        found = await asyncio.gather(*(self.examples[key].get(end - time.monotonic()) for key in keys))
        for key, (made, _) in zip(keys, found, strict=True):
            if made:
                present[key].instance, present[key].python = made
                self.examples[key].seconds = math.inf if known else AGAIN

    # --- the Kubernetes API

    def _list(self, path: str, selector: str = "") -> list[Object]:
        query = {"resourceVersion": "0"} | ({"labelSelector": selector} if selector else {})
        token = (ACCOUNT / "token").read_text().strip() if (ACCOUNT / "token").exists() else ""
        try:
            return self.kubernetes.get(f"{self.api}{path}?{urlencode(query)}", Authorization=f"Bearer {token}")["items"]
        except HTTPError as error:
            error.close()
            if error.code == 404:  # a kind that is not installed
                return []
            if error.code == 403:
                raise PermissionError(path) from None
            raise AwayError(f"The Kubernetes API answers {error.code}") from None
        except OSError as error:
            raise AwayError(f"The Kubernetes API does not answer ({why(error)})") from None

    def _cluster(self) -> tuple[list[Part], list[dict[str, Any]], list[str]]:
        """Parts, served models, and what may not be read."""
        own = f"app.kubernetes.io/instance={self.release},app.kubernetes.io/part-of=iml4e"
        here = f"namespaces/{self.namespace}"
        refused: list[str] = []
        try:
            loads = [
                each
                for kind in ("deployments", "statefulsets")
                for each in self._list(f"/apis/apps/v1/{here}/{kind}", own)
            ]
            late = any(
                each.get("status", {}).get("readyReplicas", 0) < each["spec"].get("replicas", 1) for each in loads
            )
            pods = self._list(f"/api/v1/{here}/pods", own) if late else []
            routes = self._list(f"/apis/gateway.networking.k8s.io/v1/{here}/httproutes", own)
        except PermissionError as error:
            raise AwayError(f"The Kubernetes API refuses {error}") from None
        models: list[dict[str, Any]] = []
        pods_of: list[Object] | None = None
        for namespace in self.namespaces:
            where = f"namespaces/{namespace}/" if namespace else ""
            try:
                services = self._list(f"/apis/serving.kserve.io/v1beta1/{where}inferenceservices")
            except PermissionError:
                refused.append(f"Models of namespace {namespace or '(all)'} may not be read by this account")
                continue
            for each in services:
                own_namespace = each["metadata"]["namespace"] == self.namespace
                if own_namespace and pods_of is None:
                    pods_of = self._list(f"/api/v1/{here}/pods", "serving.kserve.io/inferenceservice")
                if not each["metadata"].get("deletionTimestamp"):
                    models.append(served(each, pods_of if own_namespace else None))
        models.sort(key=lambda each: (each["namespace"] != self.namespace, each["namespace"], each["name"]))
        return parts_of(loads, pods, routes), models, refused

    # --- MLflow

    def _registry(self) -> dict[tuple[str, str], tuple[str, str, str]]:
        """Champion, dataset and source of each wanted version."""
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(wanted := list(self.wanted), pool.map(self._version, wanted), strict=True))

    def _version(self, wanted: tuple[str, str]) -> tuple[str, str, str]:
        name, version = wanted
        start = f"{self.mlflow}/api/2.0/mlflow"
        try:
            found = self.web.get(f"{start}/registered-models/get?{urlencode({'name': name})}")["registered_model"]
            champion = next((str(a["version"]) for a in found.get("aliases", []) if a["alias"] == "champion"), "")
            latest = [each for each in found.get("latest_versions", []) if str(each["version"]) == version]
            query = urlencode({"name": name, "version": version})
            exact = latest[0] if latest else self.web.get(f"{start}/model-versions/get?{query}")["model_version"]
        except HTTPError as error:
            error.close()
            if error.code in (400, 404):  # the model or version was deleted from the registry
                return "", "", ""
            raise AwayError(f"MLflow answers {error.code}") from None
        except OSError as error:
            raise AwayError(f"MLflow does not answer ({why(error)})") from None
        tags = {each["key"]: each["value"] for each in exact.get("tags", [])}
        return champion, one_line(tags.get("dataset", "")), exact.get("source", "")

    # --- Prometheus

    def _rates(self, last: str) -> Cached:
        if last not in self.traffic:
            if len(self.traffic) > 20:  # windows that somebody made up
                self.traffic.clear()
            self.traffic[last] = Cached(lambda: self._traffic(last), "Prometheus", 5)
        return self.traffic[last]

    def _traffic(self, last: str) -> dict[str, dict[str, float]]:
        """Requests, errors and latencies of each route in a window."""
        name, window = 'traefik_router_request{}{{route!=""}}', f"[{last}]"
        total, slow = name.format("s_total"), name.format("_duration_seconds_bucket")
        failed = total.replace("}", ', code=~"5.."}')
        queries = {
            "requests": f"sum by (route) (increase({total}{window}))",
            "errors": f"sum by (route) (increase({failed}{window}))",
        } | {f"p{q}": f"histogram_quantile(0.{q}, sum by (route, le) (increase({slow}{window})))" for q in (50, 95, 99)}
        query = " or ".join(f'label_replace({each}, "what", "{what}", "", "")' for what, each in queries.items())
        try:
            answer = self.web.get(f"{self.prometheus}/api/v1/query?{urlencode({'query': query})}")
        except HTTPError as error:
            error.close()
            raise AwayError(f"Prometheus answers {error.code}") from None
        except OSError as error:
            raise AwayError(f"Prometheus does not answer ({why(error)})") from None
        rates: dict[str, dict[str, float]] = {}
        for row in answer["data"]["result"]:
            value = float(row["value"][1])
            if math.isfinite(value):
                rates.setdefault(row["metric"]["route"], {})[row["metric"]["what"]] = value
        return rates

    # --- models

    def _example(self, each: Served) -> tuple[Any, str]:
        """An instance that a model takes, or Python text that makes one.

        Raises:
            AwayError: neither MLflow nor the model tells.
        """
        known = (self.registry.value or {}).get((each.model, each.version))
        source = re.fullmatch(r"models:/(m-[0-9a-f]{32})", known[2]) if known else None
        if source:
            query = urlencode({"artifact_file_path": "serving_input_example.json"})
            url = f"{self.mlflow}/ajax-api/2.0/mlflow/logged-models/{source[1]}/artifacts/files?{query}"
            try:
                instance = example.from_example(self.web.get(url, largest=LARGEST_EXAMPLE))
            except (OSError, ValueError):
                instance = None
            if instance is not None and example.curl("", instance):
                return instance, ""
        url = f"http://{each.name}-predictor.{each.namespace}.svc/v2/models/{quote(each.name, safe='')}"
        try:
            return example.from_metadata(self.web.get(url, largest=LARGEST_EXAMPLE))
        except (OSError, ValueError, KeyError, TypeError):
            raise AwayError(f"{each.name} does not tell its signature") from None


def served(service: Object, pods: list[Object] | None) -> dict[str, Any]:
    """What an InferenceService says of a served model, and its pods where this account may read them."""
    metadata = service["metadata"]
    name, notes = metadata["name"], metadata.get("annotations") or {}
    own = [
        pod
        for pod in reasons.alive(pods or [])
        if pod["metadata"].get("labels", {}).get("serving.kserve.io/inferenceservice") == name
    ]
    least = service["spec"].get("predictor", {}).get("minReplicas", 1)
    if pods is None:
        copies = service.get("status", {}).get("modelStatus", {}).get("copies", {})
        wanted = max(copies.get("totalCopies", 0), least)
        ready = wanted - copies.get("failedCopies", 0) if reasons.is_true(service, "Ready") else 0
    else:
        wanted, ready = max(len(own), least), sum(reasons.is_true(pod, "Ready") for pod in own)
    return {
        "namespace": metadata["namespace"],
        "name": name,
        "model": one_line(notes.get(MODEL, "")),
        "version": one_line(notes.get(VERSION, "")),
        "reason": reasons.model(service, None if pods is None else own),
        "ready": ready,
        "wanted": wanted,
        "key": (metadata["uid"], notes.get(REVISION, str(metadata.get("generation", "")))),
    }


def parts_of(loads: list[Object], pods: list[Object], routes: list[Object]) -> list[Part]:
    """The parts that are on: their workloads, and the page of each."""
    paths: dict[str, str] = {}
    for route in routes:
        component = route["metadata"].get("labels", {}).get("app.kubernetes.io/component", "")
        found = [
            match["path"]["value"]
            for rule in route["spec"].get("rules", [])
            for match in rule.get("matches", [])
            if match.get("path", {}).get("type") == "PathPrefix"
        ]
        # the page is below the shortest of its prefixes
        if found and (best := min(found, key=len)) != "/":
            paths[component] = f"{best.rstrip('/')}/"
    found_why: dict[str, list[tuple[str, str]]] = {}
    for load in loads:
        component = load["metadata"].get("labels", {}).get("app.kubernetes.io/component", "")
        found_why.setdefault(component, []).append((load["metadata"]["name"], reasons.workload(load, pods)))
    # the only workload of a part needs no name
    why_not = {
        name: "; ".join(f"{load}: {reason}" if len(each) > 1 else reason for load, reason in each if reason)
        for name, each in found_why.items()
    }
    order = list(KNOWN)
    names = sorted(why_not, key=lambda name: (order.index(name) if name in order else len(order), name))
    unknown = {name: Known(name, name.capitalize(), "") for name in names if name not in KNOWN}
    return [
        Part(name, known.title, known.what, paths.get(name, ""), why_not[name])
        for name in names
        for known in (KNOWN.get(name) or unknown[name],)
    ]
