"""Values that cannot work are refused with a sentence that says what to do, all at once, and every such sentence is tried."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import helm
from support.helm import CHART, HelmError, refusal, render
from support.objects import find
from support.parts import EVERY

CERTIFICATE = {"mode": "existingSecret"}
TLS = {"enabled": True, "secretName": "gateway"}
HTTPS = {"publicUrl": "https://localhost:30443"}
#: A Gateway of another controller.
SHARED = {"name": "shared", "namespace": "infra", "url": "http://shared.infra.svc"}


def alerts(config: Any = None, **more: Any) -> dict[str, Any]:
    """Values of Alertmanager."""
    return {"prometheus": {"alertmanager": {"config": config or {}, **more}}}


#: The operator's Prometheus.
OPERATOR = {"monitoring": {"mode": "operator", "url": "http://prometheus-operated.monitoring.svc:9090"}}
# what is wrong: (values, the sentence)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an objective over a time without samples": (
        {"prometheus": {"objectives": {"window": "30d"}, "retention": {"time": "2w"}}},
        "prometheus.objectives.window is 30d, but Prometheus keeps samples for 2w: set it to at most prometheus.retention.time",
    ),
    "no store": (
        {"minio": {"enabled": False}},
        "minio is off, but global.s3.endpoint still points to it: set global.s3.endpoint to your own store",
    ),
    "no store, by its short name": (
        {"minio": {"enabled": False}, "global": {"s3": {"endpoint": "http://IML4E-minio:9000"}}},
        "minio is off, but global.s3.endpoint still points to it",
    ),
    "buckets as names of the release's own store": (
        {"global": {"s3": {"addressingStyle": "virtual"}}},
        "global.s3.addressingStyle is virtual, but the release's MinIO has no name for each bucket: set it to path.",
    ),
    "no database": (
        {"mariadb": {"enabled": False}},
        "mariadb is off, but global.database.host still points to it: set global.database.host to your own",
    ),
    "a backup without a place": (
        {"backup": {"enabled": True}},
        "backup.enabled has no place for backups: set backup.destination.s3 to a bucket, s3://BUCKET/FOLDER, or "
        "backup.destination.existingClaim to a volume claim.",
    ),
    "a backup in two places": (
        {"backup": {"enabled": True, "destination": {"s3": "s3://backups", "existingClaim": "backups"}}},
        "backup.destination names a bucket and a volume claim: empty s3 or existingClaim.",
    ),
    "a backup in the store that it is a backup of": (
        {
            "backup": {
                "enabled": True,
                "destination": {"s3": "s3://backups", "endpoint": "http://iml4e-minio.iml4e.svc:9000"},
            }
        },
        "backup.destination.endpoint is this release's own S3 store, which is lost together with its backups: name another store.",
    ),
    "Secrets in a backup that everybody can read": (
        {"backup": {"enabled": True, "destination": {"existingClaim": "backups"}, "secrets": ["mine"]}},
        "backup.secrets would be written in plain text: set backup.encryption.existingSecret as well.",
    ),
    "a backup of nothing": (
        {
            "backup": {"enabled": True, "destination": {"existingClaim": "backups"}},
            "mlflow": {"enabled": False},
            "pipelines": {"enabled": False},
        },
        "backup.enabled finds nothing to back up, as mlflow and pipelines are off: set backup.enabled=false.",
    ),
    "an hour that no day has": (
        {"mlflow": {"gc": {"schedule": "0 24 * * *"}}},
        'mlflow.gc.schedule is "0 24 * * *", and 24 is no hour: write 0-23, * for all, a range (1-5), a step (*/2) or a list of these',
    ),
    "a weekday that Kubernetes does not know": (
        {"pipelines": {"retention": {"schedule": "0 3 * * 1-7"}}},
        'pipelines.retention.schedule is "0 3 * * 1-7", and 1-7 is no weekday: write 0-6, sun-sat (0 is Sunday), * for all,',
    ),
    "more replicas than there may be": (
        {"kserve": {"models": {"replicas": {"min": 3, "max": 2}}}},
        "kserve.models.replicas.min is larger than max: raise kserve.models.replicas.max.",
    ),
    "TLS without a certificate": (
        {"gateway": {"tls": {"enabled": True}}, "global": HTTPS},
        "gateway.tls.enabled needs gateway.tls.secretName: name a Secret of type kubernetes.io/tls in the release's",
    ),
    "TLS at an address without": (
        {"gateway": {"tls": TLS}},
        "gateway.tls.enabled makes http a redirect to https, but global.publicUrl is http://localhost:30080: set",
    ),
    "one node port for two": (
        {"gateway": {"tls": TLS, "service": {"nodePortTls": 30080}}, "global": HTTPS},
        "gateway.service.nodePort and gateway.service.nodePortTls are the same port, 30080: set gateway.service.nodePortTls",
    ),
    "an autoscaler of the gateway that could only scale down": (
        {"gateway": {"replicas": 7, "autoscaling": {"enabled": True}}},
        "gateway.autoscaling.maxReplicas is less than gateway.replicas, the least number of replicas: raise",
    ),
    "an autoscaler of MLflow that could only scale down": (
        {"mlflow": {"replicas": 7, "autoscaling": {"enabled": True}}},
        "mlflow.autoscaling.maxReplicas is less than mlflow.replicas, the least number of replicas: raise",
    ),
    "a GPU pool of no resource": (
        {"global": {"gpuPools": {"one": {"nodeSelector": {"pool": "gpu"}}}}},
        "global.gpuPools.one names no resources, so no pod belongs to the pool: set global.gpuPools.one.resources,",
    ),
    "open to everybody": (
        {"gateway": {"service": {"type": "LoadBalancer"}}},
        "gateway.service.type is LoadBalancer, but there is no authentication: anyone who reaches that address could read and",
    ),
    "limits that limit nobody": (
        {"gateway": {"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}},
        "gateway.service.loadBalancerSourceRanges has no effect, because gateway.service.type is NodePort: set",
    ),
    "a route without a gateway": (
        {"gateway": {"enabled": False}},
        "gateway is off, but mlflow wants a route through it: name your own Gateway in global.gateway, or set",
    ),
    "another Gateway without its address": (
        {"gateway": {"enabled": False}, "global": {"gateway": {"name": "shared", "namespace": "infra"}}},
        "gateway is off, but global.gateway.url still points to it: set global.gateway.url to the address of your own",
    ),
    "another Gateway at the address of the one that is off": (
        {
            "gateway": {"enabled": False},
            "global": {"gateway": {"name": "shared", "url": "http://iml4e-gateway.iml4e.svc.cluster.local:80"}},
        },
        "gateway is off, but global.gateway.url still points to it: set global.gateway.url to",
    ),
    "tracking without a tracker": (
        {"mlflow": {"enabled": False}},
        "mlflow is off, but pipelines tracks its runs there: set pipelines.mlflow.enabled=false, or global.mlflow.url",
    ),
    "an objective over a longer time than samples are kept": (
        {"prometheus": {"retention": {"time": "1d"}, "objectives": {"window": "7d"}}},
        "prometheus.objectives.window is 7d, but Prometheus keeps samples for 1d: set it to at most prometheus.retention.time.",
    ),
    "texts of errors of a part that is off": (
        {"home": {"enabled": False}},
        "home is off, but gateway.errorPages takes the text of errors from it: set gateway.errorPages.enabled=false.",
    ),
    "dashboards of a Prometheus that is off": (
        {"prometheus": {"enabled": False}},
        "prometheus is off, but global.monitoring.url still points to it: set global.monitoring.url to a Prometheus of your own, or "
        "grafana.enabled=false.",
    ),
    "dashboards of a Prometheus that an operator runs": (
        {"global": {"monitoring": {"mode": "operator"}}},
        "global.monitoring.mode is operator, but global.monitoring.url still points to the Prometheus of this release: set",
    ),
    "a route to nobody known": (
        alerts({"route": {"routes": [{"routes": [{"receiver": "tem"}]}]}, "receivers": [{"name": "team"}]}),
        "prometheus.alertmanager.config.route sends to receiver tem, which prometheus.alertmanager.config.receivers lacks: "
        "add it, or name one of",
    ),
    "a receiver twice": (
        alerts({"receivers": [{"name": "team"}, {"name": "team"}]}),
        "prometheus.alertmanager.config.receivers names team twice: give one entry all of its integrations.",
    ),
    "nights that nobody defined": (
        alerts({"route": {"routes": [{"mute_time_intervals": ["nights"]}]}}),
        "prometheus.alertmanager.config.route names the time interval nights, which prometheus.alertmanager.config.time_intervals",
    ),
    "a first route that takes not every alert": (
        alerts({"route": {"matchers": ['severity="critical"']}}),
        "prometheus.alertmanager.config.route has matchers, but the first route takes every alert: move them into",
    ),
    "a password in the values": (
        alerts({"receivers": [{"name": "pager", "pagerduty_configs": [{"routing_key": "abc"}]}]}),
        "prometheus.alertmanager.config.receivers[pager] has routing_key in the values, where everybody who reads them finds it: "
        "put it into a Secret, name that in prometheus.alertmanager.secrets, and set routing_key_file to",
    ),
    "a password deeper in the values": (
        alerts(
            {"receivers": [{"name": "t", "webhook_configs": [{"http_config": {"basic_auth": {"password": "abc"}}}]}]}
        ),
        "prometheus.alertmanager.config.receivers[t] has password in the values, where everybody",
    ),
    "a password of all receivers in the values": (
        alerts({"global": {"smtp_auth_password": "abc"}}),
        "prometheus.alertmanager.config.global has smtp_auth_password in the values, where everybody who reads them",
    ),
    "Slack's address in the values": (
        alerts(
            {"receivers": [{"name": "t", "slack_configs": [{"api_url": "https://hooks.slack.com/services/A/B/C"}]}]}
        ),
        "prometheus.alertmanager.config.receivers has api_url of Slack in the values, and whoever knows that address",
    ),
    "a file of a Secret that is not mounted": (
        alerts(
            {"receivers": [{"name": "t", "slack_configs": [{"api_url_file": "/etc/alertmanager/secrets/slack/url"}]}]}
        ),
        "prometheus.alertmanager.config.receivers[t] reads /etc/alertmanager/secrets/slack/url, but "
        "prometheus.alertmanager.secrets does not name Secret slack: add it there.",
    ),
    "receivers beside an operator": (
        {**alerts({"receivers": [{"name": "team"}]}), "global": OPERATOR},
        "prometheus.alertmanager.config.receivers has no effect, because global.monitoring.mode is operator: give",
    ),
    "receivers without an Alertmanager": (
        alerts({"receivers": [{"name": "team"}]}, enabled=False),
        "prometheus.alertmanager.config.receivers has no effect, because prometheus.alertmanager.enabled is false: give",
    ),
    "two Alertmanagers": (
        alerts(url="http://alertmanager.example.com"),
        "prometheus.alertmanager.url does not lead to the Alertmanager of this release, which would get no alerts: set",
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
    "a list of consumers without those of the parts": (
        {"minio": {"consumers": [{"name": "labelling", "buckets": [{"name": "scans", "access": "ro"}]}]}},
        "minio.consumers has no entry for Secret iml4e-s3-mlflow, which parts read: add that consumer",
    ),
    "a list of databases without those of the parts": (
        {"mariadb": {"databases": [{"name": "labels", "user": "labels"}]}},
        "mariadb.databases has no entry for Secret iml4e-db-mlflow, which parts read: add that database",
    ),
    "rules for a bucket twice": (
        {
            "minio": {
                "buckets": [
                    {"name": "scans", "versioned": False, "expire": [{"prefix": each, "days": 7}]} for each in "ab"
                ]
            }
        },
        "minio.buckets has rules of expiry for scans in two entries: give one entry all of its rules.",
    ),
    "a consumer twice": (
        {
            "minio": {
                "consumers": [
                    {"name": "mlflow", "buckets": [{"name": each, "access": "ro"}]} for each in ("aaa", "bbb")
                ]
            }
        },
        "minio.consumers names mlflow twice: give one entry all of its buckets.",
    ),
    "a database twice": (
        {"mariadb": {"databases": [{"name": "mlflow", "user": each} for each in ("ann", "bob")]}},
        "mariadb.databases names mlflow twice: remove one of both.",
    ),
    "a database in a Secret that its part does not read": (
        {"mariadb": {"databases": [{"name": "mlflow", "user": "mlflow", "existingSecret": "mine"}]}},
        "mariadb.databases has no entry for Secret iml4e-db-mlflow, which parts read: add that database",
    ),
    "a variable that the chart sets": (
        {"mlflow": {"extraEnv": [{"name": "HOME", "value": "/home"}]}},
        "mlflow.extraEnv sets HOME, which the chart sets: remove that entry, because a container takes no variable twice.",
    ),
    "a variable twice": (
        {"gateway": {"extraEnv": [{"name": "TZ", "value": "UTC"}, {"name": "TZ", "value": "CET"}]}},
        "gateway.extraEnv names TZ twice: remove one of both.",
    ),
    "a variable that the chart sets for downloads": (
        {"kserve": {"storageInitializer": {"extraEnv": [{"name": "TMPDIR", "value": "/tmp"}]}}},
        "kserve.storageInitializer.extraEnv sets TMPDIR, which the chart sets: remove that entry, because a container takes no variable twice.",
    ),
    "a variable of downloads twice": (
        {
            "kserve": {
                "storageInitializer": {"extraEnv": [{"name": "TZ", "value": "UTC"}, {"name": "TZ", "value": "CET"}]}
            }
        },
        "kserve.storageInitializer.extraEnv names TZ twice: remove one of both.",
    ),
    "an unknown shared fact": (
        {"global": {"storageClas": "fast"}},
        "global.storageClas is no value of this chart: correct or remove it",
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
        "kserve.webhook.certificate.mode is existingSecret: name the Secret in kserve.webhook.certificate.existingSecret.",
    ),
    "a webhook without its authority": (
        {"kserve": {"webhook": {"certificate": {**CERTIFICATE, "existingSecret": "mine"}}}},
        "kserve.webhook.certificate.mode is existingSecret: give the authority that signed it (PEM in base64) in",
    ),
    "notebooks without a size to begin with": (
        {"notebooks": {"enabled": True, "defaultProfile": "gpu"}},
        "notebooks.defaultProfile is gpu, which is no profile that is enabled: set it to one of",
    ),
    "notebooks with half of an identity provider": (
        {"notebooks": {"enabled": True, "login": {"mode": "oidc"}}},
        "notebooks.login.mode is oidc, but notebooks.login.oidc.tokenUrl is empty: set it to that of your identity provider.",
    ),
    "notebooks with groups of nobody": (
        {"notebooks": {"enabled": True, "login": {"oidc": {"groups": ["ml"]}}}},
        "notebooks.login.oidc.groups counts with an identity provider only: set notebooks.login.mode=oidc, or list users in notebooks.login.users.",
    ),
}
#: Values that are right, and look a little like wrong ones.
ACCEPTED: dict[str, dict[str, Any]] = {
    "a store with a name like ours": {
        "minio": {"enabled": False},
        "global": {"s3": {"endpoint": "https://corp-minio.example.org"}},
    },
    "the store of another release": {
        "minio": {"enabled": False},
        "global": {"s3": {"endpoint": "http://iml4e-minio.other.svc:9000"}},
    },
    "a store by template": {
        "minio": {"enabled": False},
        "global": {"s3": {"endpoint": '{{ printf "https://s3.%s.example.org" .Release.Namespace }}'}},
    },
    "AWS": {"minio": {"enabled": False}, "global": {"s3": {"endpoint": ""}}},
    "a database with a name like ours": {
        "mariadb": {"enabled": False},
        "global": {"database": {"host": "prod-mariadb.example.org"}},
    },
    "a tracker with a name like ours": {
        "mlflow": {"enabled": False},
        "global": {"mlflow": {"url": "https://iml4e-mlflow.example.org"}},
    },
    "a Gateway of another controller": {"gateway": {"enabled": False}, "global": {"gateway": SHARED}},
    "TLS that ends before the gateway": {"global": {"publicUrl": "https://ml.example.org"}},
    "no models, whatever their replicas": {"kserve": {"enabled": False, "models": {"replicas": {"min": 3, "max": 2}}}},
    "a store of somebody else beside the own one, which has other consumers": {
        "minio": {"consumers": [{"name": "labelling", "buckets": [{"name": "scans", "access": "ro"}]}]},
        "global": {"s3": {"endpoint": "https://s3.example.org"}},
    },
    "databases in Secrets of their own": {
        "mariadb": {"databases": [{"name": "mlflow", "user": "mlflow", "existingSecret": "mine"}]},
        "mlflow": {"database": {"existingSecret": "mine"}},
        "pipelines": {"enabled": False},
    },
    "an open gateway that somebody insists on": {
        "gateway": {"service": {"type": "LoadBalancer"}, "allowAnonymous": True},
    },
}
REMOVED = yaml.safe_load((CHART / "files" / "removed.yaml").read_text())


def nested(key: str, value: Any) -> dict[str, Any]:
    """Values that set a dotted key."""
    for step in reversed(key.split(".")):
        value = {step: value}
    return value


@pytest.mark.parametrize("what", REFUSED)
def test_impossible_values_are_refused_with_a_sentence(what: str) -> None:
    values, sentence = REFUSED[what]
    with pytest.raises(HelmError, match=re.escape(sentence)):
        render("laptop", values)


def test_a_chart_around_this_one_may_have_facts_of_its_own(tmp_path: Path) -> None:
    """As Argo CD users wrap charts: this one sees the keys of all neighbours under `global`."""
    (tmp_path / "charts").mkdir()
    shutil.copytree(CHART, tmp_path / "charts" / "iml4e")
    dependency = {"name": "iml4e", "version": ">=0.0.0"}
    about = {"apiVersion": "v2", "name": "company", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(about))
    assert render(chart=tmp_path, values={"global": {"environment": "production"}})


#: Values with a schedule.
SCHEDULES = (
    "backup.schedule",
    "mlflow.gc.schedule",
    "pipelines.mlflow.cleanup.schedule",
    "pipelines.retention.schedule",
)
#: As robfig/cron's ParseStandard reads them, which Kubernetes asks.
GOOD_SCHEDULES = (
    "0 0 1 1 0", "59 23 31 12 6", "*/10 * * * *", "5/15 0-23/2 1,15,31 JAN-Mar,dec sun,Wed-FRI", "? ? ? ? ?", "00 02 01 09 *", "0  2 * *   *", "@yearly",
    "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly", "@every 1h30m", "@every 1.5h",
)  # fmt: skip
#: Each with what is wrong; those that the schema refuses (spaces around a schedule, too) are refused by the name of the value.
BAD_SCHEDULES = {
    "60 * * * *": "60 is no minute: write 0-59,", "0 24 * * *": "24 is no hour: write 0-23,", "0 0 0 * *": "0 is no day: write 1-31,",
    "0 0 32 * *": "32 is no day:", "0 0 1-32 * *": "1-32 is no day:", "0 0 * 0 *": "0 is no month: write 1-12, jan-dec,", "0 0 * 13 *": "13 is no month:",
    "0 0 * june *": "june is no month:", "0 0 * * 7": "7 is no weekday: write 0-6, sun-sat (0 is Sunday),", "0 0 * * sunday": "sunday is no weekday:",
    "*/0 * * * *": "*/0 is no minute:", "1-2-3 * * * *": "1-2-3 is no minute:", "0 -1 * * *": "-1 is no hour:",
    "0 0 L * *": "L is no day:", "1/2/3 * * * *": "1/2/3 is no minute:", "100 * * * *": "100 is no minute:", "0 0 mon * *": "mon is no day:",
    "daily": "/schedule'", "@dayly": "/schedule'", "@Daily": "/schedule'", "@every": "/schedule'", "@every day": "/schedule'", "0 2 * *": "/schedule'",
    "0 0 2 * * *": "/schedule'", " 0 2 * * *": "/schedule'", "0 2 * * * ": "/schedule'", "0 2 * * #1": "/schedule'", "TZ=UTC 0 2 * * *": "/schedule'",
}  # fmt: skip
BACKED_UP = {"backup": {"enabled": True, "destination": {"existingClaim": "backups"}}}


@pytest.mark.parametrize("schedule", GOOD_SCHEDULES)
def test_schedules_that_kubernetes_knows_are_accepted(schedule: str) -> None:
    values = helm.merged(BACKED_UP, *(nested(key, schedule) for key in SCHEDULES))
    on = {"mlflow": {"gc": {"enabled": True}}, "pipelines": {"retention": {"enabled": True, "olderThan": "90d"}}}
    crons = [each for each in render("laptop", helm.merged(values, on)) if each["kind"] == "CronJob"]
    assert [each["spec"]["schedule"] for each in crons] == [schedule] * len(SCHEDULES)


@pytest.mark.parametrize("schedule", BAD_SCHEDULES)
def test_schedules_that_kubernetes_refuses_are_refused_wherever_they_stand(schedule: str) -> None:
    said = BAD_SCHEDULES[schedule]
    with pytest.raises(HelmError) as refused:
        render("laptop", helm.merged(BACKED_UP, *(nested(key, schedule) for key in SCHEDULES)))
    told = [
        f"at '/{key.replace('.', '/')}'" if said == "/schedule'" else f'{key} is "{schedule}", and {said}'
        for key in SCHEDULES
    ]
    assert [each for each in told if each not in str(refused.value)] == []


def test_backups_without_a_schedule_and_those_that_are_off_are_fine() -> None:
    assert render("laptop", helm.merged(BACKED_UP, nested("backup.schedule", "")))
    assert render("laptop", nested("backup.schedule", "0 24 * * *"))


@pytest.mark.parametrize("what", ACCEPTED)
def test_values_that_only_look_wrong_are_fine(what: str) -> None:
    assert render("laptop", ACCEPTED[what])


def test_every_sentence_is_tried() -> None:
    # what only a cluster can tell is tried there: tests/e2e/test_volumes.py, test_owners.py; or with objects of one: test_left_behind.py,
    # test_lookups.py, test_gateway.py. Names: test_release_names.py
    elsewhere = ("_cluster.tpl", "_volumes.tpl", "_data.tpl")
    files = [CHART / "templates" / "validate", *CHART.glob("charts/*/templates/validate.yaml")]
    files += CHART.glob("charts/*/templates/*/_findings.tpl")
    texts = [file for path in files for file in ([path] if path.is_file() else path.glob("_*.tpl"))]
    sentences = {
        line
        for path in texts
        if path.name not in elsewhere
        for line in path.read_text().splitlines()
        if re.match(r"[A-Za-z]", line) and not line.startswith(("Release name", "The values lack"))
    }
    assert len(sentences) > 10
    tried = [sentence for _, sentence in REFUSED.values()]

    def is_tried(sentence: str) -> bool:
        pattern = re.sub(r"\\\{\\\{.*?\\\}\\\}", "\\\\S+", re.escape(sentence))
        return any(re.match(pattern[: len(pattern)], said) or _starts(pattern, said) for said in tried)

    assert [sentence for sentence in sentences if not is_tried(sentence)] == []


def _starts(pattern: str, said: str) -> bool:
    """Whether a text is the start of what a pattern describes."""
    words = pattern.split("\\ ")
    return any(re.fullmatch("\\ ".join(words[:count]), said) for count in range(5, len(words) + 1))


def test_all_findings_are_told_at_once_in_the_same_order() -> None:
    values = {
        "minio": {"enabled": False},
        "mariadb": {"enabled": False},
        "gateway": {"tls": {"enabled": True}, "service": {"type": "LoadBalancer"}},
        "pipelines": {"runs": {"podSpec": {"containers": []}}, "caCertificate": {"key": "ca.crt"}},
        "kserve": {"webhook": {"certificate": CERTIFICATE}},
    }
    said = []
    for attempt in (1, 2):
        with pytest.raises(HelmError) as refused:
            render("laptop", values, fresh=attempt)
        said.append(refused.value.findings)
    assert said[0] == said[1]
    starts = (
        "pipelines.caCertificate moved",
        "minio is off",
        "mariadb is off",
        "gateway.tls.enabled makes http",
        "gateway.tls.enabled needs",
        "gateway.service.type is LoadBalancer",
        "pipelines.runs.podSpec is",
        "kserve.webhook.certificate.mode is existingSecret: name",
        "kserve.webhook.certificate.mode is existingSecret: give",
    )
    assert [line[: len(start)] for line, start in zip(said[0], starts, strict=True)] == list(starts)


@pytest.mark.parametrize(
    ("part", "values", "sentence"),
    [
        ("gateway", {"tls": {"enabled": True}}, "gateway.tls.enabled needs gateway.tls.secretName"),
        ("kserve", {"webhook": {"certificate": CERTIFICATE}}, "name the Secret in"),
        ("pipelines", {"runs": {"podSpec": {"containers": []}}}, "pipelines.runs.podSpec is for the pod"),
    ],
)
def test_a_part_alone_refuses_too(part: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HelmError, match=sentence):
        render(chart=CHART / "charts" / part, values=values)


@pytest.mark.parametrize("enabled", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("value", [{"enabled": True}, "text", False, []], ids=str)
def test_removed_values_are_named_with_their_cure(value: Any, enabled: bool) -> None:
    values = helm.merged(*(nested(entry["key"], value) for entry in REMOVED))
    for part in values:
        values[part]["enabled"] = enabled
    with pytest.raises(HelmError) as refused:
        render("laptop", values)
    assert [entry for entry in REMOVED if f"{entry['key']} {entry['cure']}." not in refused.value.findings] == []


def test_every_value_that_is_gone_since_0_1_0_is_in_the_table() -> None:
    old = yaml.safe_load((Path(__file__).parent / "data" / "values-0.1.0.yaml").read_text())
    new = yaml.safe_load((CHART / "values.yaml").read_text())
    for chart in helm.subcharts():
        own = yaml.safe_load((chart / "values.yaml").read_text())
        new[chart.name] = {key: value for key, value in own.items() if key != "global"}
    removed = {entry["key"] for entry in REMOVED}
    gone = []

    def compare(before: Any, after: Any, path: str) -> None:
        for key, value in before.items() if isinstance(before, dict) else ():
            name = f"{path}.{key}".lstrip(".")
            if name in removed or after == {}:
                continue
            if not isinstance(after, dict) or key not in after:
                gone.append(name)
            else:
                compare(value, after[key], name)

    compare(old, new, "")
    assert gone == []


def test_values_of_an_earlier_version_get_the_right_flag(tmp_path: Path) -> None:
    """With --reuse-values, Helm puts all values of the old release in place of the new chart's own."""
    chart = tmp_path / "iml4e"
    shutil.copytree(CHART, chart)
    shutil.copy(Path(__file__).parent / "data" / "values-0.1.0.yaml", chart / "values.yaml")
    # also where every part is off
    for values in ({}, {part: {"enabled": False} for part in EVERY}):
        with pytest.raises(HelmError) as refused:
            render(chart=chart, values=values)
        (sentence,) = refused.value.findings
        assert sentence.startswith("The values lack global.timeZone, global.gateway.name, ")
    assert "Upgrade with --reset-then-reuse-values instead of --reuse-values." in sentence


