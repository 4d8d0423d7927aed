"""Faults that tests inject into a release of their own: what is applied, and the words with which `iml4e doctor` must name it.

The first stage holds faults that do not disturb one another: objects that belong to the release and cannot work.
"""

from __future__ import annotations

import base64
import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.certificates import pem, signed
from support.k8s import Cluster

Object = dict[str, Any]
SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
RESOURCES = {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "256Mi"}}
SLEEP = ["sleep", "3600"]
GATEWAY = "gateway.networking.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"


@dataclass
class Lab:
    """A release that may be broken."""

    cluster: Cluster
    name: str

    @functools.cached_property
    def image(self) -> str:
        """Image with Python, that the node has: MLflow's."""
        served = self.cluster.get("apps/v1", "Deployment", f"{self.name}-mlflow")
        assert served
        return served["spec"]["template"]["spec"]["containers"][0]["image"]

    @property
    def labels(self) -> dict[str, str]:
        """Labels of objects that belong to the release."""
        return {
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/part-of": "iml4e",
            "app.kubernetes.io/component": "fault",
        }

    def thing(self, version: str, kind: str, name: str, /, **fields: Any) -> Object:
        """An object that belongs to the release."""
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": self.labels}, **fields}

    def container(self, **fields: Any) -> Object:
        """A container that sleeps."""
        return {
            "name": "main",
            "image": self.image,
            "command": SLEEP,
            "resources": RESOURCES,
            "securityContext": SECURITY,
            **fields,
        }

    def spec(self, *, pod: Object | None = None, **container: Any) -> Object:
        """A PodSpec under Pod Security `restricted`."""
        user = {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        spec = {"securityContext": user, "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1}
        return {**spec, "containers": [self.container(**container)], **(pod or {})}

    def deployment(
        self,
        name: str,
        *,
        replicas: int = 1,
        labels: Object | None = None,
        annotations: Object | None = None,
        **fields: Any,
    ) -> Object:
        """A Deployment of such a pod."""
        own = {**self.labels, "fault": name, **(labels or {})}
        template = {"metadata": {"labels": own, "annotations": annotations or {}}, "spec": self.spec(**fields)}
        spec = {"replicas": replicas, "selector": {"matchLabels": {"fault": name}}, "template": template}
        return self.thing("apps/v1", "Deployment", name, spec=spec)

    def job(self, name: str, *, pod: Object | None = None, **fields: Any) -> Object:
        """A Job that is tried once."""
        template = {
            "metadata": {"labels": self.labels},
            "spec": self.spec(pod={"restartPolicy": "Never", **(pod or {})}, **fields),
        }
        return self.thing("batch/v1", "Job", name, spec={"backoffLimit": 0, "template": template})

    def mlflow(self, name: str, *, pod: Object | None = None, **env: str | Object) -> Object:
        """A copy of MLflow's Deployment that only sleeps, with other settings."""
        served = self.cluster.get("apps/v1", "Deployment", f"{self.name}-mlflow")
        assert served
        [container] = copy.deepcopy(served["spec"]["template"]["spec"]["containers"])
        for each in container["env"]:
            if each["name"] in env:
                value = env[each["name"]]
                each.pop("value", None), each.pop("valueFrom", None)
                each |= {"value": value} if isinstance(value, str) else {"valueFrom": value}
        kept = {key: container[key] for key in ("image", "env")}
        return self.deployment(name, pod=pod, **kept)

    def certificate(self, name: str, host: str, *, days: float = 365, since: float = 1) -> Object:
        """A Secret with a certificate that signs itself."""
        made = signed(host, days=days, since=since)
        data = {
            "tls.crt": base64.b64encode(pem(made[0]).encode()).decode(),
            "tls.key": base64.b64encode(pem(made[1]).encode()).decode(),
        }
        return self.thing("v1", "Secret", name, type="kubernetes.io/tls", data=data)

    def authority(self, secret: Object) -> str:
        """The certificate of such a Secret as a webhook's configuration has it."""
        return secret["data"]["tls.crt"]

    def hook(self, name: str, service: str, ca: str = "", **fields: Any) -> Object:
        """A webhook that is asked about objects of this namespace with a label of its own."""
        client = {"service": {"name": service, "namespace": self.name, "path": "/", "port": 443}}
        if ca:
            client["caBundle"] = ca
        rule = {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
        webhook = {
            "name": f"{name}.iml4e.org", "clientConfig": client, "rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "timeoutSeconds": 2,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.name}},
            "objectSelector": {"matchLabels": {"asks": name}},
        }  # fmt: skip
        return self.thing(
            ADMISSION, "ValidatingWebhookConfiguration", f"{self.name}-{name}", webhooks=[webhook | fields]
        )

    def served(self, name: str, secret: str) -> list[Object]:
        """A pod that is ready and has a certificate, and its Service."""
        volume = {"name": "cert", "secret": {"secretName": secret}}
        mount = {"name": "cert", "mountPath": "/cert"}
        service = {"selector": {"fault": name}, "ports": [{"port": 443}]}
        return [
            self.deployment(name, pod={"volumes": [volume]}, volumeMounts=[mount]),
            self.thing("v1", "Service", name, spec=service),
        ]

    def gateway(self, name: str, secret: str = "", kind: str = "") -> Object:
        """A Gateway beside the release's own; with a Secret, for https."""
        listener: Object = {"name": "web", "port": 8000, "protocol": "HTTP"}
        if secret:
            listener |= {"protocol": "HTTPS", "tls": {"mode": "Terminate", "certificateRefs": [{"name": secret}]}}
        return self.thing(
            GATEWAY, "Gateway", name, spec={"gatewayClassName": kind or self.name, "listeners": [listener]}
        )

    def route(self, name: str, service: str, parent: Object | None = None) -> Object:
        """A route below the release's Gateway."""
        rule = {
            "matches": [{"path": {"type": "PathPrefix", "value": f"/{name}"}}],
            "backendRefs": [{"name": service, "port": 80}],
        }
        return self.thing(
            GATEWAY,
            "HTTPRoute",
            name,
            spec={"parentRefs": [{"name": f"{self.name}-gateway", **(parent or {})}], "rules": [rule]},
        )

    def model(
        self,
        name: str,
        uri: str = "s3://mlflow/none/",
        /,
        annotations: Object | None = None,
        account: str = "",
        version: str = "1",
        **fields: Any,
    ) -> Object:
        """A model as `iml4e deploy` makes one."""
        predictor = {
            "serviceAccountName": account or f"{self.name}-models",
            "minReplicas": 1, "maxReplicas": 1,
            "model": {"modelFormat": {"name": "mlflow"}, "runtime": "mlflow", "storageUri": uri, **fields},
        }  # fmt: skip
        return self.endpoint(name, version, predictor, annotations)

    def plain(self, name: str, version: str, **fields: Any) -> Object:
        """A model whose server is any program."""
        port = {"ports": [{"containerPort": 8080, "protocol": "TCP"}]}
        container = self.container(command=["python", "-m", "http.server", "8080"], **port) | {
            "name": "kserve-container",
            **fields,
        }
        spec = self.spec()
        predictor = {
            "minReplicas": 1,
            "maxReplicas": 1,
            "securityContext": spec["securityContext"],
            "containers": [container],
        }
        return self.endpoint(name, version, predictor)

    def endpoint(self, name: str, version: str, predictor: Object, annotations: Object | None = None) -> Object:
        metadata = {"name": name, "labels": {"app.kubernetes.io/managed-by": "iml4e"}}
        metadata["annotations"] = {"iml4e.org/model": name, "iml4e.org/model-version": version, **(annotations or {})}
        return {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": metadata,
            "spec": {"predictor": predictor},
        }


@dataclass(frozen=True)
class Case:
    """A fault: how to inject it, and how the doctor must name it."""

    fault: str
    """Row of the doctor's table."""
    about: str
    """Object that the finding is about; `{}` stands for the release."""
    words: tuple[str, ...]
    """What the sentence must say."""
    things: Callable[[Lab], list[Object]] = lambda lab: []
    """Objects to apply."""
    act: Callable[[Lab], None] = lambda lab: None
    """What to do afterwards."""
    needs: str = field(default="")
    """Kind that the cluster must have, as `version/kind`."""

    def __str__(self) -> str:
        return f"{self.fault}: {self.about}"


def _env(name: str, **source: Any) -> Object:
    return {"env": [{"name": name, "valueFrom": source}]}


def _python(code: str) -> list[str]:
    return ["python", "-c", code]


def _lost(lab: Lab) -> None:
    """Take the volume away from under a claim."""
    name = f"{lab.name}-lost"
    lab.cluster.wait(
        "the claim to be bound",
        lambda: lab.cluster.core.read_namespaced_persistent_volume_claim("lost", lab.name).status.phase == "Bound",
        30,
    )
    lab.cluster.core.delete_persistent_volume(name)
    lab.cluster.core.patch_persistent_volume(name, {"metadata": {"finalizers": None}})


def _held(lab: Lab) -> None:
    lab.cluster.core.delete_namespaced_pod("held", lab.name, grace_period_seconds=0)


def _by_hand(lab: Lab) -> None:
    """Start a Job of a CronJob, as `kubectl create job --from` does."""
    cron = lab.cluster.get("batch/v1", "CronJob", "cron")
    assert cron
    owner = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "name": "cron",
        "uid": cron["metadata"]["uid"],
        "controller": True,
    }
    job = lab.job("cron-1", command=_python("raise SystemExit('gc: cannot delete run 7: no such bucket')"))
    job["metadata"]["ownerReferences"] = [owner]
    lab.cluster.apply(job)


def _cron(lab: Lab, name: str, annotations: dict[str, str] | None = None, **fields: Any) -> Object:
    spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": lab.job(name)["spec"]}, **fields}
    thing = lab.thing("batch/v1", "CronJob", name, spec=spec)
    thing["metadata"]["annotations"] = annotations or {}
    return thing


def _serves(lab: Lab, name: str) -> None:
    """Wait until a model serves."""
    ready = lambda: any(  # noqa: E731
        each["type"] == "Ready" and each["status"] == "True"
        for each in (lab.cluster.get("serving.kserve.io/v1beta1", "InferenceService", name) or {})
        .get("status", {})
        .get("conditions", [])
    )
    lab.cluster.wait(f"the first version of {name} to serve", ready, 90)


def _renew(lab: Lab) -> None:
    """Change a Secret under a container that has it in its environment."""
    lab.cluster.wait_ready("Deployment", "renewed")
    time.sleep(2)  # the API's times have seconds
    lab.cluster.apply(lab.thing("v1", "Secret", "renewed", stringData={"a": "the second"}))


def _newer(lab: Lab) -> None:
    """Deploy a version whose image is not there, over one that serves."""
    _serves(lab, "old")
    lab.cluster.apply(lab.plain("old", "2", image=f"{lab.image}-none"))


def _refused(lab: Lab) -> None:
    """Deploy a version whose runtime is not there, over one that serves."""
    _serves(lab, "refused")
    lab.cluster.apply(lab.model("refused", version="2", runtime="no-such-runtime"))


def _delete(version: str, kind: str, name: str) -> Callable[[Lab], None]:
    return lambda lab: lab.cluster.delete(version, kind, name.format(lab.name))


def _public_url(lab: Lab) -> None:
    lab.cluster.core.patch_namespaced_config_map(
        f"{lab.name}-runner", lab.name, {"data": {"PUBLIC_URL": "http://ml.example.org"}}
    )


def _policy(lab: Lab) -> list[Object]:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    where = {"resourceRules": [rule], "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": lab.name}}}
    where["objectSelector"] = {"matchLabels": {"fault": "policy"}}
    validation = {"expression": "false", "message": "pods need a cost centre"}
    name = f"{lab.name}-policy"
    return [
        lab.thing(
            ADMISSION, "ValidatingAdmissionPolicy", name, spec={"matchConstraints": where, "validations": [validation]}
        ),
        lab.thing(
            ADMISSION,
            "ValidatingAdmissionPolicyBinding",
            name,
            spec={"policyName": name, "validationActions": ["Deny"]},
        ),
    ]


