"""The table of parts: a new part is a row, and every cross-cutting test of every suite covers it."""

from __future__ import annotations

from dataclasses import dataclass, field

from support.helm import RELEASE


@dataclass(frozen=True)
class Workload:
    """A workload: Deployment, StatefulSet or DaemonSet."""

    part: str
    kind: str
    name: str

    def __str__(self) -> str:
        """How tests call it."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Part:
    """A part of the platform, as its users and its tests see it."""

    name: str
    kinds: dict[str, str]
    """Workloads: name after `<release>-`, and kind."""
    services: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Services by name, and the ports that others use."""
    ui: str = ""
    """Path of its page under the gateway."""
    storage: bool = False
    """Whether it keeps data on a volume."""
    metrics: tuple[int, str] | None = None
    """Port and path that Prometheus scrapes."""
    job: str = "parts"
    """Prometheus' job that scrapes it: found by the pod's annotations, save for Prometheus itself."""

    @property
    def workloads(self) -> list[Workload]:
        """Its workloads; the first gives its metrics and holds its data."""
        return [Workload(self.name, kind, f"{RELEASE}-{name}") for name, kind in self.kinds.items()]


PIPELINES = ("pipelines", *(f"pipelines-{name}" for name in ("agent", "argo", "metadata", "scheduler", "ui")))
PARTS = (
    Part(
        "gateway",
        {"gateway": "Deployment"},
        services={f"{RELEASE}-gateway": (80,), f"{RELEASE}-gateway-internal": (80,)},
        metrics=(8082, "/metrics"),
    ),
    Part(
        "home",
        {"home": "Deployment"},
        services={f"{RELEASE}-home": (80, 8001)},
        ui="/",
    ),
    Part(
        "minio",
        {"minio": "StatefulSet"},
        services={f"{RELEASE}-minio": (9000,)},
        storage=True,
        metrics=(9000, "/minio/metrics/v3"),
    ),
    Part(
        "mariadb",
        {"mariadb": "StatefulSet", "mariadb-metrics": "Deployment"},
        services={f"{RELEASE}-mariadb": (3306,)},
        storage=True,
    ),
    Part(
        "mlflow",
        {"mlflow": "Deployment"},
        services={f"{RELEASE}-mlflow": (5000,)},
        ui="/mlflow/",
        metrics=(5000, "/metrics"),
    ),
    Part(
        "pipelines",
        dict.fromkeys(PIPELINES, "Deployment"),
        # names that upstream's clients and images ask for
        services={"ml-pipeline": (8888, 8887), "metadata-grpc-service": (8080, 9090), f"{RELEASE}-pipelines-ui": (80,)},
        ui="/pipeline/",
        metrics=(8888, "/metrics"),
    ),
    Part(
        "kserve",
        {"kserve": "Deployment"},
        services={f"{RELEASE}-kserve-webhook": (443,)},
        metrics=(8080, "/metrics"),
    ),
    Part(
        "notebooks",
        {"notebooks": "StatefulSet"},
        services={f"{RELEASE}-notebooks": (8000, 8081)},
        ui="/notebooks/",
        storage=True,
        metrics=(8081, "/notebooks/hub/metrics"),
    ),
    Part(
        "prometheus",
        {"prometheus": "StatefulSet", "alertmanager": "StatefulSet", "prometheus-probe": "Deployment"},
        services={
            f"{RELEASE}-prometheus": (9090,),
            f"{RELEASE}-alertmanager": (9093,),
            f"{RELEASE}-prometheus-probe": (9115,),
        },
        ui="/prometheus/",
        storage=True,
        metrics=(9090, "/prometheus/metrics"),
        job="prometheus",
    ),
    Part(
        "grafana",
        {"grafana": "StatefulSet"},
        services={f"{RELEASE}-grafana": (3000,)},
        ui="/grafana/",
        storage=True,
        metrics=(3000, "/grafana/metrics"),
    ),
)

EVERY = [part.name for part in PARTS]
WITH_UI = [part.name for part in PARTS if part.ui]
WORKLOADS = [workload for part in PARTS for workload in part.workloads]

# Workload: the value that sets its replicas.
REPLICAS = {
    "gateway": "gateway.replicas",
    "home": "home.replicas",
    "mlflow": "mlflow.replicas",
    "kserve": "kserve.replicas",
    "pipelines": "pipelines.api.replicas",
    "pipelines-ui": "pipelines.ui.replicas",
    "pipelines-argo": "pipelines.argo.replicas",
}
# Workload with one replica: why. docs/availability.md says so too.
ONE_REPLICA = {
    "minio": "its volume belongs to one pod",
    "mariadb": "its volume belongs to one pod",
    "prometheus": "each replica would keep a history of its own",
    "grafana": "its database is a file",
    "notebooks": "the state of users' servers is in its memory",
    "mariadb-metrics": "two would count the same database twice",
    "prometheus-probe": "Prometheus asks it anew every few seconds",
    "alertmanager": "replicas would have to find each other, or notify twice",
    "pipelines-agent": "two would report the same runs twice",
    "pipelines-scheduler": "two would start each recurring run twice",
    "pipelines-metadata": "two at once on an empty database leave half of its tables",
}
