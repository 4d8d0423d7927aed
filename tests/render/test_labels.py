"""Labels name the owner of an object; selectors use the two labels that never change."""

from __future__ import annotations

import pytest

from support.helm import RELEASE, profiles, render
from support.objects import COMPONENT, INSTANCE, NAME, Object, kind_and_name, labels, of_kind, pod_makers, pod_template
from support.parts import EVERY

EACH = pytest.mark.parametrize("profile", profiles())
# not parts: the identity of pipeline steps, and what belongs to the umbrella as a whole
BESIDES = {"backup", "runner", "secrets"}


def recommended(thing: Object) -> bool:
    """Whether an object has the labels that Kubernetes recommends, with the values of its part."""
    part = labels(thing).get(COMPONENT)
    return (
        (part in EVERY or part in BESIDES)
        and labels(thing).get(INSTANCE) == RELEASE
        and labels(thing).get("app.kubernetes.io/part-of") == "iml4e"
        and labels(thing).get("app.kubernetes.io/managed-by") == "Helm"
    )


@EACH
def test_objects_bear_the_recommended_labels(profile: str) -> None:
    for thing in render(profile):
        assert recommended(thing), kind_and_name(thing)
        assert labels(thing)[NAME].startswith(labels(thing)[COMPONENT]), kind_and_name(thing)
        assert labels(thing)["helm.sh/chart"], kind_and_name(thing)


@EACH
def test_pods_bear_the_labels_of_their_workload_without_a_version(profile: str) -> None:
    """A version would restart every pod at each upgrade."""
    for maker in pod_makers(render(profile)):
        template = pod_template(maker)
        assert recommended(template), kind_and_name(maker)
        assert labels(template)[NAME], kind_and_name(maker)
        assert labels(template)[COMPONENT] == labels(maker)[COMPONENT], kind_and_name(maker)
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels(template).keys(), kind_and_name(maker)


@EACH
def test_names_start_with_the_release(profile: str) -> None:
    names = {thing["metadata"]["name"] for thing in render(profile)} - NAMED_BY_UPSTREAM.keys()
    assert [name for name in names if name != RELEASE and not name.startswith((f"{RELEASE}-", f"{RELEASE}."))] == []


# name: why it is not ours to choose
NAMED_BY_UPSTREAM = {
    "kfp-launcher": "the launcher of a step asks for it by this name",
    "metadata-grpc-service": "driver and launcher of a step look for it there",
    "ml-pipeline": "the SDK and Argo's pods look for it there",
    "inferenceservice-config": "the KServe controller asks for it by this name",
    "mlflow": "a serving runtime is called what people write into `runtime:`",
    "mlflow-scoring": "a serving runtime is called what people write into `runtime:`",
}


@EACH
def test_selectors_are_name_and_instance(profile: str) -> None:
    """A selector cannot be changed later, so it has no label that may change."""
    for maker in of_kind(render(profile), "Deployment", "StatefulSet", "DaemonSet"):
        selector = maker["spec"]["selector"]["matchLabels"]
        assert set(selector) == {NAME, INSTANCE}, kind_and_name(maker)
        assert selector.items() <= labels(pod_template(maker)).items(), kind_and_name(maker)


@EACH
def test_two_workloads_never_share_a_selector(profile: str) -> None:
    makers = of_kind(render(profile), "Deployment", "StatefulSet", "DaemonSet")
    taken = [tuple(sorted(maker["spec"]["selector"]["matchLabels"].items())) for maker in makers]
    assert len(taken) == len(set(taken))


@EACH
def test_no_namespace_is_made(profile: str) -> None:
    assert of_kind(render(profile), "Namespace") == [], "the namespace is the administrator's"
