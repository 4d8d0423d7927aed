"""Values that cannot work are refused with a sentence that says what to do, and every such sentence is tried."""

from __future__ import annotations

import re
from typing import Any

import pytest

from support.helm import CHART, HelmError, render

CERTIFICATE = {"mode": "existingSecret"}
# what is wrong: (values, the sentence)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no store": (
        {"minio": {"enabled": False}},
        "minio is off, but global.s3.endpoint still points to it: set global.s3.endpoint to your own store",
    ),
    "no database": (
        {"mariadb": {"enabled": False}},
        "mariadb is off, but global.database.host still points to it: set global.database.host to your own",
    ),
    "more replicas than there may be": (
        {"kserve": {"models": {"replicas": {"min": 3, "max": 2}}}},
        "kserve.models.replicas.min is larger than max: raise kserve.models.replicas.max.",
    ),
    "TLS without a certificate": (
        {"gateway": {"tls": {"enabled": True}}},
        "gateway.tls.enabled needs gateway.tls.secretName: name a Secret of type kubernetes.io/tls in the release's",
    ),
    "a route without a gateway": (
        {"gateway": {"enabled": False}},
        "gateway is off, but mlflow wants a route through it: name your own Gateway in global.gateway, or set mlflow.route.",
    ),
    "another Gateway without its address": (
        {"gateway": {"enabled": False}, "global": {"gateway": {"name": "shared", "namespace": "infra"}}},
        "gateway is off, but global.gateway.url still points to it: set global.gateway.url to",
    ),
    "another Gateway at the address of the one that is off": (
        {
            "gateway": {"enabled": False},
            "global": {"gateway": {"name": "shared", "url": "http://iml4e-gateway.iml4e.svc.cluster.local:80"}},
        },
        "gateway is off, but global.gateway.url still points to it: set global.gateway.url to",
    ),
    "TLS under an address without it": (
        {"gateway": {"tls": {"enabled": True, "secretName": "gateway"}}},
        "gateway.tls.enabled makes http a redirect to https, but global.publicUrl is http://localhost:30080: set",
    ),
    "tracking without a tracker": (
        {"mlflow": {"enabled": False}},
        "mlflow is off, but pipelines tracks its runs there: set pipelines.mlflow.enabled=false, or global.mlflow.url",
    ),
    "retention of nothing": (
        {"pipelines": {"retention": {"enabled": True, "olderThan": "", "archivedOlderThan": ""}}},
        "pipelines.retention is on, but no run is ever too old for it: set pipelines.retention.olderThan or",
    ),
    "containers in a pod spec": (
        {"pipelines": {"runs": {"podSpec": {"containers": [{"name": "main"}]}}}},
        "pipelines.runs.podSpec is for the pod, not for its containers:",
    ),
    "runs without a key for a store that wants one": (
        {"pipelines": {"s3": {"existingSecret": ""}}},
        "pipelines.s3.existingSecret is empty, so pods get their rights from the cloud, which",
    ),
    "authorities under a key that KServe does not read": (
        {"global": {"caCertificate": {"existingConfigMap": "company-ca"}}},
        "KServe reads certificate authorities from the key cabundle.crt of a ConfigMap alone: name the key so in ConfigMap",
    ),
    "authorities in two places": (
        {"global": {"caCertificate": {"existingConfigMap": "one", "existingSecret": "other"}}},
        "global.caCertificate names a Secret and a ConfigMap: empty existingSecret or existingConfigMap,",
    ),
    "a webhook without its Secret": (
        {"kserve": {"webhook": {"certificate": CERTIFICATE}}},
        "name the Secret in kserve.webhook.certificate.existingSecret.",
    ),
    "a webhook without its authority": (
        {"kserve": {"webhook": {"certificate": {**CERTIFICATE, "existingSecret": "mine"}}}},
        "in kserve.webhook.certificate.caBundle.",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_impossible_values_are_refused_with_a_sentence(what: str) -> None:
    values, sentence = REFUSED[what]
    with pytest.raises(HelmError, match=re.escape(sentence)):
        render("laptop", values)


def test_every_sentence_is_tried() -> None:
    # what only a cluster can tell is tried there: tests/e2e/test_volumes.py
    files = [path for path in CHART.rglob("templates/**/*.yaml") if path.name != "validate-volumes.yaml"]
    text = "".join(path.read_text() for path in files)
    sentences = re.findall(r'(?:\bfail|\brequired|\bprintf) "([^"]{30,})"', text)
    assert sentences
    tried = [sentence for _, sentence in REFUSED.values()]

    def is_tried(sentence: str) -> bool:
        start, _, rest = sentence.partition("%s")
        return any(said in sentence or (rest and said.startswith(start)) for said in tried)

    assert [sentence for sentence in sentences if not is_tried(sentence)] == []
