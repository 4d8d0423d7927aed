"""What is special about Kubeflow Pipelines."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from support.helm import HelmError, custom_resource_definitions, render
from support.objects import Object, containers, custom_resource_schemas, find, of_kind, pod_makers, pod_template
from support.pod_security import violations


def platform(pipelines: dict[str, Any] | None = None, **globals_: Any) -> tuple[Object, ...]:
    """The laptop's platform with the part on."""
    return render("laptop", {"global": globals_, "pipelines": {"enabled": True, **(pipelines or {})}})


def server_config(objects: tuple[Object, ...]) -> dict[str, Any]:
    """What the API server reads as it starts."""
    return json.loads(find(objects, "ConfigMap", "iml4e-pipelines")["data"]["config.json"])


def controller_config(objects: tuple[Object, ...]) -> dict[str, Any]:
    """What the workflow controller lays under every run."""
    return yaml.safe_load(find(objects, "ConfigMap", "iml4e-pipelines-argo")["data"]["config"])


def run_pod_spec(objects: tuple[Object, ...]) -> dict[str, Any]:
    """What is laid over every pod of a run."""
    return yaml.safe_load(controller_config(objects)["workflowDefaults"]["spec"]["podSpecPatch"])


def environment(objects: tuple[Object, ...], workload: str) -> dict[str, Any]:
    """Variables of the first container: their value, or where it comes from."""
    container = pod_template(find(objects, "Deployment", workload))["spec"]["containers"][0]
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def test_server_has_every_setting_without_which_it_does_not_start() -> None:
    config, variables = server_config(platform()), environment(platform(), "iml4e-pipelines")
    assert config["DBDriverName"] == "mysql"
    assert config["InitConnectionTimeout"]
    assert config["DBConfig"]["ConMaxLifeTime"]
    assert config["ObjectStoreConfig"].keys() >= {"Host", "BucketName"}
    assert variables.keys() >= {
        "POD_NAMESPACE",
        "DBCONFIG_MYSQLCONFIG_DBNAME",
        "ML_PIPELINE_VISUALIZATIONSERVER_SERVICE_HOST",
        "ML_PIPELINE_VISUALIZATIONSERVER_SERVICE_PORT",
    }


def test_settings_hold_no_key() -> None:
    keys = {"AccessKey", "SecretAccessKey", "Password", "User"}
    config = server_config(platform())
    assert not keys & (config["ObjectStoreConfig"].keys() | config["DBConfig"]["MySQLConfig"].keys())


def test_every_server_has_a_database_of_its_own() -> None:
    api = environment(platform(), "iml4e-pipelines")["DBCONFIG_MYSQLCONFIG_PASSWORD"]["secretKeyRef"]["name"]
    metadata = environment(platform(), "iml4e-pipelines-metadata")["FLAGS_mysql_config_password"]["secretKeyRef"][
        "name"
    ]
    assert (api, metadata) == ("iml4e-db-mlpipeline", "iml4e-db-metadb")


def test_no_password_is_on_a_command_line() -> None:
    """Where a server takes it from a flag, the flag takes it from the environment."""
    pod = pod_template(find(platform(), "Deployment", "iml4e-pipelines-metadata"))["spec"]
    arguments = pod["containers"][0]["args"]
    assert not [word for word in arguments if word.startswith("--mysql_config_password")]
    [taken] = [word.removeprefix("--fromenv=").split(",") for word in arguments if word.startswith("--fromenv=")]
    variables = environment(platform(), "iml4e-pipelines-metadata")
    assert {f"FLAGS_{flag}" for flag in taken} == set(variables)
    assert "--metadata_source_config_type=mysql" in arguments, "it would make do with memory"