def _policed(lab: Lab) -> None:
    """A policy counts a moment after it is made."""
    time.sleep(3)
    lab.cluster.apply(lab.deployment("policy"))


def _lost_claim(lab: Lab) -> list[Object]:
    size = {"storage": "1Mi"}
    local = {
        "hostPath": {"path": "/nonexistent"},
        "capacity": size,
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "none-at-all",
    }
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "none-at-all",
        "resources": {"requests": size},
        "volumeName": f"{lab.name}-lost",
    }
    return [
        lab.thing("v1", "PersistentVolume", f"{lab.name}-lost", spec=local),
        lab.thing("v1", "PersistentVolumeClaim", "lost", spec=claim),
    ]


def _hooked(lab: Lab, name: str, host: str, ca: bool = True, **dates: float) -> list[Object]:
    secret, other = lab.certificate(name, host, **dates), lab.certificate("other", host)
    return [secret, *lab.served(name, name), lab.hook(name, name, lab.authority(secret if ca else other))]


def _claimed(lab: Lab) -> list[Object]:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "no-such-class",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "unmade"}}
    return [
        lab.thing("v1", "PersistentVolumeClaim", "unmade", spec=spec),
        lab.deployment("claim", pod={"volumes": [volume]}),
    ]


def _secret_key(lab: Lab, secret: str, key: str) -> Object:
    return {"secretKeyRef": {"name": f"{lab.name}-{secret}", "key": key}}


