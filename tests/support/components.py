"""The component table: a new part is a row, and every cross-cutting test of every suite covers it."""

from __future__ import annotations

from dataclasses import dataclass, field

from support.helm import RELEASE


@dataclass(frozen=True)
class Component:
    """A part of the platform, as its users and its tests see it."""

    name: str
    kind: str
    """Kind of the workload `<release>-<name>`."""
    services: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Services (suffix after `<release>-`) and the ports that others use."""
    ui: str = ""
    """Path of its page under the front door."""
    storage: bool = False
    """Whether it keeps data on a volume."""
    metrics: tuple[int, str] | None = None
    """Port and path that Prometheus scrapes."""
    job: str = "parts"
    """Prometheus' job that scrapes it: found by the pod's annotations, save for Prometheus itself."""
    needs: tuple[str, ...] = ()
    """Parts whose absence must be made good by a value of `global` or of the part."""

    @property
    def fullname(self) -> str:
        """Name of its workload and of most of its objects."""
        return f"{RELEASE}-{self.name}"


COMPONENTS = (
    Component("gateway", "Deployment", services={"gateway": (80,)}, metrics=(8082, "/metrics")),
    Component(
        "minio", "StatefulSet", services={"minio": (9000,)}, storage=True, metrics=(9000, "/minio/v2/metrics/cluster")
    ),
    Component("mariadb", "StatefulSet", services={"mariadb": (3306,)}, storage=True),
    Component(
        "mlflow",
        "Deployment",
        services={"mlflow": (5000,)},
        ui="/mlflow/",
        metrics=(5000, "/metrics"),
        needs=("minio", "mariadb"),
    ),
    Component("kserve", "Deployment", services={"kserve-webhook": (443,)}, metrics=(8080, "/metrics")),
    Component(
        "prometheus",
        "StatefulSet",
        services={"prometheus": (9090,)},
        ui="/prometheus/",
        storage=True,
        metrics=(9090, "/prometheus/metrics"),
        job="prometheus",
    ),
)  # fmt: skip

BY_NAME = {component.name: component for component in COMPONENTS}
EVERY = [component.name for component in COMPONENTS]
WITH_METRICS = [component.name for component in COMPONENTS if component.metrics]
WITH_STORAGE = [component.name for component in COMPONENTS if component.storage]
WITH_UI = [component.name for component in COMPONENTS if component.ui]
