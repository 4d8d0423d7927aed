"""Rules for every container of the release. Exceptions are in tables, each with its reason."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from support.exceptions import EXCEPTIONS
from support.helm import CHART, profiles, render
from support.objects import (
    COMPONENT,
    Container,
    annotations,
    containers,
    find,
    kind_and_name,
    labels,
    of_kind,
    pod_makers,
    pod_template,
    serving_runtimes,
)
from support.parts import PARTS, WORKLOADS, Part
from support.pod_security import violations
from support.pods import ON

ALL = {}
"""One of each: profiles often agree, and saying it once is enough."""
for _profile in profiles():
    for _container in containers(render(_profile)):
        ALL.setdefault(json.dumps([_container.owner, _container.spec, _container.pod]), (_profile, _container))
CONTAINERS = [pytest.param(container, id=f"{profile} {container.name}") for profile, container in ALL.values()]
MAIN = [
    param
    for param in CONTAINERS
    if not param.values[0].init and not param.values[0].owner.startswith(("Job/", "CronJob/"))
]

# Kind/name container: why it may
NO_PROBE: dict[str, str] = EXCEPTIONS["noProbe"]
WRITABLE_ROOT: dict[str, str] = EXCEPTIONS["writableRoot"]
# Kind/name, of a Job the component: why its pods talk to the API server
USES_THE_API: dict[str, str] = EXCEPTIONS["token"]
#: Every profile, and what is off in all of them.
EVERYTHING = [*(render(profile) for profile in profiles()), render("laptop", ON)]


@pytest.mark.parametrize("profile", profiles())
def test_restricted_pod_security_admits_every_pod(profile: str) -> None:
    pods = [(maker, pod_template(maker)["spec"]) for maker in pod_makers(render(profile))]
    pods += [(runtime, runtime["spec"]) for runtime in serving_runtimes(render(profile))]
    wrong = [(kind_and_name(maker), sentence) for maker, pod in pods for sentence in violations(pod)]
    assert [f"{name}: {sentence}" for name, sentence in wrong if name not in EXCEPTIONS["restricted"]] == []


@pytest.mark.parametrize("container", CONTAINERS)
def test_user_is_a_number(container: Container) -> None:
    """An image whose user is a name cannot be checked by runAsNonRoot."""
    context = {**(container.pod.get("securityContext") or {}), **(container.spec.get("securityContext") or {})}
    assert context["runAsUser"] > 0


@pytest.mark.parametrize("container", CONTAINERS)
def test_image_is_pinned(container: Container) -> None:
    name, _, tag = container.spec["image"].rpartition(":")
    assert name.count("/") >= 1
    assert "." in name.split("/")[0], "an image names its registry"
    assert tag not in ("", "latest")
    assert any(letter.isdigit() for letter in tag)
    assert container.spec.get("imagePullPolicy") == "IfNotPresent"


@pytest.mark.parametrize("container", CONTAINERS)
def test_resources_are_asked_for_and_memory_is_bounded(container: Container) -> None:
    resources = container.spec["resources"]
    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert "memory" in resources["limits"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_root_file_system_is_read_only(container: Container) -> None:
    if reason := WRITABLE_ROOT.get(container.name):
        pytest.skip(reason)
    assert container.spec["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("container", MAIN)
def test_readiness_is_probed(container: Container) -> None:
    if reason := NO_PROBE.get(container.name):
        pytest.skip(reason)
    assert container.spec["readinessProbe"]


@pytest.mark.parametrize("container", [param for param in MAIN if "ServingRuntime" not in param.values[0].owner])
def test_liveness_is_probed(container: Container) -> None:
    if reason := NO_PROBE.get(container.name):
        pytest.skip(reason)
    assert container.spec["livenessProbe"]


@pytest.mark.parametrize("container", MAIN)
def test_probes_ask_a_port_that_the_container_opens(container: Container) -> None:
    ports = {port["containerPort"] for port in container.spec.get("ports", [])}
    ports |= {port["name"] for port in container.spec.get("ports", []) if "name" in port}
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        handler = container.spec.get(probe) or {}
        for action in (handler.get("httpGet"), handler.get("tcpSocket")):
            assert not action or action["port"] in ports, probe


@pytest.mark.parametrize("container", CONTAINERS)
def test_mounts_are_volumes_of_the_pod(container: Container) -> None:
    if "ServingRuntime" in container.owner:
        pytest.skip("KServe adds the volumes of a model")
    volumes = {volume["name"] for volume in container.pod.get("volumes", [])} | claims_of(container.owner)
    assert {mount["name"] for mount in container.spec.get("volumeMounts", [])} <= volumes


def claims_of(owner: str) -> set[str]:
    """Names of the volumes that a StatefulSet claims."""
    kind, name = owner.split("/")
    sets = [
        found for profile in profiles() for found in of_kind(render(profile), kind) if found["metadata"]["name"] == name
    ]
    return {claim["metadata"]["name"] for found in sets for claim in found["spec"].get("volumeClaimTemplates", [])}


@pytest.mark.parametrize("profile", profiles())
def test_only_who_uses_the_api_gets_a_token(profile: str) -> None:
    with_token = {
        kind_and_name(maker) if maker["kind"] != "Job" else f"Job/{labels(maker)[COMPONENT]}"
        for maker in pod_makers(render(profile))
        if pod_template(maker)["spec"].get("automountServiceAccountToken") is not False
    }
    assert with_token <= set(USES_THE_API)


def test_no_exception_is_left_over() -> None:
    """An exception that nothing needs any more would hide the next one of its name."""
    makers = [maker for objects in EVERYTHING for maker in pod_makers(objects)]
    runtimes = [runtime for profile in profiles() for runtime in serving_runtimes(render(profile))]
    with_token = {
        kind_and_name(maker) if maker["kind"] != "Job" else f"Job/{labels(maker)[COMPONENT]}"
        for maker in makers
        if pod_template(maker)["spec"].get("automountServiceAccountToken") is not False
    }
    accounts = [account for objects in EVERYTHING for account in of_kind(objects, "ServiceAccount")]
    with_token |= {kind_and_name(a) for a in accounts if a.get("automountServiceAccountToken") is not False}
    assert with_token == set(USES_THE_API)
    assert {param.values[0].name for param in MAIN if "readinessProbe" not in param.values[0].spec} == set(NO_PROBE)
    assert {
        param.values[0].name
        for param in CONTAINERS
        if not param.values[0].spec["securityContext"].get("readOnlyRootFilesystem")
    } == set(WRITABLE_ROOT)
    refused = {kind_and_name(maker) for maker in makers if violations(pod_template(maker)["spec"])}
    refused |= {kind_and_name(runtime) for runtime in runtimes if violations(runtime["spec"])}
    assert refused == set(EXCEPTIONS["restricted"])


@pytest.mark.parametrize("profile", profiles())
def test_every_pod_has_an_account_of_its_own_part(profile: str) -> None:
    for maker in pod_makers(render(profile)):
        assert pod_template(maker)["spec"].get("serviceAccountName", "default") != "default", kind_and_name(maker)
    for account in of_kind(render(profile), "ServiceAccount"):
        if kind_and_name(account) not in USES_THE_API:
            assert account.get("automountServiceAccountToken") is False, kind_and_name(account)


def test_registry_override_reaches_every_image() -> None:
    values = {"global": {"imageRegistry": "registry.example.com:5000"}}
    for container in containers(render("laptop", values)):
        assert container.spec["image"].startswith("registry.example.com:5000/"), container.name
    # images that controllers are told about stand in arguments, variables and configuration
    for host in ("docker.io", "gcr.io", "ghcr.io", "quay.io"):
        assert f"{host}/" not in json.dumps(render("laptop", values))


def test_table_and_render_name_the_same_workloads() -> None:
    rendered = {kind_and_name(thing) for thing in of_kind(render("laptop"), "Deployment", "StatefulSet", "DaemonSet")}
    assert rendered == set(map(str, WORKLOADS))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_part_is_what_the_table_says(part: Part) -> None:
    workloads = [find(render("laptop"), workload.kind, workload.name) for workload in part.workloads]
    assert any(workload["spec"].get("volumeClaimTemplates") for workload in workloads) == part.storage
    for name, ports in part.services.items():
        service = find(render("laptop"), "Service", name)
        assert set(ports) <= {port["port"] for port in service["spec"]["ports"]}
    rules = [rule for route in of_kind(render("laptop"), "HTTPRoute") for rule in route["spec"]["rules"]]
    paths = {match["path"]["value"] for rule in rules for match in rule["matches"]}
    assert not part.ui or (part.ui.rstrip("/") or "/") in paths


def test_storage_class_reaches_every_volume() -> None:
    sets = of_kind(render("laptop", {"global": {"storageClass": "fast"}}), "StatefulSet")
    claims = [claim["spec"] for thing in sets for claim in thing["spec"].get("volumeClaimTemplates", [])]
    assert claims
    assert {claim["storageClassName"] for claim in claims} == {"fast"}


DIGEST = f"sha256:{'0123456789abcdef' * 4}"


def test_a_digest_pins_every_image() -> None:
    def pinned(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: DIGEST if key == "digest" else pinned(child) for key, child in node.items()}

    charts = {"": CHART, **{part.name: CHART / "charts" / part.name for part in PARTS}}
    values = {name: pinned(yaml.safe_load((chart / "values.yaml").read_text())) for name, chart in charts.items()}
    own = {name: {key: child for key, child in values[name].items() if key != "global"} for name in values if name}
    shared = {**values[""]["global"], "imageRegistry": "registry.example.com:5000"}
    text = json.dumps(render("default", {"global": shared, **own}))
    images = set(re.findall(r"registry\.example\.com:5000/[\w./:@-]+", text))
    assert len(images) > 15
    assert [image for image in sorted(images) if not image.endswith(f"@{DIGEST}")] == []


SCRAPED = [part for part in PARTS if part.metrics and part.job == "parts"]


@pytest.mark.parametrize("part", SCRAPED, ids=lambda part: part.name)
def test_pods_say_where_their_metrics_are(part: Part) -> None:
    workload = find(render("laptop"), part.workloads[0].kind, part.workloads[0].name)
    notes, (port, path) = annotations(pod_template(workload)), part.metrics
    assert notes["prometheus.io/scrape"] == "true"
    assert (notes["prometheus.io/port"], notes["prometheus.io/path"]) == (str(port), path)
    assert port in {opened["containerPort"] for c in containers([workload]) for opened in c.spec.get("ports", [])}


def test_exemptions_name_containers_that_exist() -> None:
    names = {param.values[0].name for param in CONTAINERS}
    owners: set[str] = {kind_and_name(maker) for objects in EVERYTHING for maker in pod_makers(objects)}
    owners |= {f"Job/{labels(job)[COMPONENT]}" for job in of_kind(render("laptop"), "Job")}
    assert {*NO_PROBE, *WRITABLE_ROOT} <= names
    accounts = {kind_and_name(account) for account in of_kind(render("laptop"), "ServiceAccount")}
    assert set(USES_THE_API) <= owners | accounts