def _quota(lab: Lab) -> list[Object]:
    ask = {**RESOURCES, "limits": {"memory": "64Mi", "amd.com/gpu": "1"}}
    return [
        lab.thing("v1", "ResourceQuota", "no-gpus", spec={"hard": {"requests.amd.com/gpu": "0"}}),
        lab.deployment("quota", resources=ask),
    ]


def _quota_of_limits(lab: Lab) -> list[Object]:
    hard = {"limits.cpu": "1"}
    return [lab.thing("v1", "ResourceQuota", "short-jobs", spec={"hard": hard, "scopes": ["Terminating"]})]


def _limitless(lab: Lab) -> None:
    """A Job whose pod comes when the quota counts: before that, it would be admitted."""

    def counts() -> bool:
        quota = lab.cluster.get("v1", "ResourceQuota", "short-jobs") or {}
        return "hard" in quota.get("status", {})

    lab.cluster.wait("the quota to count", counts, 60)
    lab.cluster.apply(lab.job("limitless", pod={"activeDeadlineSeconds": 600}))


def _range(lab: Lab) -> list[Object]:
    limit = {"type": "Container", "max": {"memory": "200Gi"}}
    return [
        lab.thing("v1", "LimitRange", "small", spec={"limits": [limit]}),
        lab.deployment("large", resources={"limits": {"memory": "300Gi"}, "requests": {"memory": "8Mi"}}),
    ]


