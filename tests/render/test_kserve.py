"""What is special about KServe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.helm import CHART, HelmError, render
from support.objects import annotations, find, kind_and_name, of_kind, planned_secrets, serving_runtimes


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


def runtime(values: dict | None = None) -> dict[str, Any]:
    """The one serving runtime of the release."""
    (found,) = serving_runtimes(render("laptop", values))
    return found


def test_one_runtime_serves_both_protocols_in_the_image_of_the_release() -> None:
    spec = runtime()["spec"]
    assert runtime()["kind"] == "ClusterServingRuntime"
    assert set(spec["protocolVersions"]) == {"v1", "v2"}
    assert spec["annotations"]["prometheus.kserve.io/path"] == "/metrics"
    (container,) = spec["containers"]
    assert container["image"] == "ghcr.io/mlflow/mlflow:v3.17.2-full"
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_amounts_that_are_numbers_become_text_which_the_crd_wants() -> None:
    resources = {"requests": {"cpu": 1.5}, "limits": {"cpu": 2}}
    [container] = runtime({"kserve": {"runtimes": {"mlflow": {"resources": resources}}}})["spec"]["containers"]
    assert (container["resources"]["requests"]["cpu"], container["resources"]["limits"]["cpu"]) == ("1.5", "2")


def test_without_the_runtime_nothing_of_it_is_left() -> None:
    objects = render("laptop", {"kserve": {"runtimes": {"mlflow": {"enabled": False}}}})
    left = [kind_and_name(thing) for thing in objects if thing["kind"] in ("ServingRuntime", "ClusterServingRuntime")]
    assert left == []
    assert not [thing for thing in objects if thing["metadata"]["name"] == "iml4e-model-server"]


def test_runtime_sets_no_variable_that_kserve_refuses() -> None:
    """Its webhook, which is not up at the first installation, would refuse every upgrade."""
    names = {variable["name"] for variable in runtime()["spec"]["containers"][0]["env"]}
    assert not names & {"PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONSTARTUP", "PYTHONHOME"}


PEM = "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n"


def test_the_model_server_is_told_what_was_registered() -> None:
    variables = {each["name"]: each for each in runtime()["spec"]["containers"][0]["env"]}
    for variable, annotation in {
        "MODEL_REGISTERED": "model", "MODEL_VERSION": "model-version",
        "MODEL_DIGEST": "model-digest", "MODEL_SIGNATURE": "model-signature",
    }.items():  # fmt: skip
        field = variables[variable]["valueFrom"]["fieldRef"]["fieldPath"]
        assert field == f"metadata.annotations['iml4e.org/{annotation}']"
    assert "MODEL_PUBLIC_KEY" not in variables
    variables = {
        each["name"]: each.get("value")
        for each in runtime({"kserve": {"runtimes": {"mlflow": {"publicKey": PEM}}}})["spec"]["containers"][0]["env"]
    }
    assert variables["MODEL_PUBLIC_KEY"] == PEM


@pytest.mark.parametrize("key", ["ssh-ed25519 AAAA", "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n"])
def test_a_private_key_is_no_value(key: str) -> None:
    with pytest.raises(HelmError, match="publicKey"):
        render("laptop", {"kserve": {"runtimes": {"mlflow": {"publicKey": key}}}})


def test_model_server_travels_with_the_chart() -> None:
    data = find(render("laptop"), "ConfigMap", "iml4e-model-server")["data"]
    source = CHART / "charts" / "kserve" / "files" / "model_server"
    assert data == {path.name: path.read_text() for path in source.glob("*.py")}
    mounted = [volume for volume in runtime()["spec"]["volumes"] if "configMap" in volume]
    assert mounted[0]["configMap"]["name"] == "iml4e-model-server"


def test_pods_follow_a_change_of_the_model_server(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "iml4e", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "charts/kserve/files/model_server/app.py").open("a") as file:
        file.write("# changed\n")
    (changed,) = serving_runtimes(render("laptop", chart=copy))
    assert changed["spec"]["annotations"] != runtime()["spec"]["annotations"]


def test_options_of_the_runtime_reach_its_pods() -> None:
    values = {
        "workers": 3,
        "maxBodyBytes": 50_000_000,
        "corsOrigins": ["https://a.example.org", "https://b.example.org"],
        "nodeSelector": {"pool": "models"},
        "tolerations": [{"key": "models", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    }
    spec = runtime({"kserve": {"runtimes": {"mlflow": values}}})["spec"]
    words = spec["containers"][0]["args"]
    assert {
        "--workers=3",
        "--max_body_bytes=50000000",
        "--cors_origins=https://a.example.org,https://b.example.org",
    } <= set(words)
    assert (spec["nodeSelector"], spec["tolerations"], spec["affinity"]) == tuple(list(values.values())[3:])


def test_models_come_from_s3_by_the_image_of_the_release() -> None:
    """KServe's own image would fetch the folder `model2` along with `model`."""
    (mine,) = [c for c in of_kind(render("laptop"), "ClusterStorageContainer") if c["metadata"]["name"] == "iml4e-s3"]
    (other,) = [c for c in of_kind(render("laptop"), "ClusterStorageContainer") if c["metadata"]["name"] == "iml4e"]
    # the second is what KServe matches for `storage.path`
    formats = [{"prefix": "s3://"}, {"prefix": "<scheme-placeholder>://"}]
    assert mine["spec"]["supportedUriFormats"] == formats
    assert not [each for each in formats if each in other["spec"]["supportedUriFormats"]]
    container = mine["spec"]["container"]
    assert container["image"] == "ghcr.io/mlflow/mlflow:v3.17.2-full"
    assert container["command"] == ["python", "-c", (CHART / "charts/kserve/files/fetch.py").read_text()]