def test_every_value_that_is_missing_is_named(tmp_path: Path) -> None:
    """Whichever values of the umbrella a later version adds: its templates never stumble over them."""
    chart = tmp_path / "iml4e"
    shutil.copytree(CHART, chart)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    names = yaml.safe_load((CHART / "files" / "values.yaml").read_text())
    assert names
    unnamed = []
    for number, name in enumerate(names):
        *way, key = name.split(".")
        fewer = copy.deepcopy(values)
        functools.reduce(dict.__getitem__, way, fewer).pop(key)
        (chart / "values.yaml").write_text(yaml.safe_dump(fewer))
        # shapes that the schema knows by a name want all of their keys
        told = f"The values lack {name}: they are those of an earlier version", f"missing property '{key}'"
        try:
            # of some maps, Helm fills in what is missing by the defaults of the parts: nothing is lacking then
            render(chart=chart, fresh=number)
        except HelmError as refused:
            if not any(words in str(refused) for words in told):
                unnamed.append(f"{name}: {refused}")
    assert unnamed == []


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("mlflow", {"autoscaling": {"enabled": True, "maxReplicas": 1}, "replicas": 2}, "raise mlflow.autoscaling"),
        ("notebooks", {"defaultProfile": "none"}, "notebooks.defaultProfile is none"),
        ("prometheus", {"objectives": {"window": "90d"}}, "prometheus.objectives.window is 90d"),
    ],
)
def test_a_part_alone_says_what_is_wrong_too(part: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError, match=said):
        render(chart=CHART / "charts" / part, values={"enabled": True, **values})


