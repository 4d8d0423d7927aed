"""Values at random. Legal ones render into objects that Kubernetes accepts, or end in a finding; illegal ones end in a sentence.

`IML4E_EXAMPLES=1000` tries that many new ones; without it, the same few at each run.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import Counter
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, note, settings
from kubernetes_validate import utils as kubernetes_validate_utils

from support.arbitrary import illegal_values, legal_values
from support.helm import LOADER, SCHEMA, HelmError, custom_resource_definitions, refusal, render_text
from support.objects import (
    COMPONENT,
    INSTANCE,
    Object,
    custom_resource_schemas,
    kind_and_name,
    labels,
    of_kind,
    pod_makers,
    pod_template,
    serving_runtimes,
)
from support.parts import EVERY
from support.pod_security import violations

EXAMPLES = int(os.environ.get("IML4E_EXAMPLES", "0"))
TRIED = settings(
    max_examples=EXAMPLES or 40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    # each example is a call of helm: no second look at what passes
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

# a megabyte of definitions, which the library would read anew for each object
kubernetes_validate_utils.schema_contents = functools.cache(kubernetes_validate_utils.schema_contents)


@functools.cache
def definitions() -> dict[tuple[str, str], Object]:
    """Schemas of the CRDs."""
    return custom_resource_schemas(custom_resource_definitions())


@functools.lru_cache(maxsize=4096)
def complaint(text: str) -> str:
    """What Kubernetes has against an object; many values leave most objects as they are."""
    thing = json.loads(text)
    try:
        kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{kind_and_name(thing)}: {'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        schema = definitions().get((thing["apiVersion"], thing["kind"]))
        if schema:
            found = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(thing)]
            return f"{kind_and_name(thing)}: {found[0]}" if found else ""
    return ""


def check(objects: list[Object]) -> list[str]:
    """What holds whatever the values are."""
    wrong = [said for thing in objects if (said := complaint(json.dumps(thing, sort_keys=True)))]
    taken = Counter((thing["metadata"].get("namespace"), kind_and_name(thing)) for thing in objects)
    wrong += [f"{name} is there {times} times" for name, times in taken.items() if times > 1]
    for thing in objects:
        if labels(thing).get(COMPONENT) not in (*EVERY, "runner", "secrets") or labels(thing).get(INSTANCE) != "iml4e":
            wrong.append(f"{kind_and_name(thing)} has no part")
        if re.search(r"<no value>|%!\w?\(|<nil>", json.dumps(thing)):
            wrong.append(f"{kind_and_name(thing)} has a hole")
    pods = [(maker, pod_template(maker)["spec"]) for maker in pod_makers(objects)]
    pods += [(runtime, runtime["spec"]) for runtime in serving_runtimes(objects)]
    for maker, pod in pods:
        wrong += [f"{kind_and_name(maker)}: {sentence}" for sentence in violations(pod)]
        if any(word in json.dumps(pod) for word in ("hostPath", "privileged")):
            wrong.append(f"{kind_and_name(maker)} reaches the node")
    for maker in of_kind(objects, "Deployment", "StatefulSet"):
        selector = maker["spec"]["selector"]["matchLabels"].items()
        if not selector <= labels(pod_template(maker)).items():
            wrong.append(f"{kind_and_name(maker)} does not select its own pods")
    return wrong


def tried(values: dict[str, Any]) -> tuple[str, HelmError | None]:
    """What Helm renders of values, or how it refuses them."""
    note(json.dumps(values, ensure_ascii=False))
    try:
        return render_text(values=values), None
    except HelmError as error:
        return "", error


@pytest.mark.timeout(3600 if EXAMPLES else 300)
@TRIED
@given(legal_values())
def test_legal_values_render_into_what_kubernetes_accepts(values: dict[str, Any]) -> None:
    text, refused = tried(values)
    assert SCHEMA not in str(refused), "the schemas of the umbrella and of a part disagree"
    assert refused is None or refusal(refused) == ""
    assert check([each for each in yaml.load_all(text, Loader=LOADER) if each]) == []


@pytest.mark.timeout(3600 if EXAMPLES else 300)
@TRIED
@given(illegal_values())
def test_illegal_values_end_in_a_sentence(values: dict[str, Any]) -> None:
    _, refused = tried(values)
    assert refused is None or refusal(refused) == ""
