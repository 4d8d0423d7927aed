"""Labels name the owner of an object; selectors use the two labels that never change."""

from __future__ import annotations

import pytest

from support.helm import RELEASE, profiles, render
from support.objects import COMPONENT, INSTANCE, NAME, Object, kind_and_name, labels, of_kind, pod_makers, pod_template
from support.parts import EVERY

OBJECTS = [
    pytest.param(thing, id=f"{profile} {kind_and_name(thing)}") for profile in profiles() for thing in render(profile)
]
MAKERS = [param for param in OBJECTS if pod_makers(param.values)]
# not parts: the identity of pipeline steps, and what belongs to the umbrella as a whole
BESIDES = {"backup", "runner", "secrets"}


@pytest.mark.parametrize("thing", OBJECTS)
def test_object_bears_the_recommended_labels(thing: Object) -> None:
    part = labels(thing).get(COMPONENT)
    assert part in EVERY or part in BESIDES
    assert labels(thing)[NAME].startswith(part)
    assert labels(thing)[INSTANCE] == RELEASE
    assert labels(thing)["app.kubernetes.io/part-of"] == "iml4e"
    assert labels(thing)["app.kubernetes.io/managed-by"] == "Helm"
    assert labels(thing)["helm.sh/chart"]


@pytest.mark.parametrize("thing", OBJECTS)
def test_name_starts_with_release_and_part(thing: Object) -> None:
    part = labels(thing).get(COMPONENT)
    name = thing["metadata"]["name"]
    assert name == RELEASE or name.startswith((f"{RELEASE}-", f"{RELEASE}.")) or name in NAMED_BY_UPSTREAM, part


# name: why it is not ours to choose
NAMED_BY_UPSTREAM = {
    "kfp-launcher": "the launcher of a step asks for it by this name",
    "metadata-grpc-service": "driver and launcher of a step look for it there",
    "ml-pipeline": "the SDK and Argo's pods look for it there",
    "inferenceservice-config": "the KServe controller asks for it by this name",
    "mlflow": "a serving runtime is called what people write into `runtime:`",
    "mlflow-scoring": "a serving runtime is called what people write into `runtime:`",
}


@pytest.mark.parametrize("maker", MAKERS)
def test_pod_labels_hold_no_version(maker: Object) -> None:
    """Otherwise every new chart version would restart every pod."""
    assert "helm.sh/chart" not in labels(pod_template(maker))
    assert "app.kubernetes.io/version" not in labels(pod_template(maker))
    assert labels(pod_template(maker))[COMPONENT] == labels(maker)[COMPONENT]


@pytest.mark.parametrize("maker", [param for param in MAKERS if param.values[0]["kind"] not in ("Job", "CronJob")])
def test_selector_is_name_and_instance(maker: Object) -> None:
    """A selector cannot be changed later, so it has no label that may change."""
    selector = maker["spec"]["selector"]["matchLabels"]
    assert set(selector) == {NAME, INSTANCE}
    assert selector.items() <= labels(pod_template(maker)).items()


@pytest.mark.parametrize("profile", profiles())
def test_two_workloads_never_share_a_selector(profile: str) -> None:
    makers = of_kind(render(profile), "Deployment", "StatefulSet", "DaemonSet")
    taken = [tuple(sorted(maker["spec"]["selector"]["matchLabels"].items())) for maker in makers]
    assert len(taken) == len(set(taken))


@pytest.mark.parametrize("thing", [param for param in OBJECTS if param.values[0]["kind"] == "Namespace"])
def test_no_namespace_is_made(thing: Object) -> None:
    pytest.fail(f"{kind_and_name(thing)}: the namespace is the administrator's")