def _filled(lab: Lab) -> Object:
    """A pod that writes more into its folder than it may."""
    volume, mount = {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "scratch", "mountPath": "/scratch"}
    code = "import time; open('/scratch/file', 'wb').write(bytes(20_000_000)); time.sleep(3600)"
    spec = lab.spec(pod={"volumes": [volume]}, command=_python(code), volumeMounts=[mount])
    return lab.thing("v1", "Pod", "filled", spec=spec)


def _waiting_run(lab: Lab) -> Object:
    pod = lab.thing(
        "v1", "Pod", "run-x7k2p-train", spec=lab.spec(resources={"limits": {"nvidia.com/gpu": "1", "memory": "64Mi"}})
    )
    pod["metadata"]["labels"] = {"workflows.argoproj.io/workflow": "run-x7k2p"}
    return pod


def _held_pod(lab: Lab) -> Object:
    pod = lab.thing("v1", "Pod", "held", spec=lab.spec())
    pod["metadata"]["finalizers"] = ["iml4e.org/test"]
    return pod


def _workflow(lab: Lab) -> Object:
    template = {"name": "main", "container": {"image": lab.image, "command": SLEEP}}
    return lab.thing("argoproj.io/v1alpha1", "Workflow", "unseen", spec={"entrypoint": "main", "templates": [template]})