@pytest.mark.parametrize("workload", ["iml4e-pipelines", "iml4e-pipelines-metadata"])
def test_a_pod_migrates_before_it_serves_and_may_take_an_hour(workload: str) -> None:
    deployment = find(platform(), "Deployment", workload)["spec"]
    probe = deployment["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600
    assert deployment["progressDeadlineSeconds"] > 3600


def test_clients_find_the_services_by_upstreams_names() -> None:
    ports = {
        name: [(port["name"], port["port"]) for port in find(platform(), "Service", name)["spec"]["ports"]]
        for name in ("ml-pipeline", "metadata-grpc-service")
    }
    assert ports["ml-pipeline"] == [("http", 8888), ("grpc", 8887)]
    assert ("grpc", 8080) in ports["metadata-grpc-service"]


def test_page_api_and_metadata_are_under_the_gateway() -> None:
    rules = find(platform(), "HTTPRoute", "iml4e-pipelines")["spec"]["rules"]
    paths = {
        match["path"]["value"]: rule.get("backendRefs", [{}])[0].get("name")
        for rule in rules
        for match in rule["matches"]
        if match["path"]["type"] == "PathPrefix"
    }
    assert paths == {"/pipeline": "iml4e-pipelines-ui", "/ml_metadata.MetadataStoreService": "iml4e-pipelines-ui"}
    [redirect] = [rule for rule in rules if "backendRefs" not in rule]
    assert redirect["matches"][0]["path"] == {"type": "Exact", "value": "/pipeline"}
    assert redirect["filters"][0]["requestRedirect"]["path"]["replaceFullPath"] == "/pipeline/"


def test_browsers_reach_metadata_through_a_translator_beside_it() -> None:
    config = yaml.safe_load(find(platform(), "ConfigMap", "iml4e-pipelines-metadata")["data"]["grpc-web.yaml"])["http"]
    (router,) = config["routers"].values()
    assert router["rule"] == "PathPrefix(`/ml_metadata.MetadataStoreService/Get`)", "open at the gateway: read only"
    router = config["routers"]["metadata"]
    kinds = [next(iter(config["middlewares"][name])) for name in router["middlewares"]]
    assert kinds == ["grpcWeb", "headers"]
    assert config["middlewares"][router["middlewares"][1]]["headers"]["customRequestHeaders"] == {"Te": "trailers"}
    [server] = config["services"][router["service"]]["loadBalancer"]["servers"]
    pod = pod_template(find(platform(), "Deployment", "iml4e-pipelines-metadata"))["spec"]
    assert server["url"] == f"h2c://localhost:{pod['containers'][0]['ports'][0]['containerPort']}"
    assert (
        environment(platform(), "iml4e-pipelines-ui")["METADATA_ENVOY_SERVICE_SERVICE_HOST"] == "metadata-grpc-service"
    )


def providers(objects: tuple[Object, ...]) -> dict[str, Any]:
    """How the pods of runs open buckets, by scheme."""
    return yaml.safe_load(find(objects, "ConfigMap", "kfp-launcher")["data"]["providers"])


@pytest.mark.parametrize(
    ("endpoint", "url", "insecure"),
    [
        ("http://s3.example.com:9000", "http://s3.example.com:9000", True),
        ("https://s3.example.com", "https://s3.example.com", False),
        ("", "https://s3.us-east-1.amazonaws.com", False),
    ],
    ids=["http", "https", "AWS"],
)
def test_everybody_uses_the_shared_store(endpoint: str, url: str, insecure: bool) -> None:
    objects = render("laptop", {"global": {"s3": {"endpoint": endpoint}}, "minio": {"enabled": False}, "pipelines": {"enabled": True}})  # fmt: skip
    host = url.split("//")[1]
    for scheme in ("minio", "s3"):
        store = providers(objects)[scheme]["default"]
        assert (store["endpoint"], store["disableSSL"]) == (url, insecure)
        assert store["credentials"]["secretRef"]["secretName"] == "iml4e-s3-pipelines"
    assert server_config(objects)["ObjectStoreConfig"]["Host"] == host
    s3 = controller_config(objects)["artifactRepository"]["s3"]
    assert (s3["endpoint"], s3["insecure"]) == (host, insecure)
    ui = environment(objects, "iml4e-pipelines-ui")
    assert (ui["MINIO_HOST"], ui["MINIO_NAMESPACE"]) == (host.partition(":")[0], "")
    assert ui["MINIO_PORT"] == (host.partition(":")[2] or "443")


def test_rights_from_the_cloud_need_no_key() -> None:
    objects = platform({"s3": {"existingSecret": ""}, "runs": {"pipelineRoot": "s3://ours/runs"}})
    assert providers(objects)["s3"]["default"]["credentials"] == {"fromEnv": True}
    assert controller_config(objects)["artifactRepository"]["s3"]["useSDKCreds"] is True
    users = [maker for maker in pod_makers(objects) if maker["metadata"]["name"].startswith("iml4e-pipelines")]
    assert "iml4e-s3-pipelines" not in json.dumps(users)
    with pytest.raises(HelmError, match=r"runs\.pipelineRoot"):
        platform({"s3": {"existingSecret": ""}})


def test_ui_looks_for_old_logs_where_the_controller_puts_them() -> None:
    ui = environment(platform(), "iml4e-pipelines-ui")
    repository = controller_config(platform())["artifactRepository"]
    assert ui["ARGO_KEYFORMAT"] == repository["s3"]["keyFormat"]
    assert ui["ARGO_ARCHIVE_BUCKETNAME"] == repository["s3"]["bucket"]
    off = platform({"runs": {"archiveLogs": False}})
    assert "artifactRepository" not in controller_config(off)
    assert environment(off, "iml4e-pipelines-ui")["ARGO_ARCHIVE_LOGS"] == "false"


def pod_of_a_step(objects: tuple[Object, ...]) -> dict[str, Any]:
    """The pod spec of a step: what the compiler asks for, Argo's containers, and what is laid over both."""
    kfp = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    executor = controller_config(objects)["executor"]
    argo = {"securityContext": executor["securityContext"], "resources": executor["resources"]}
    over = copy.deepcopy(run_pod_spec(objects))
    [main] = over.pop("containers")
    return {
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        **over,
        "initContainers": [{"name": "init", **argo}, {"name": "kfp-launcher", "securityContext": kfp}],
        "containers": [{"name": "wait", **argo}, {"securityContext": kfp, **main}],
    }


def test_restricted_pod_security_admits_the_pods_of_runs() -> None:
    assert violations(pod_of_a_step(platform())) == []


def test_pods_of_runs_are_the_runner_and_have_its_token() -> None:
    """Accounts hand out no token by themselves; a run reports through the API."""
    account = server_config(platform())["DEFAULTPIPELINERUNNERSERVICEACCOUNT"]
    assert find(platform(), "ServiceAccount", account)
    assert run_pod_spec(platform())["automountServiceAccountToken"] is True


def test_steps_have_the_environment_of_the_platform() -> None:
    [main] = run_pod_spec(platform())["containers"]
    sources = {source.get("configMapRef", source.get("secretRef"))["name"] for source in main["envFrom"]}
    assert sources == {"iml4e-runner", "iml4e-s3-pipelines"}
    env = [{"name": "PIP_INDEX_URL", "value": "https://pypi.example.com/simple"}]
    assert controller_config(platform({"runs": {"env": env}}))["mainContainer"]["env"][-1:] == env


def test_one_value_reaches_every_pod_of_every_run() -> None:
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    spec = {"nodeSelector": {"pool": "runs"}, "tolerations": tolerations, "priorityClassName": "batch"}
    laid_over = run_pod_spec(platform({"runs": {"podSpec": spec}}, imagePullSecrets=[{"name": "registry-key"}]))
    assert laid_over.items() >= spec.items()
    assert laid_over["imagePullSecrets"] == [{"name": "registry-key"}]
    assert laid_over["securityContext"]["runAsNonRoot"] is True
    with pytest.raises(HelmError, match=r"runs\.env"):
        platform({"runs": {"podSpec": {"containers": []}}})


def test_a_large_user_is_written_as_a_number() -> None:
    """Values are floating point numbers on their way through helm."""
    assert run_pod_spec(platform({"runs": {"user": 1000650000}}))["securityContext"]["runAsUser"] == 1000650000


def test_registry_override_reaches_the_images_of_runs() -> None:
    objects = platform(imageRegistry="registry.example.com")
    variables = environment(objects, "iml4e-pipelines")
    [executor] = [
        word.removeprefix("--executor-image=")
        for container in containers([find(objects, "Deployment", "iml4e-pipelines-argo")])
        for word in container.spec["args"]
        if word.startswith("--executor-image=")
    ]
    images = [variables["V2_DRIVER_IMAGE"], variables["V2_LAUNCHER_IMAGE"], executor]
    assert all(image.startswith("registry.example.com/") for image in images)


def test_runs_are_tracked_in_mlflow_unless_that_is_off() -> None:
    plugin = server_config(platform())["plugins"]["mlflow"]
    assert plugin["endpoint"] == "http://iml4e-mlflow.iml4e.svc:5000/mlflow"
    assert plugin["settings"]["authType"] == "none"
    assert plugin["settings"]["kfpBaseURL"] == "http://localhost:30080/pipeline"
    assert "plugins" not in server_config(platform({"mlflow": {"enabled": False}}))
    secured = server_config(platform({"mlflow": {"authType": "basic-auth"}}))["plugins"]["mlflow"]["settings"]
    assert secured["authType"] == "basic-auth"
    assert secured["credentialSecretRef"] == {"usernameKey": "username", "passwordKey": "password"}


def test_steps_get_variables_without_mlflow_too() -> None:
    variable = {"name": "HTTP_TIMEOUT", "value": "5"}
    values = {"mlflow": {"enabled": False}, "runs": {"env": [variable]}}
    assert controller_config(platform(values))["mainContainer"]["env"] == [variable]


def test_recurring_runs_may_have_a_time_zone_of_their_own() -> None:
    values = {"scheduler": {"timeZone": "Asia/Tokyo"}}
    assert server_config(platform(values))["CRON_SCHEDULE_TIMEZONE"] == "Asia/Tokyo"
    [scheduler] = find(platform(values), "Deployment", "iml4e-pipelines-scheduler")["spec"]["template"]["spec"][
        "containers"
    ]
    assert {"name": "CRON_SCHEDULE_TIMEZONE", "value": "Asia/Tokyo"} in scheduler["env"]
    assert find(platform(values), "CronJob", "iml4e-pipelines-mlflow")["spec"]["timeZone"] == "UTC"


def test_mlflow_runs_that_steps_open_are_known_as_the_pipeline_runs_and_ended() -> None:
    [owner, context] = controller_config(platform())["mainContainer"]["env"]
    assert owner["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['pipeline/runid']"
    assert context["name"] == "MLFLOW_RUN_CONTEXT"
    assert json.loads(context["value"]) == {"iml4e.pipeline_run": f"$({owner['name']})"}
    job = find(platform({"mlflow": {"cleanup": {"schedule": "@hourly"}}}), "CronJob", "iml4e-pipelines-mlflow")["spec"]
    assert job["schedule"] == "@hourly"
    assert job["concurrencyPolicy"] == "Forbid"
    [container] = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["MLFLOW_URL"] == "http://iml4e-mlflow.iml4e.svc:5000/mlflow"
    assert "mlflow_runs.py" in find(platform(), "ConfigMap", "iml4e-pipelines-mlflow")["data"]
    off = platform({"mlflow": {"enabled": False}})
    assert [each for each in off if each["metadata"]["name"] == "iml4e-pipelines-mlflow"] == []
    assert "env" not in controller_config(off)["mainContainer"]


def test_the_job_logs_in_to_mlflow_as_the_server_does() -> None:
    def variables(kind: str) -> set[str]:
        job = find(platform({"mlflow": {"authType": kind}}), "CronJob", "iml4e-pipelines-mlflow")["spec"]["jobTemplate"]
        [container] = job["spec"]["template"]["spec"]["containers"]
        secrets = [each for each in container["env"] if "valueFrom" in each]
        assert {each["valueFrom"]["secretKeyRef"]["name"] for each in secrets} <= {"kfp-mlflow-credentials"}
        return {each["name"] for each in secrets}

    assert variables("none") == set()
    assert variables("bearer") == {"MLFLOW_TRACKING_TOKEN"}
    assert variables("basic-auth") == {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}


def test_runs_queue_on_a_small_machine_and_wherever_it_is_asked_for() -> None:
    assert controller_config(platform())["parallelism"] == 4
    assert "parallelism" not in controller_config(platform({"runs": {"parallelism": 0}}))
    everywhere = render("gpu-cluster", {"pipelines": {"enabled": True}})
    assert "parallelism" not in controller_config(everywhere)


def test_characters_of_four_bytes_reach_the_database_whatever_else_the_connection_has() -> None:
    assert server_config(platform())["DBConfig"]["MySQLConfig"]["ExtraParams"] == {"charset": "utf8mb4"}
    given = platform({"api": {"database": {"parameters": {"tls": "true"}}}})
    assert server_config(given)["DBConfig"]["MySQLConfig"]["ExtraParams"] == {"charset": "utf8mb4", "tls": "true"}


def test_proxies_are_not_asked_for_the_cluster() -> None:
    assert "HTTPS_PROXY" not in environment(platform(), "iml4e-pipelines")
    proxy = {"https": "http://proxy.example.com:3128", "noProxy": "s3.example.com"}
    variables = environment(platform({"proxy": proxy}), "iml4e-pipelines")
    assert variables["HTTPS_PROXY"] == proxy["https"]
    direct = set(variables["NO_PROXY"].split(","))
    assert direct >= {".svc", ".svc.cluster.local", "ml-pipeline", "$(KUBERNETES_SERVICE_HOST)", "s3.example.com"}


def test_a_default_for_workspaces_needs_a_storage_class() -> None:
    """Without one the API server does not start."""
    assert "workspace" not in server_config(platform(storageClass=""))
    claim = server_config(platform(storageClass="fast"))["workspace"]["volumeClaimTemplateSpec"]
    assert claim == {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"}


def test_pods_of_runs_may_read_their_key_and_no_other() -> None:
    role = find(platform(), "Role", "iml4e-pipelines-runs")
    secrets = [rule for rule in role["rules"] if "secrets" in rule["resources"]]
    assert [rule["resourceNames"] for rule in secrets] == [["iml4e-s3-pipelines"]]
    [binding] = [b for b in of_kind(platform(), "RoleBinding") if b["roleRef"]["name"] == "iml4e-pipelines-runs"]
    assert [subject["name"] for subject in binding["subjects"]] == ["iml4e-runner"]


def test_only_the_controller_may_enter_containers() -> None:
    may = [
        role["metadata"]["name"]
        for role in of_kind(platform(), "Role", "ClusterRole")
        for rule in role.get("rules") or []
        if "pods/exec" in rule.get("resources", [])
    ]
    assert may == ["iml4e-pipelines-argo"]


def test_controllers_find_the_kinds_that_they_wait_for() -> None:
    known = custom_resource_schemas(custom_resource_definitions())
    assert {kind for api, kind in known if api in ("argoproj.io/v1alpha1", "kubeflow.org/v1beta1")} == {
        "Workflow",
        "WorkflowTemplate",
        "CronWorkflow",
        "WorkflowTaskSet",
        "WorkflowTaskResult",
        "WorkflowArtifactGCTask",
        "ScheduledWorkflow",
    }


@pytest.mark.parametrize(
    ("workload", "change"),
    [
        ("iml4e-pipelines", {"mlflow": {"experiment": "Other"}}),
        ("iml4e-pipelines-argo", {"runs": {"ttlSecondsAfterFinished": 900}}),
    ],
    ids=["API server", "controller"],
)
def test_a_server_starts_anew_when_its_settings_change(workload: str, change: dict[str, Any]) -> None:
    before, after = (pod_template(find(objects, "Deployment", workload)) for objects in (platform(), platform(change)))
    assert before["metadata"]["annotations"] != after["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, True),
        ({"pipelines": {"enabled": False}}, False),
        ({"pipelines": {"route": {"enabled": False}}}, False),
    ],
    ids=["all on", "off", "not at the gateway"],
)
def test_steps_are_told_where_it_is_if_it_is_there(values: Object, told: bool) -> None:
    """The harness chooses its engine by that, and kfp.Client its address."""
    on = {"pipelines": {"enabled": True}}
    data = find(render("laptop", {**on, **values}), "ConfigMap", "iml4e-runner")["data"]
    addresses = {name: value for name, value in data.items() if name.startswith("KF_PIPELINES_")}
    assert addresses == (
        {
            "KF_PIPELINES_ENDPOINT": "http://iml4e-gateway-internal.iml4e.svc/pipeline",
            "KF_PIPELINES_UI_ENDPOINT": "http://localhost:30080/pipeline",
            "KF_PIPELINES_NAMESPACE": "iml4e",
        }
        if told
        else {}
    )


def test_every_component_reads_and_writes_the_bucket_that_is_named() -> None:
    objects = platform(s3={"buckets": {"pipelines": "steps"}})
    assert environment(objects, "iml4e-pipelines-ui")["ARGO_ARCHIVE_BUCKETNAME"] == "steps"
    assert controller_config(objects)["artifactRepository"]["s3"]["bucket"] == "steps"


def test_a_host_of_digits_stays_a_text_for_the_workflow_controller() -> None:
    objects = platform(s3={"endpoint": "http://1"})
    assert controller_config(objects)["artifactRepository"]["s3"]["endpoint"] == "1"
