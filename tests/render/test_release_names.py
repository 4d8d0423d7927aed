"""Release names of every kind that Helm takes work, or are refused in one sentence before anything is made."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from support import helm
from support.helm import CHART, HelmError
from support.objects import Object, kind_and_name, labels, pod_makers, pod_template

#: The longest name; templates/validate/_values.tpl knows the same.
LONGEST = "a" * 31 + "9"
#: Parts whose objects are optional, with all of them.
EVERYTHING = ("gateway.replicas=2", "mlflow.gc.enabled=true", "pipelines.retention.enabled=true")


def render(release: str) -> tuple[Object, ...]:
    """The objects of a release of that name with everything on."""
    options = ("--namespace", "ml", *(f"--set={value}" for value in EVERYTHING))
    text = helm.helm("template", release, CHART, *options)
    return tuple(document for document in yaml.load_all(text, Loader=helm.LOADER) if document)


def room(thing: Object) -> Iterator[tuple[str, str, int]]:
    """Names and labels that an object brings about, and how long Kubernetes lets them be."""
    name = thing["metadata"]["name"]
    match thing["kind"]:
        case "Service":
            yield "name", name, 63
        case "CronJob":
            # its Jobs add eleven characters, and a Job's name is a label of its pods
            yield "name", name, 52
        case "Job":
            # later revisions have more digits
            yield "name", name + "0" * 4, 63
        case "StatefulSet":
            yield "label controller-revision-hash", f"{name}-0123456789", 63
    both = {**labels(thing), **(labels(pod_template(thing)) if pod_template(thing) else {})}
    yield from ((f"label {key}", value, 63) for key, value in both.items())


@pytest.mark.parametrize("release", ["iml4e", LONGEST, "true", "null", "on", "e3", "ml-2026", "a"])
def test_every_name_fits_and_is_one_that_kubernetes_takes(release: str) -> None:
    objects = render(release)
    assert pod_makers(objects)
    wrong = []
    for thing in objects:
        for what, text, most in room(thing):
            if not re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", text) or len(text) > most:
                wrong.append(f"{kind_and_name(thing)}: {what} {text!r} has {len(text)} of {most} characters")
        if thing["kind"] == "Service" and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", thing["metadata"]["name"]):
            wrong.append(f"{kind_and_name(thing)}: no name of a Service")
    assert wrong == []


def test_the_longest_name_is_the_longest() -> None:
    """One more character does not fit: the guard refuses nothing that would work."""
    assert any(len(text) + 1 > most for thing in render(LONGEST) for _, text, most in room(thing))


@pytest.mark.parametrize(
    ("release", "instead"),
    [
        (f"{LONGEST}b", LONGEST),
        ("b" * 53, "b" * 32),
        ("a" * 31 + "-b", "a" * 31),
        ("123", "ml-123"),
        ("0x1f", "ml-0x1f"),
        ("1e3", "ml-1e3"),
        ("a.b", "a-b"),
        ("1.a", "ml-1-a"),
    ],
)
def test_other_names_are_refused_in_one_sentence(release: str, instead: str) -> None:
    with pytest.raises(HelmError) as refused:
        render(release)
    assert refused.value.findings == [
        f"Release name {release} cannot be used: names of objects begin with it, so it needs a letter first, no dot, and at "
        f"most 32 characters. Choose another, {instead} for example."
    ]
    # the name that is proposed works
    assert render(instead)
