"""What is special about the database server."""

from __future__ import annotations

import re

from support.helm import render
from support.objects import find, planned_secrets, pod_template
from support.wiring import dangling

TWO = {
    "mariadb": {"databases": [{"name": "mlflow", "user": "mlflow"}, {"name": "other_one", "user": "somebody"}]},
    "pipelines": {"enabled": False},
}


def test_each_database_has_a_user_and_a_password_of_its_own() -> None:
    plan = planned_secrets(render("laptop", TWO))
    for name, user in (("mlflow", "mlflow"), ("other-one", "somebody")):
        secret = plan[f"iml4e-db-{name}"]
        assert secret["fixed"] == {"username": user, "database": name.replace("-", "_")}
        assert secret["generated"]["password"] >= 32


def test_an_existing_secret_replaces_the_generated_one() -> None:
    values = {
        "mariadb": {"databases": [{"name": "mlflow", "user": "mlflow", "existingSecret": "my-db"}]},
        "mlflow": {"database": {"existingSecret": "my-db"}},
        "pipelines": {"enabled": False},
    }
    objects = render("laptop", values)
    assert "iml4e-db-mlflow" not in planned_secrets(objects)
    assert "my-db" in str(pod_template(find(objects, "StatefulSet", "iml4e-mariadb")))


def test_server_starts_anew_when_its_settings_change() -> None:
    def template(**config: str) -> str:
        return str(
            pod_template(find(render("laptop", {"mariadb": {"config": config}}), "StatefulSet", "iml4e-mariadb"))
        )

    assert template() == template()
    assert template(max_connections="7") != template()


def test_without_metrics_nothing_of_them_is_left() -> None:
    assert "iml4e-mariadb-metrics" in str(render("laptop"))
    assert "iml4e-mariadb-metrics" not in str(render("laptop", {"mariadb": {"metrics": {"enabled": False}}}))


def test_every_database_is_mounted_for_the_statements() -> None:
    assert dangling(render("laptop", {**TWO, "pipelines": {"enabled": False}})) == []


def test_tables_are_converted_before_the_server_starts_and_take_the_time_they_need() -> None:
    containers = pod_template(find(render("laptop"), "StatefulSet", "iml4e-mariadb"))["spec"]["initContainers"]
    assert [container["name"] for container in containers] == ["prepare", "collation"]
    assert not any("Probe" in key or key == "restartPolicy" for key in containers[1])


def test_every_way_to_make_a_table_gets_the_collation_of_the_conversion() -> None:
    files = find(render("laptop"), "ConfigMap", "iml4e-mariadb")["data"]
    (collation,) = re.findall(r"^COLLATION=(\w+)$", files["collation.sh"], re.MULTILINE)
    assert f"collation-server = {collation}\n" in files["my.cnf"]
    assert re.search(rf"^character-set-collations = .*\butf8mb4={collation}$", files["my.cnf"], re.MULTILINE)
    assert f"CHARACTER SET utf8mb4 COLLATE {collation}" in files["prepare.sh"]


def test_the_running_server_can_follow_a_rotation() -> None:
    """Its container has the Secrets and the script, and no password in a variable, which would stay what it was."""
    spec = pod_template(find(render("laptop"), "StatefulSet", "iml4e-mariadb"))["spec"]
    (container,) = spec["containers"]
    assert not any("valueFrom" in variable for variable in container["env"])
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert {"/secrets", "/etc/mysql", "/run/mysqld"} <= set(mounts)
    assert "subPath" not in mounts["/secrets"]
    (volume,) = [each["projected"] for each in spec["volumes"] if each["name"] == "secrets"]
    states = {
        source["secret"]["name"]: source["secret"].get("optional")
        for source in volume["sources"]
        for item in source["secret"]["items"]
        if item["key"] == "rotation"
    }
    databases = ("mlflow", "mlpipeline", "metadb")
    assert states == dict.fromkeys(
        ["iml4e-mariadb", "iml4e-mariadb-metrics", *(f"iml4e-db-{d}" for d in databases)], True
    )
    assert "accounts.sh" in find(render("laptop"), "ConfigMap", "iml4e-mariadb")["data"]
