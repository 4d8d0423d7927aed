"""What a part's values say of its pods arrives in each of them, and in no other: driven by the table of parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.helm import CHART, HelmError, merged, render
from support.objects import (
    COMPONENT,
    Object,
    annotations,
    containers,
    find,
    kind_and_name,
    labels,
    pod_makers,
    pod_template,
)
from support.parts import EVERY, WORKLOADS
from support.pods import ON, pod_specs, stated

#: Values that every part has for its pods, and what each looks like set.
OF_PODS: dict[str, Any] = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "podLabels": {"example.org/team": "ml"},
    "podAnnotations": {"example.org/mark": "arrived"},
    "priorityClassName": "platform",
    "extraEnv": [{"name": "MARK", "value": "arrived"}],
}
#: Sections of values whose pods are no servers: they have all of these but the environment.
JOBS = ("secrets",)
SECTIONS = [*EVERY, *JOBS]


def values_of(section: str) -> dict[str, Any]:
    """A section's own values."""
    if section in EVERY:
        return yaml.safe_load((CHART / "charts" / section / "values.yaml").read_text())
    return yaml.safe_load((CHART / "values.yaml").read_text())[section]


def pod(maker: Object) -> dict[str, Any]:
    """What a pod has of such values; of the environment, what each of its main containers has."""
    template = pod_template(maker)
    spec = template["spec"]
    found = {key: spec.get(key) for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName")}
    found["podLabels"] = {key: value for key, value in labels(template).items() if key.startswith("example.org/")}
    found["podAnnotations"] = {
        key: value for key, value in annotations(template).items() if key.startswith("example.org/")
    }
    marks = [[each for each in own.get("env") or [] if each["name"] == "MARK"] for own in spec["containers"]]
    found["extraEnv"] = marks[0] if all(each == marks[0] for each in marks) else marks
    return {key: value for key, value in found.items() if value}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_every_value_that_another_one_has_for_its_pods(section: str) -> None:
    assert [key for key in OF_PODS if key not in values_of(section)] == (["extraEnv"] if section in JOBS else [])


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_set_for_pods_arrives_in_each_of_them_and_in_no_other(section: str) -> None:
    given = {key: value for key, value in OF_PODS.items() if key in values_of(section)}
    objects = render("laptop", merged(ON, {section: given}))
    of_part = {str(workload) for workload in WORKLOADS if workload.part == section}
    assert of_part <= {kind_and_name(maker) for maker in pod_makers(objects)}
    for maker in pod_makers(objects):
        mine = labels(maker)[COMPONENT] == section
        there = pod(maker)
        wanted = dict(given) if mine else {}
        if maker["kind"] in ("Job", "CronJob"):  # other programs than the servers, save MLflow's
            there.pop("extraEnv", None)
            wanted.pop("extraEnv", None)
        assert there == wanted, kind_and_name(maker)


def test_nothing_of_it_is_there_by_default() -> None:
    assert {kind_and_name(maker): pod(maker) for maker in pod_makers(render("laptop", ON)) if pod(maker)} == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("podLabels", {"app.kubernetes.io/name": "mine"}), ("podLabels", {"team": "a b"}), ("podLabels", {"a b": "c"}),
        ("podLabels", {"team": 7}), ("podAnnotations", {"checksum/config": "1"}), ("podAnnotations", {"a": True}),
        ("podAnnotations", {"prometheus.io/scrape": "false"}), ("priorityClassName", "Not A Name"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("section", ["mlflow", "secrets"])
def test_what_would_break_a_pod_is_refused_by_name(section: str, key: str, value: Any) -> None:
    with pytest.raises(HelmError, match=f"at '/{section}/{key}|invalid propertyName 'a b'"):
        render("laptop", {section: {key: value}})


def test_pull_secrets_reach_every_pod_whoever_makes_it() -> None:
    """Those of models and of Jobs by their ServiceAccount, those of InferenceGraphs by KServe's settings."""
    secrets = [{"name": "registry-key"}]
    objects = render("laptop", merged(ON, {"global": {"imagePullSecrets": secrets}}))
    without = [
        maker
        for maker, (whose, spec) in pod_specs(objects).items()
        if spec.get("imagePullSecrets") != secrets and whose not in ("models", "jobs")
    ]
    assert without == []
    for account in ("iml4e-models", "iml4e-runner"):
        assert find(objects, "ServiceAccount", account)["imagePullSecrets"] == secrets
    router = find(objects, "ConfigMap", "inferenceservice-config")["data"]["router"]
    assert json.loads(router)["imagePullSecrets"] == ["registry-key"]
    assert [maker for maker, (_, spec) in pod_specs(render("laptop", ON)).items() if "imagePullSecrets" in spec] == []


def test_no_container_has_a_variable_twice_and_the_chart_knows_its_own() -> None:
    """Where the server applies objects, as Helm 4 lets it, Kubernetes refuses a name that comes twice."""
    known = yaml.safe_load((CHART / "files" / "variables.yaml").read_text())
    everything = {"database": {"tls": True}}, {"mlflow": {"authType": "bearer"}, "proxy": {"http": "http://proxy:3128"}}
    shared = {"caCertificate": {"existingSecret": "ca"}}
    objects = render("laptop", merged(ON, {"mlflow": everything[0], "pipelines": everything[1], "global": shared}))
    for container in containers(objects):
        names = [each["name"] for each in container.spec.get("env") or []]
        assert len(names) == len(set(names)), container.name
    for maker in pod_makers(objects):
        if maker["kind"] in ("Deployment", "StatefulSet"):
            for container in containers([maker]):
                names = {each["name"] for each in container.spec.get("env") or []}
                assert names <= set(known[labels(maker)[COMPONENT]]), container.name


# --- images and resources, each told apart from the others


def places(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths of all values that are called so, in the umbrella and in every part, and their defaults."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, child in node.items() if isinstance(node, dict) else ():
            if key == name:
                yield f"{path}{key}", child
            elif key != "global":
                yield from walk(child, f"{path}{key}.")

    yield from walk({key: value for key, value in values_of_chart().items() if key not in EVERY}, "")
    for part in EVERY:
        yield from walk(values_of(part), f"{part}.")


def values_of_chart() -> dict[str, Any]:
    """The umbrella's own values."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def nested(path: str, value: Any) -> dict[str, Any]:
    """A value at a path with dots."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


#: Value: the containers that have its resources, without the changing end of a Job's name. What a controller makes has the name of its setting.
RESOURCES: dict[str, list[str]] = {
    "runner.resources": ["Job"],
    "secrets.resources": ["Job/iml4e-secrets secrets"],
    "backup.resources": [f"CronJob/iml4e-backup {name}" for name in ("objects", "database", "backup")],
    "gateway.resources": ["Deployment/iml4e-gateway traefik"],
    "home.resources": ["Deployment/iml4e-home home"],
    "minio.resources": ["StatefulSet/iml4e-minio minio"],
    "minio.setup.resources": ["Job/iml4e-minio-setup setup"],
    "mariadb.resources": [f"StatefulSet/iml4e-mariadb {name}" for name in ("prepare", "collation", "mariadb")],
    "mariadb.metrics.resources": ["Deployment/iml4e-mariadb-metrics mysqld-exporter"],
    "mlflow.gc.resources": ["CronJob/iml4e-mlflow-gc gc"],
    "mlflow.resources": ["Deployment/iml4e-mlflow migrate", "Deployment/iml4e-mlflow mlflow"],
    "pipelines.mlflow.cleanup.resources": ["CronJob/iml4e-pipelines-mlflow mlflow"],
    "pipelines.runs.resources": ["mainContainer"],
    "pipelines.runs.executor.resources": ["executor"],
    "pipelines.retention.resources": ["CronJob/iml4e-pipelines-retention retention"],
    "pipelines.api.resources": ["Deployment/iml4e-pipelines api"],
    "pipelines.agent.resources": ["Deployment/iml4e-pipelines-agent agent"],
    "pipelines.scheduler.resources": ["Deployment/iml4e-pipelines-scheduler scheduler"],
    "pipelines.ui.resources": ["Deployment/iml4e-pipelines-ui ui"],
    "pipelines.metadata.resources": ["Deployment/iml4e-pipelines-metadata metadata"],
    "pipelines.metadata.grpcWeb.resources": ["Deployment/iml4e-pipelines-metadata grpc-web"],
    "pipelines.argo.resources": ["Deployment/iml4e-pipelines-argo controller"],
    "kserve.resources": ["Deployment/iml4e-kserve manager"],
    "kserve.models.resources": ["inferenceService"],
    "kserve.runtimes.mlflow.resources": ["ClusterServingRuntime/mlflow kserve-container"],
    "kserve.storageInitializer.resources": ["storageInitializer"],
    "kserve.agent.resources": ["agent", "batcher", "logger"],
    "kserve.router.resources": ["router"],
    "prometheus.probe.resources": ["Deployment/iml4e-prometheus-probe blackbox-exporter"],
    "prometheus.alertmanager.resources": ["StatefulSet/iml4e-alertmanager alertmanager"],
    "prometheus.resources": ["StatefulSet/iml4e-prometheus prometheus"],
    "notebooks.resources": ["StatefulSet/iml4e-notebooks hub"],
    "notebooks.proxy.resources": ["StatefulSet/iml4e-notebooks proxy"],
    **{f"notebooks.profiles.{name}.resources": [f"users' servers: {name}"] for name in ("small", "large", "gpu")},
    "grafana.resources": ["StatefulSet/iml4e-grafana password", "StatefulSet/iml4e-grafana grafana"],
}
FOUR = [("requests", "cpu"), ("requests", "memory"), ("limits", "cpu"), ("limits", "memory")]


def test_resources_arrive_in_the_containers_that_they_are_for() -> None:
    """All at once, each told apart by its numbers."""
    values = {path: {} for path, _ in places("resources")}
    assert sorted(values) == sorted(RESOURCES)
    for number, path in enumerate(values):
        for at, (kind, what) in enumerate(FOUR):
            values[path].setdefault(kind, {})[what] = f"{1000 + 10 * number + at}{'m' if what == 'cpu' else 'Mi'}"
    objects = render("laptop", merged(ON, *(nested(path, each) for path, each in values.items())))
    found = {re.sub(r"-1-[0-9a-f]{8} ", " ", name): each for name, each in stated(objects).items()}
    wanted = {name: values[path] for path, names in RESOURCES.items() for name in names}
    # stays beside what is set
    wanted["users' servers: gpu"]["limits"]["nvidia.com/gpu"] = "1"
    assert found == wanted


def test_an_image_is_the_one_that_its_value_names() -> None:
    """All at once, each told apart by its tag; and every pull policy arrives."""
    images = dict(places("image")) | {"global.runtime": values_of_chart()["global"]["runtime"]}
    values: dict[str, Any] = {}
    wanted = set()
    for number, (path, image) in enumerate(images.items()):
        digest = f"sha256:{number:064x}"
        own = {
            "registry": f"r{number}.example.org",
            "repository": f"own/{number}",
            "tag": f"t{number}",
            "digest": digest,
        }
        wanted.add(f"r{number}.example.org/own/{number}:t{number}@{digest}")
        policy = {"pullPolicy": "Always"} if "pullPolicy" in image else {}
        values = merged(values, nested(path, {**own, **policy}))
    objects = render("laptop", merged(ON, values))
    text = json.dumps(objects)
    assert set(re.findall(r"r\d+\.example\.org/[\w./:@-]+", text)) == wanted
    for container in containers(objects):
        assert container.spec["image"] in wanted, container.name
        assert container.spec["imagePullPolicy"] == "Always", container.name


def test_an_image_belongs_to_one_program() -> None:
    """Containers of one name have one image, and containers with different values have different ones."""
    tags = {path: {"tag": f"t{number}"} for number, (path, _) in enumerate(places("image"))}
    objects = render("laptop", merged(ON, *(nested(path, each) for path, each in tags.items())))
    by_tag: dict[str, set[str]] = {}
    for container in containers(objects):
        by_tag.setdefault(container.spec["image"].rpartition(":")[2], set()).add(container.owner.split("-1-")[0])
    by_path = {path: by_tag.get(each["tag"], set()) for path, each in tags.items()}
    assert by_path == {
        **{key: set() for key in tags},
        **{path: {owner} for path, owner in OWNERS.items()},
        "mariadb.image": {OWNERS["mariadb.image"], "CronJob/iml4e-backup"},  # mariadb-dump
    }


#: Value of an image: the workload that runs it. Images without one stand in arguments, variables and settings of controllers.
OWNERS = {
    "gateway.image": "Deployment/iml4e-gateway",
    "minio.image": "StatefulSet/iml4e-minio",
    "minio.setup.image": "Job/iml4e-minio-setup",
    "mariadb.image": "StatefulSet/iml4e-mariadb",
    "mariadb.metrics.image": "Deployment/iml4e-mariadb-metrics",
    "pipelines.api.image": "Deployment/iml4e-pipelines",
    "pipelines.agent.image": "Deployment/iml4e-pipelines-agent",
    "pipelines.scheduler.image": "Deployment/iml4e-pipelines-scheduler",
    "pipelines.ui.image": "Deployment/iml4e-pipelines-ui",
    "pipelines.metadata.image": "Deployment/iml4e-pipelines-metadata",
    "pipelines.metadata.grpcWeb.image": "Deployment/iml4e-pipelines-metadata",
    "pipelines.argo.image": "Deployment/iml4e-pipelines-argo",
    "kserve.image": "Deployment/iml4e-kserve",
    "prometheus.image": "StatefulSet/iml4e-prometheus",
    "prometheus.probe.image": "Deployment/iml4e-prometheus-probe",
    "prometheus.alertmanager.image": "StatefulSet/iml4e-alertmanager",
    "grafana.image": "StatefulSet/iml4e-grafana",
    "notebooks.image": "StatefulSet/iml4e-notebooks",
    "notebooks.proxy.image": "StatefulSet/iml4e-notebooks",
}


# --- values that are read in more than one place

#: Value: another one, the text that its default makes in objects, and the parts that may have that text of themselves.
ELSEWHERE: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "global.timeZone": ("Asia/Tokyo", "UTC", ("grafana", "prometheus")),
    "global.s3.region": ("eu-test-9", "us-east-1", ("backup",)),
    "global.s3.endpoint": ("https://s3.example.org", "iml4e-minio.iml4e.svc", ("minio", "secrets")),
    "global.database.host": ("db.example.org", "iml4e-mariadb.iml4e.svc", ("mariadb",)),
    "global.database.port": (3999, "3306", ("mariadb",)),
    "global.mlflow.url": ("https://mlflow.example.org", "iml4e-mlflow.iml4e.svc:5000", ("mlflow",)),
    "global.monitoring.url": ("http://prometheus.example.org", "iml4e-prometheus.iml4e.svc", ("prometheus",)),
    "mlflow.database.existingSecret": ("mine", "iml4e-db-mlflow", ("mariadb", "secrets")),
    "mlflow.webhooks.existingSecret": ("mine", "iml4e-mlflow-webhooks", ()),
    "mlflow.s3.existingSecret": ("mine", "iml4e-s3-mlflow", ("minio", "secrets")),
    "pipelines.s3.existingSecret": ("mine", "iml4e-s3-pipelines", ("minio", "secrets", "runner", "notebooks")),
    "pipelines.api.database.existingSecret": ("mine", "iml4e-db-mlpipeline", ("mariadb", "secrets")),
    "pipelines.metadata.database.existingSecret": ("mine", "iml4e-db-metadb", ("mariadb", "secrets")),
    "pipelines.logLevel": ("error", "evel=info", ("kserve",)),
    "pipelines.clusterDomain": ("corp.example", '"cluster.local"', ()),
    "kserve.s3.existingSecret": ("mine", "iml4e-s3-models", ("minio", "secrets")),
    "runner.s3Secret": ("mine", "iml4e-s3-pipelines", ("minio", "secrets", "pipelines", "notebooks")),
    "notebooks.server.s3Secret": ("mine", "iml4e-s3-pipelines", ("minio", "secrets", "pipelines", "runner")),
    "minio.existingSecret": ("mine", '"iml4e-minio", "key"', ()),
    "mariadb.existingSecret": ("mine", '"iml4e-mariadb", "items"', ()),
    "mariadb.metrics.existingSecret": ("mine", '"iml4e-mariadb-metrics", "key"', ()),
    "grafana.existingSecret": ("mine", '"secretName": "iml4e-grafana"', ()),
    "gateway.readTimeout": ("13h", "12h", ("prometheus", "grafana", "home")),
    "gateway.terminationGracePeriodSeconds": (90, "300s", ("prometheus", "grafana", "home")),
    "prometheus.scrapeInterval": ("17s", r"_interval: \"15s", ()),
}


@pytest.mark.parametrize("path", ELSEWHERE)
def test_no_object_keeps_the_default_of_a_value_that_is_another(path: str) -> None:
    """Every place that reads a value reads it, not its default."""
    every = merged(*(nested(each, value) for each, (value, *_) in ELSEWHERE.items()))
    _, default, own = ELSEWHERE[path]
    before = [kind_and_name(thing) for thing in keepers(render("laptop", ON), default, own)]
    assert before, "the default is in no object: there is nothing to see"
    assert [kind_and_name(thing) for thing in keepers(render("laptop", merged(ON, every)), default, own)] == []


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_every_client_of_the_store_names_buckets_as_the_value_says(style: str) -> None:
    store = {
        "global": {"s3": {"endpoint": "https://s3.example.org", "addressingStyle": style}},
        "minio": {"enabled": False},
    }
    objects = render("laptop", merged(ON, store))
    told = {
        (each.name, variable["name"], variable["value"])
        for each in containers(objects)
        for variable in each.spec.get("env") or []
        if "ADDRESSING_STYLE" in variable["name"]
    }
    assert told == {
        ("Deployment/iml4e-mlflow mlflow", "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", style),
        ("CronJob/iml4e-mlflow-gc gc", "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", style),
        ("CronJob/iml4e-pipelines-retention retention", "S3_ADDRESSING_STYLE", style),
        ("CronJob/iml4e-backup backup", "S3_ADDRESSING_STYLE", style),
        ("CronJob/iml4e-backup objects", "S3_ADDRESSING_STYLE", style),
    }
    assert find(objects, "ConfigMap", "iml4e-runner")["data"]["S3_ADDRESSING_STYLE"] == style
    providers = yaml.safe_load(find(objects, "ConfigMap", "kfp-launcher")["data"]["providers"])
    assert {each["default"]["forcePathStyle"] for each in providers.values()} == {style == "path"}
    credentials = json.loads(find(objects, "ConfigMap", "inferenceservice-config")["data"]["credentials"])
    assert credentials["s3"].get("s3UseVirtualBucket") == {"path": None, "virtual": "true"}[style]


def test_every_schedule_has_the_time_zone() -> None:
    crons = [
        thing
        for thing in render("laptop", merged(ON, {"global": {"timeZone": "Europe/Berlin"}}))
        if thing["kind"] == "CronJob"
    ]
    assert {thing["spec"]["timeZone"] for thing in crons} == {"Europe/Berlin"}
    assert len(crons) == 4


@pytest.mark.parametrize("zone", ["", "Berlin time", "Europe/", 1])
def test_what_is_no_time_zone_is_refused_by_name(zone: Any) -> None:
    with pytest.raises(HelmError, match="timeZone"):
        render("laptop", {"global": {"timeZone": zone}})


def keepers(objects: tuple[Object, ...], text: str, own: tuple[str, ...]) -> list[Object]:
    """Objects with a text, without those of some parts; programs and dashboards are no place for values."""
    found = []
    for thing in objects:
        programs = (".py", ".sh", ".json") if labels(thing).get(COMPONENT) == "grafana" else (".py", ".sh")
        data = {key: value for key, value in thing.get("data", {}).items() if not key.endswith(programs)}
        if text in json.dumps({**thing, "data": data}) and labels(thing).get(COMPONENT) not in own:
            found.append(thing)
    return found