def _scaled(lab: Lab) -> list[Object]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "unscaled"}
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
    }
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2, "metrics": [metric]}
    return [
        lab.deployment("unscaled", resources={"limits": {"memory": "64Mi"}}),
        lab.thing("autoscaling/v2", "HorizontalPodAutoscaler", "unscaled", spec=spec),
    ]


GPU = {"limits": {"nvidia.com/gpu": "1", "memory": "512Mi"}, "requests": {"cpu": "1m", "memory": "8Mi"}}
PROBE = {
    "readinessProbe": {
        "exec": {"command": _python("raise SystemExit('the queue is not there')")},
        "periodSeconds": 2,
        "timeoutSeconds": 5,
    }
}
SCRAPED = {"prometheus.io/scrape": "true", "prometheus.io/port": "9", "prometheus.io/path": "/metrics"}
KSERVE = "serving.kserve.io/v1beta1/InferenceService"
ARGO = "argoproj.io/v1alpha1/Workflow"
CLUSTER_WIDE = (
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "PersistentVolume",
)

#: Faults that can be there at the same time.
TOGETHER = [
    # pods that do not start
    Case("image", "Deployment wrong-tag", ("image cannot be pulled", "wrong-tag"), lambda lab: [lab.deployment("wrong-tag", image=f"{lab.image}-wrong-tag")]),
    Case("image", "Deployment wrong-registry", ("image cannot be pulled", "127.0.0.1:9"), lambda lab: [lab.deployment("wrong-registry", image="127.0.0.1:9/any:1")]),
    Case("image-name", "Deployment wrong-name", ("cannot be used",), lambda lab: [lab.deployment("wrong-name", image="Not/An:Image:Name")]),
    Case("container", "Deployment no-secret", ('secret "none" not found',), lambda lab: [lab.deployment("no-secret", **_env("A", secretKeyRef={"name": "none", "key": "a"}))]),
    Case("reference-missing", "Secret none", ("does not exist", "no-secret")),
    Case("reference-missing", "ConfigMap none", ("does not exist", "no-config")),
    Case("container", "Deployment no-key", ("couldn't find key nope",), lambda lab: [lab.deployment("no-key", **_env("A", configMapKeyRef={"name": f"{lab.name}-mlflow", "key": "nope"}))]),
    Case("mount", "Deployment no-config", ('configmap "none" not found',), lambda lab: [lab.deployment("no-config", pod={"volumes": [{"name": "c", "configMap": {"name": "none"}}]}, volumeMounts=[{"name": "c", "mountPath": "/c"}])]),
    Case("start", "Deployment no-program", ("cannot run it", "nosuchprogram"), lambda lab: [lab.deployment("no-program", command=["nosuchprogram"])]),
    Case("memory", "Deployment greedy", ("more memory than its limit of 32Mi",), lambda lab: [lab.deployment("greedy", command=_python("x = bytearray(300_000_000); x[::4096] = b'1' * len(x[::4096])"), resources={"limits": {"memory": "32Mi"}, "requests": {"cpu": "1m"}})]),
    Case("exit", "Deployment ends", ("exit code 1", "ValueError: port 0 is taken"), lambda lab: [lab.deployment("ends", command=_python("print('starts'); raise ValueError('port 0 is taken')"))]),
    Case("signal", "Deployment crashes", ("signal SIGSEGV",), lambda lab: [lab.deployment("crashes", command=_python("import ctypes; ctypes.string_at(0)"))]),
    Case("not-ready", "Deployment unready", ("is not ready", "the queue is not there"), lambda lab: [lab.deployment("unready", **PROBE)]),
    Case("no-room", "Deployment cpu", ("Insufficient cpu",), lambda lab: [lab.deployment("cpu", resources={"requests": {"cpu": "1000"}, "limits": {"memory": "64Mi"}})]),
    Case("no-room", "Deployment ram", ("Insufficient memory",), lambda lab: [lab.deployment("ram", resources={"requests": {"memory": "100Gi", "cpu": "1m"}, "limits": {"memory": "100Gi"}})]),
    Case("no-node", "Deployment selector", ("didn't match Pod's node affinity/selector",), lambda lab: [lab.deployment("selector", pod={"nodeSelector": {"disk": "none"}})]),
    Case("no-device", "Deployment device", ("Insufficient nvidia.com/gpu",), lambda lab: [lab.deployment("device", resources=GPU)]),
    Case("no-claim", "Deployment claim", ("unbound",), _claimed),
    Case("claim", "PersistentVolumeClaim unmade", ("no-such-class", "not found")),
    Case("claim-lost", "PersistentVolumeClaim lost", ("is gone",), _lost_claim, _lost),
    Case("evicted", "Pod filled", ("Evicted", "exceeds the limit"), lambda lab: [_filled(lab)]),
    Case("terminating", "Pod held", ("finalizer iml4e.org/test",), lambda lab: [_held_pod(lab)], _held),
    Case("scaled-to-zero", "Deployment nothing", ("0 replicas",), lambda lab: [lab.deployment("nothing", replicas=0)]),
    # pods that are refused
    Case("security", "Deployment root", ("violates PodSecurity",), lambda lab: [lab.deployment("root", securityContext={"privileged": True})]),
    Case("quota", "Deployment quota", ("exceeded quota: no-gpus",), _quota),
    Case("quota-limits", "Job limitless", ("must specify limits.cpu",), _quota_of_limits, _limitless),
    Case("limit-range", "Deployment large", ("maximum memory usage per Container is 200Gi",), _range),
    Case("account", "Deployment nobody", ('serviceaccount "nobody" not found',), lambda lab: [lab.deployment("nobody", pod={"serviceAccountName": "nobody"})]),
    Case("priority", "Deployment important", ("no PriorityClass with name very-important",), lambda lab: [lab.deployment("important", pod={"priorityClassName": "very-important"})]),
    Case("policy", "Deployment policy", ("pods need a cost centre",), _policy, _policed),
    Case("webhook", "Deployment asking", ("failed calling webhook",), lambda lab: [lab.hook("away", "away"), lab.thing("v1", "Service", "away", spec={"selector": {"fault": "nothing"}, "ports": [{"port": 443}]})], lambda lab: lab.cluster.apply(lab.deployment("asking", labels={"asks": "away"}))),
    # webhooks and certificates
    Case("webhook-away", "Webhook away.iml4e.org", ("no ready pod answers",)),
    Case("webhook-ca", "Webhook strange.iml4e.org", ("does not trust its certificate",), lambda lab: _hooked(lab, "strange", f"strange.{lab.name}.svc", ca=False)),
    Case("certificate-name", "Webhook misnamed.iml4e.org", ("is for other.svc, not for misnamed",), lambda lab: _hooked(lab, "misnamed", "other.svc")),
    Case("webhook-certificate", "Secret stale", ("expired on",), lambda lab: _hooked(lab, "stale", f"stale.{lab.name}.svc", days=-1, since=48)),
    Case("certificate-expired", "Gateway late, Secret late", ("expired on",), lambda lab: [lab.certificate("late", "ml.example.org", days=-1, since=48), lab.gateway("late", "late")]),
    Case("certificate-soon", "Gateway soon, Secret soon", ("in 4 days",), lambda lab: [lab.certificate("soon", "ml.example.org", days=5), lab.gateway("soon", "soon")]),
    Case("certificate-name", "Gateway elsewhere", ("for other.example.org, not for ml.example.org",), lambda lab: [lab.certificate("elsewhere", "other.example.org"), lab.gateway("elsewhere", "elsewhere")]),
    # jobs
    Case("job", "Job setup", ("it failed (BackoffLimitExceeded)", "mc: cannot make bucket"), lambda lab: [lab.job("setup", command=_python("raise SystemExit('mc: cannot make bucket')"))]),
    Case("cron-job", "CronJob cron", ("it failed", "gc: cannot delete run 7"), lambda lab: [_cron(lab, "cron")], _by_hand),
    Case("restore-unfinished", "CronJob half", ("half of backup 20260101-020000-abcd is restored",), lambda lab: [_cron(lab, "half", annotations={"iml4e.org/restoring": "20260101-020000-abcd", "iml4e.org/before-restore": "active"}, suspend=True)]),
    Case("cron-job-suspended", "CronJob paused", ("suspended",), lambda lab: [_cron(lab, "paused", suspend=True)]),
    # objects of the release
    Case("object-missing", "ConfigMap {}-secrets", ("belongs to the release and does not exist",), act=_delete("v1", "ConfigMap", "{}-secrets")),
    Case("reference-missing", "Secret {}-db-metadb", ("StatefulSet {}-mariadb names it",), act=_delete("v1", "Secret", "{}-db-metadb")),
    Case("secret-unread", "Secret renewed", ("was written", "deployment/renewed runs with what was in it before"), lambda lab: [lab.thing("v1", "Secret", "renewed", stringData={"a": "the first"}), lab.deployment("renewed", **_env("A", secretKeyRef={"name": "renewed", "key": "a"}))], _renew),
    # store and database, as a pod with these settings meets them
    Case("host-name", "Deployment db-name", ("database mlflow at nowhere.svc:3306",), lambda lab: [lab.mlflow("db-name", MLFLOW_BACKEND_STORE_URI="mysql+pymysql://u:p@nowhere.svc:3306/mlflow")]),
    Case("database-address", "Deployment db-address", ("database mlflow at 127.0.0.1:9", "refused"), lambda lab: [lab.mlflow("db-address", MLFLOW_BACKEND_STORE_URI="mysql+pymysql://u:p@127.0.0.1:9/mlflow")]),
    Case("database-login", "Deployment db-login", ("Access denied for user 'mlflow'",), lambda lab: [lab.mlflow("db-login", DATABASE_PASSWORD="wrong")]),
    Case("database-missing", "Deployment db-missing", ("to database 'nope'",), lambda lab: [lab.mlflow("db-missing", DATABASE_NAME="nope")]),
    Case("host-name", "Deployment s3-name", ("bucket mlflow at http://nowhere.svc:9000",), lambda lab: [lab.mlflow("s3-name", MLFLOW_S3_ENDPOINT_URL="http://nowhere.svc:9000")]),
    Case("s3-address", "Deployment s3-address", ("bucket mlflow at http://127.0.0.1:9", "refused"), lambda lab: [lab.mlflow("s3-address", MLFLOW_S3_ENDPOINT_URL="http://127.0.0.1:9")]),
    Case("s3-certificate", "Deployment s3-tls", ("certificate verify failed",), lambda lab: [lab.mlflow("s3-tls", MLFLOW_S3_ENDPOINT_URL="https://kubernetes.default.svc")]),
    Case("s3-key", "Deployment s3-key", ("InvalidAccessKeyId",), lambda lab: [lab.mlflow("s3-key", AWS_ACCESS_KEY_ID="nobody")]),
    Case("s3-key", "Deployment s3-secret", ("SignatureDoesNotMatch",), lambda lab: [lab.mlflow("s3-secret", AWS_SECRET_ACCESS_KEY="wrong")]),
    Case("s3-rights", "Deployment s3-rights", ("bucket pipelines", "AccessDenied"), lambda lab: [lab.mlflow("s3-rights", _MLFLOW_SERVER_ARTIFACT_DESTINATION="s3://pipelines")]),
    Case("s3-bucket", "Deployment s3-bucket", ("NoSuchBucket",), lambda lab: [lab.mlflow("s3-bucket", _MLFLOW_SERVER_ARTIFACT_DESTINATION="s3://nope", AWS_ACCESS_KEY_ID=_secret_key(lab, "minio", "rootUser"), AWS_SECRET_ACCESS_KEY=_secret_key(lab, "minio", "rootPassword"))]),
    Case("dns-of-pod", "Deployment nameless", ("resolves no name",), lambda lab: [lab.mlflow("nameless", pod={"dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}})]),
    # gateway and routes
    Case("gateway-class", "Gateway classless", ("no controller serves it by class nobodys",), lambda lab: [lab.gateway("classless", kind="nobodys")]),
    Case("gateway-listener", "Gateway uncertified", ("listener web does not work",), lambda lab: [lab.gateway("uncertified", "none")]),
    Case("gateway-address", "Service balanced", ("no load balancer",), lambda lab: [lab.thing("v1", "Service", "balanced", spec={"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "selector": {"fault": "unready"}, "ports": [{"port": 80}]})]),
    Case("service-empty", "Service empty", ("fault=nowhere",), lambda lab: [lab.thing("v1", "Service", "empty", spec={"selector": {"fault": "nowhere"}, "ports": [{"port": 80}]})]),
    Case("route", "HTTPRoute unaccepted", ("does not accept its route",), lambda lab: [lab.route("unaccepted", "away", {"sectionName": "none"})]),
    Case("route", "HTTPRoute backless", ("what it leads to is not there",), lambda lab: [lab.route("backless", "no-such-service")]),
    Case("url-host", "Deployment {}-mlflow", ("does not answer to ml.example.org",), act=_public_url),
    # monitoring
    Case("target-down", "Target silent", ("cannot read it", "refused"), lambda lab: [lab.deployment("silent", annotations=SCRAPED)]),
    Case("autoscaler", "HorizontalPodAutoscaler unscaled", ("missing request for cpu",), _scaled),
    # models and runs
    Case("model-files", "Model lost", ("there is nothing at s3://mlflow/none/",), lambda lab: [lab.model("lost")], needs=KSERVE),
    Case("model-files", "Model keyless", ("files cannot be fetched",), lambda lab: [lab.thing("v1", "ServiceAccount", "keyless"), lab.model("keyless", account="keyless")], needs=KSERVE),
    Case("model-load", "Model package", ("lacks the Python package nosuchpackage",), lambda lab: [lab.model("package", "s3://mlflow/fault/")], needs=KSERVE),
    Case("memory", "Model tight", ("more memory than its limit of 48Mi",), lambda lab: [lab.model("tight", "s3://mlflow/fault/", resources={"limits": {"memory": "48Mi"}, "requests": {"cpu": "1m", "memory": "8Mi"}})], needs=KSERVE),
    Case("no-device", "Model gpu", ("Insufficient nvidia.com/gpu",), lambda lab: [lab.model("gpu", resources=GPU)], needs=KSERVE),
    Case("model-kserve", "Model runtime", ("no-such-runtime",), lambda lab: [lab.model("runtime", runtime="no-such-runtime")], needs=KSERVE),
    Case("model-unseen", "Model unseen", ("no KServe controller has taken it",), lambda lab: [lab.model("unseen", annotations={"serving.kserve.io/deploymentMode": "ModelMesh"})], needs=KSERVE),
    Case("model-old", "Model old", ("version 1 goes on, version 2 does not start", "cannot be pulled"), lambda lab: [lab.plain("old", "1")], _newer, needs=KSERVE),
    Case("model-old", "Model refused", ("version 1 goes on, version 2 does not start", "no-such-runtime"), lambda lab: [lab.plain("refused", "1")], _refused, needs=KSERVE),
    Case("run-waits", "Run run-x7k2p", ("it waits", "Insufficient nvidia.com/gpu"), lambda lab: [_waiting_run(lab)]),
    Case("run-unseen", "Run unseen", ("no controller has taken it",), lambda lab: [_workflow(lab)], needs=ARGO),
]  # fmt: skip