def left_out(values: Any, schema: Any, definitions: Any) -> dict[str, Any]:
    """`null` for each value that its schema does not want."""
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    found = {}
    for key, value in values.items():
        if key not in schema.get("required", ()):
            found[key] = None
        elif isinstance(value, dict) and (below := schema["properties"].get(key)):
            found[key] = left_out(value, below, definitions)
    return found


@pytest.mark.parametrize("part", EVERY)
def test_null_for_a_part_or_its_values_ends_in_no_trace(part: str) -> None:
    """With `null`, Helm removes a value: the schema wants it, or the templates do without."""
    chart = CHART / "charts" / part
    own = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())
    values = left_out({key: value for key, value in own.items() if key != "global"}, schema, schema["definitions"])
    traces = []
    for tried in (None, {**values, "enabled": True}):
        try:
            render(values={part: tried})
        except HelmError as refused:
            traces.append(refusal(refused))
    assert not any(traces), traces


def test_a_load_balancer_that_somebody_insists_on_lets_in_only_its_ranges() -> None:
    ranges = ["203.0.113.0/24", "2001:db8::/32"]
    service = {"type": "LoadBalancer", "loadBalancerSourceRanges": ranges}
    objects = render("cloud", {"gateway": {"service": service, "allowAnonymous": True}})
    assert find(objects, "Service", "iml4e-gateway")["spec"]["loadBalancerSourceRanges"] == ranges


@pytest.mark.parametrize("values", [{"name": "A", "value": 1}, {"name": "A", "text": "1"}], ids=json.dumps)
def test_environment_of_downloads_has_the_same_shape(values: dict[str, Any]) -> None:
    with pytest.raises(HelmError, match="/kserve/storageInitializer/extraEnv/0"):
        render("laptop", {"kserve": {"storageInitializer": {"extraEnv": [values]}}})


@pytest.mark.parametrize("values", [{"name": "A", "value": 1}, {"name": "A", "text": "1"}], ids=json.dumps)
@pytest.mark.parametrize("part", ["minio", "mlflow"])
def test_environment_that_kubernetes_would_refuse_is_refused_by_name(part: str, values: dict[str, Any]) -> None:
    with pytest.raises(HelmError, match=rf"/{part}/extraEnv/0"):
        render("laptop", {part: {"extraEnv": [values]}})
