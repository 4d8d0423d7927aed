"""The database server: each consumer reaches its own database only, and every login needs a password."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pymysql
import pytest

from support.k8s import Cluster

Connect = Callable[[str, str, str], pymysql.Connection]


@pytest.fixture(scope="module")
def connect(cluster: Cluster) -> Iterator[Connect]:
    """A function that connects as a user, with a password, to a database."""
    with cluster.port_forward("service/iml4e-mariadb", 3306) as port:
        yield lambda user, password, database="": pymysql.connect(
            host="127.0.0.1", port=port, user=user, password=password, database=database or None, connect_timeout=10
        )


def rows(connection: pymysql.Connection, statement: str) -> list[tuple[str, ...]]:
    """Run a statement."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


@pytest.fixture
def mlflow_user(cluster: Cluster, connect: Connect) -> Iterator[pymysql.Connection]:
    """Connected as MLflow is."""
    keys = cluster.secret("iml4e-db-mlflow")
    with connect(keys["username"], keys["password"], keys["database"]) as connection:
        yield connection


def test_consumer_sees_only_its_database(mlflow_user: pymysql.Connection) -> None:
    assert {name for (name,) in rows(mlflow_user, "SHOW DATABASES")} == {"information_schema", "mlflow"}


@pytest.mark.parametrize(
    "statement", ["CREATE DATABASE e2e", "CREATE USER e2e", "SELECT * FROM mysql.global_priv", "SHUTDOWN"]
)
def test_consumer_has_no_rights_beyond_its_database(mlflow_user: pymysql.Connection, statement: str) -> None:
    with pytest.raises(pymysql.err.MySQLError, match=r"(?i)denied"):
        rows(mlflow_user, statement)


def test_text_is_unicode(mlflow_user: pymysql.Connection) -> None:
    assert rows(mlflow_user, "SELECT @@character_set_database") == [("utf8mb4",)]


@pytest.mark.parametrize("database", ["mlflow", "mlpipeline", "metadb"])
def test_all_text_tells_all_names_apart(cluster: Cluster, connect: Connect, database: str) -> None:
    keys = cluster.secret(f"iml4e-db-{database}")
    with connect(keys["username"], keys["password"], keys["database"]) as connection:
        assert rows(connection, "SELECT @@collation_database") == [("utf8mb4_nopad_bin",)]
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
        assert rows(connection, f"{tables} AND table_collation <> 'utf8mb4_nopad_bin'") == []
        # a column of JSON is utf8mb4_bin by definition
        columns = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()"
        other = (
            "collation_name <> 'utf8mb4_nopad_bin' AND NOT (collation_name = 'utf8mb4_bin' AND data_type = 'longtext')"
        )
        assert rows(connection, f"{columns} AND {other}") == []


@pytest.mark.parametrize("charset", ["", "CHARSET=utf8mb4", "CHARSET=utf8"])
def test_a_table_that_names_no_collation_tells_all_names_apart(
    mlflow_user: pymysql.Connection, unique: str, charset: str
) -> None:
    names = ["a", "A", "á", "a ", "ａ"]
    rows(mlflow_user, f"CREATE TABLE `{unique}` (name VARCHAR(20) PRIMARY KEY) {charset}")
    try:
        for name in names:
            rows(mlflow_user, f"INSERT INTO `{unique}` VALUES ('{name}')")
        assert {name for (name,) in rows(mlflow_user, f"SELECT name FROM `{unique}`")} == set(names)
    finally:
        rows(mlflow_user, f"DROP TABLE `{unique}`")


@pytest.mark.parametrize(
    ("user", "password"), [("root", ""), ("", ""), ("mlflow", ""), ("mlflow", "mlflow"), ("root", "root")],
    ids=["root without", "nobody", "mlflow without", "mlflow with its name", "root with its name"],
)  # fmt: skip
def test_a_wrong_password_is_refused(connect: Connect, user: str, password: str) -> None:
    with pytest.raises(pymysql.err.OperationalError, match=r"(?i)denied"):
        connect(user, password, "")


def test_root_password_is_not_the_consumers(cluster: Cluster) -> None:
    assert cluster.secret("iml4e-mariadb")["rootPassword"] != cluster.secret("iml4e-db-mlflow")["password"]