def test_environment_of_downloads_reaches_every_place_they_come_from() -> None:
    more = [
        {"name": "HTTPS_PROXY", "value": "http://proxy.example.org:3128"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    values = {"kserve": {"storageInitializer": {"extraEnv": more}}}
    for own, given in zip(
        of_kind(render("laptop"), "ClusterStorageContainer"),
        of_kind(render("laptop", values), "ClusterStorageContainer"),
        strict=True,
    ):
        assert given["spec"]["container"]["env"] == own["spec"]["container"]["env"] + more


def test_beside_another_kserve_only_what_models_need_is_installed() -> None:
    objects = render("laptop", {"kserve": {"controller": {"enabled": False}}})
    of_the_part = [
        each for each in objects if each["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "kserve"
    ]
    assert sorted(map(kind_and_name, of_the_part)) == [
        "ConfigMap/iml4e-model-server",
        "NetworkPolicy/iml4e-kserve-models",
        "ServiceAccount/iml4e-models",
        "ServingRuntime/mlflow",
    ]
    assert find(objects, "ConfigMap", "iml4e-runner")["data"]["MODEL_NAMESPACE"] == "iml4e"
    annotations = planned_secrets(objects)["iml4e-s3-models"]["facts"]
    assert annotations["serving.kserve.io/s3-endpoint"] == "iml4e-minio.iml4e.svc:9000"


@pytest.mark.parametrize(
    ("source", "controller", "name"),
    [("existingSecret", True, "company-ca"), ("existingConfigMap", False, "company-ca"),
     # the controller copies it into the namespaces of models under this name
     ("existingConfigMap", True, "global-ca-bundle")],
)  # fmt: skip
def test_a_private_authority_reaches_models(source: str, controller: bool, name: str) -> None:
    trusted = {source: "company-ca", "key": "cabundle.crt"}
    kserve = {"controller": {"enabled": controller}}
    objects = render("default", {"global": {"caCertificate": trusted}, "kserve": kserve})
    (spec,) = [thing["spec"] for thing in serving_runtimes(objects)]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "ca-certificate"]
    found = volume.get("secret") or volume["configMap"]
    assert found.get("secretName", found.get("name")) == name
    assert found["items"] == [{"key": "cabundle.crt", "path": "ca.crt"}]
    assert found["optional"]
    (container,) = spec["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "ca-certificate"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert variables["CA_FILE"] == f"{mount['mountPath']}/ca.crt"


@pytest.mark.parametrize("mode", ["job", "helm"])
def test_the_certificate_is_made_in_the_cluster(mode: str) -> None:
    """And the webhook configurations say which one they wait for, without a certificate authority that an apply would put back."""
    objects = render("laptop", {"kserve": {"webhook": {"certificate": {"mode": mode}}}})
    secret = planned_secrets(objects)["iml4e-kserve-webhook"]
    configurations = of_kind(objects, "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    for thing in configurations:
        assert annotations(thing) == {"iml4e/ca-from": secret["name"]}
        assert not any("caBundle" in webhook["clientConfig"] for webhook in thing["webhooks"])
        assert {webhook["clientConfig"]["service"]["name"] for webhook in thing["webhooks"]} == {secret["name"]}
    assert secret["host"] == "iml4e-kserve-webhook.iml4e.svc"
    assert secret["trustedBy"] == [f"{thing['kind'].lower()}s/{thing['metadata']['name']}" for thing in configurations]


def test_the_certificate_is_somebody_elses() -> None:
    """With a certificate of one's own, cert-manager, or no controller the Job has no right to webhook configurations."""
    own = {"mode": "existingSecret", "existingSecret": "mine", "caBundle": "TUlORQ=="}
    for values in (
        {"webhook": {"certificate": own}},
        {"webhook": {"certificate": {"mode": "certManager"}}},
        {"controller": {"enabled": False}},
        {"enabled": False},
    ):
        objects = render("laptop", {"kserve": values})
        assert "iml4e-kserve-webhook" not in planned_secrets(objects)
        assert "ClusterRole/iml4e-secrets" not in map(kind_and_name, objects)
        assert "iml4e/ca-from" not in str(of_kind(objects, "MutatingWebhookConfiguration"))


def test_the_controller_may_watch_kinds_that_a_cluster_may_lack() -> None:
    """A render without a cluster cannot ask for them, and the controller never starts where it may not watch what there is."""
    groups = {
        group for rule in find(render("laptop"), "ClusterRole", "iml4e-kserve")["rules"] for group in rule["apiGroups"]
    }
    assert {"keda.sh", "serving.knative.dev", "opentelemetry.io"} <= groups


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
