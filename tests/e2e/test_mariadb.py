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


DATABASES = ("mlflow", "mlpipeline", "metadb")
# Secret: the database that its user has
USERS = {f"iml4e-db-{database}": database for database in DATABASES} | {"iml4e-mariadb-metrics": ""}
BEYOND = (
    "CREATE DATABASE e2e", "DROP DATABASE mysql", "CREATE USER e2e", "ALTER USER root@localhost IDENTIFIED BY 'e2e'",
    "GRANT ALL ON *.* TO CURRENT_USER", "SET GLOBAL max_connections = 1", "SELECT * FROM mysql.global_priv",
    "SELECT LOAD_FILE('/secrets/root/rootPassword') FROM mysql.user", "SELECT 1 INTO OUTFILE '/tmp/e2e'",
    "FLUSH PRIVILEGES", "SHOW MASTER STATUS", "SHUTDOWN",
)  # fmt: skip
"""What no user of a part may do, whatever its database."""


@pytest.fixture(params=USERS, ids=lambda secret: secret.removeprefix("iml4e-"))
def user(
    request: pytest.FixtureRequest, cluster: Cluster, connect: Connect
) -> Iterator[tuple[str, pymysql.Connection]]:
    """Each user of a part: its database, and a connection."""
    keys = cluster.secret(request.param)
    with connect(keys["username"], keys["password"], keys.get("database", "")) as connection:
        yield USERS[request.param], connection


def denied(connection: pymysql.Connection, statement: str) -> bool:
    """Whether the server refuses a statement for lack of rights."""
    try:
        rows(connection, statement)
    except pymysql.err.MySQLError as error:
        if "denied" in str(error).lower():
            return True
        raise
    return False


def test_a_user_sees_only_its_database(user: tuple[str, pymysql.Connection]) -> None:
    own, connection = user
    assert {name for (name,) in rows(connection, "SHOW DATABASES")} == {"information_schema", own} - {""}


@pytest.mark.parametrize("statement", BEYOND)
def test_a_user_has_no_rights_beyond_its_database(user: tuple[str, pymysql.Connection], statement: str) -> None:
    assert denied(user[1], statement)


@pytest.mark.parametrize("database", [*DATABASES, "mysql", "sys"])
def test_a_user_reaches_no_other_database(user: tuple[str, pymysql.Connection], database: str, unique: str) -> None:
    own, connection = user
    name = f"`{database}`.`{unique}`"
    may = database == own
    # the last one takes the table away again, where it was made
    for statement in (
        f"CREATE TABLE {name} (a INT)", f"INSERT INTO {name} VALUES (1)", f"SELECT * FROM {name}",
        f"CREATE VIEW `{database}`.`{unique}-view` AS SELECT 1", f"DROP VIEW `{database}`.`{unique}-view`",
        f"USE `{database}`", f"DROP TABLE {name}",
    ):  # fmt: skip
        assert denied(connection, statement) is not may, statement


def test_text_is_unicode(mlflow_user: pymysql.Connection) -> None:
    assert rows(mlflow_user, "SELECT @@character_set_database") == [("utf8mb4",)]


@pytest.mark.parametrize("database", DATABASES)
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
