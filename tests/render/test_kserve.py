"""What is special about KServe."""

from __future__ import annotations

import base64
import json

import pytest

from support.helm import HelmError, render
from support.objects import find, kind_and_name, of_kind, serving_runtimes

SERVED = {
    "global": {"runtime": {"repository": "iml4e/runtime", "tag": "0.1.0"}},
    "kserve": {"runtimes": {"mlflow": {"enabled": True}}},
}


def configuration(values: dict | None = None) -> dict[str, dict]:
    """What the controller reads at each change of an InferenceService."""
    data = find(render("laptop", values), "ConfigMap", "inferenceservice-config")["data"]
    return {key: json.loads(text) for key, text in data.items()}


def test_configuration_has_every_key_without_which_no_model_starts() -> None:
    keys = {
        "deploy",
        "ingress",
        "storageInitializer",
        "credentials",
        "agent",
        "logger",
        "batcher",
        "router",
        "security",
    }
    assert keys <= configuration().keys()


def test_controller_makes_no_routes_and_no_serverless_services() -> None:
    assert configuration()["deploy"]["defaultDeploymentMode"] == "Standard"
    assert configuration()["ingress"]["disableIngressCreation"] is True
    assert configuration()["ingress"]["ingressGateway"], "empty, it ends the controller"


def test_a_new_version_is_ready_before_the_old_one_goes() -> None:
    rollout = configuration()["deploy"]["deploymentRolloutStrategy"]["defaultRollout"]
    assert rollout["maxUnavailable"] in ("0", "0%")


@pytest.mark.parametrize("key", ["storageInitializer", "agent", "logger", "batcher", "router"])
def test_every_helper_of_a_model_has_all_four_quantities(key: str) -> None:
    """The webhook refuses every model pod where one is empty."""
    assert all(
        configuration()[key][quantity] for quantity in ("cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit")
    )


@pytest.mark.parametrize(
    ("endpoint", "host", "https"),
    [("http://s3.example.com:9000", "s3.example.com:9000", "0"), ("https://s3.example.com", "s3.example.com", "1")],
    ids=["http", "https"],
)
def test_models_are_read_from_the_shared_store(endpoint: str, host: str, https: str) -> None:
    s3 = configuration({"global": {"s3": {"endpoint": endpoint}}, "minio": {"enabled": False}})["credentials"]["s3"]
    assert (s3["s3Endpoint"], s3["s3UseHttps"]) == (host, https)


def test_public_images_alone_serve_by_the_scoring_server() -> None:
    assert [runtime["metadata"]["name"] for runtime in serving_runtimes(render())] == ["mlflow-scoring"]


def test_our_own_image_serves_both_protocols_and_comes_first() -> None:
    runtimes = {runtime["metadata"]["name"]: runtime["spec"] for runtime in serving_runtimes(render("laptop", SERVED))}
    priority = {name: spec["supportedModelFormats"][0]["priority"] for name, spec in runtimes.items()}
    assert priority["mlflow"] > priority["mlflow-scoring"]
    assert set(runtimes["mlflow"]["protocolVersions"]) == {"v1", "v2"}
    assert runtimes["mlflow"]["annotations"]["prometheus.kserve.io/path"] == "/metrics"
    assert runtimes["mlflow"]["containers"][0]["image"].endswith("/iml4e/runtime:0.1.0")


def test_webhooks_trust_the_certificate_that_they_are_given() -> None:
    objects = render("laptop")
    secret = find(objects, "Secret", "iml4e-kserve-webhook")["data"]
    webhooks = [
        webhook
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
        for webhook in find(objects, kind, "iml4e-kserve")["webhooks"]
    ]
    assert {webhook["clientConfig"]["caBundle"] for webhook in webhooks} == {secret["ca.crt"]}
    assert b"BEGIN CERTIFICATE" in base64.b64decode(secret["tls.crt"])


def test_runtimes_of_the_release_do_not_wait_for_the_controller_of_the_release() -> None:
    """Both come in one `helm install`: a webhook that must answer would stop it."""
    webhooks = find(render("laptop"), "ValidatingWebhookConfiguration", "iml4e-kserve")["webhooks"]
    for webhook in webhooks:
        of_runtimes = any("servingruntimes" in resource for rule in webhook["rules"] for resource in rule["resources"])
        assert (webhook["failurePolicy"] == "Ignore") == of_runtimes, webhook["name"]


def test_a_pod_that_is_no_model_never_meets_the_webhook() -> None:
    for webhook in find(render("laptop"), "MutatingWebhookConfiguration", "iml4e-kserve")["webhooks"]:
        if any("pods" in rule["resources"] for rule in webhook["rules"]):
            assert webhook["objectSelector"]["matchExpressions"][0]["key"] == "serving.kserve.io/inferenceservice"


def test_cert_manager_can_make_the_certificate() -> None:
    objects = render("laptop", {"kserve": {"webhook": {"certificate": {"mode": "certManager"}}}})
    assert "Secret/iml4e-kserve-webhook" not in map(kind_and_name, objects)
    assert len(of_kind(objects, "Certificate", "Issuer")) == 2
    configuration = find(objects, "MutatingWebhookConfiguration", "iml4e-kserve")
    assert configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == "iml4e/iml4e-kserve-webhook"
    assert not any("caBundle" in webhook["clientConfig"] for webhook in configuration["webhooks"])


@pytest.mark.parametrize(
    ("certificate", "missing"),
    [({}, "existingSecret"), ({"existingSecret": "mine"}, "caBundle")],
    ids=["no Secret", "no authority"],
)
def test_a_certificate_of_ones_own_must_be_named_whole(certificate: dict, missing: str) -> None:
    values = {"kserve": {"webhook": {"certificate": {"mode": "existingSecret", **certificate}}}}
    with pytest.raises(HelmError, match=rf"kserve\.webhook\.certificate\.{missing}"):
        render("laptop", values)


def test_models_read_with_a_key_that_cannot_write() -> None:
    account = find(render("laptop"), "ServiceAccount", "iml4e-models")
    assert account["secrets"] == [{"name": "iml4e-s3-models"}]


def test_those_who_deploy_may_deploy_models() -> None:
    role = find(render("laptop"), "ClusterRole", "iml4e-kserve-edit")
    assert role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
