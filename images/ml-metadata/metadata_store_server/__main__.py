"""The server: raw gRPC messages in, raw messages out, a worker process in between."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import metadata_store_pb2 as messages
from google.protobuf import text_format

from .command_line import Flags, UsageError, parse
from .pool import INTERNAL, OK, UNAVAILABLE, Database, Pool, Unavailable

SERVICE = "/ml_metadata.MetadataStoreService/"
HEALTH = "/grpc.health.v1.Health/Check"
STATUS = {status.value[0]: status for status in grpc.StatusCode}

#: Seconds for one call. Past that the connection counts as dead, and the client is told to try again.
CALL_TIMEOUT = 120
#: Connections that read. Writing has one of its own: what goes one after the other cannot deadlock.
READERS = 2
#: Seconds after which an idle connection and its process are given up.
IDLE = 60
GRACE = 10


def log(text: str) -> None:
    """One line for the container's log."""
    print(f"metadata_store_server: {text}", file=sys.stderr, flush=True)


def configuration(flags: Flags) -> messages.MetadataStoreServerConfig:
    """What the flags, or the file that they name, say about the database."""
    kind, path = flags.metadata_source_config_type, flags.metadata_store_server_config_file
    if kind not in ("default", "config_file", "mysql"):
        raise UsageError(f"--metadata_source_config_type={kind} must be default, config_file or mysql.")
    if kind == "config_file" and not path:
        raise UsageError("--metadata_source_config_type=config_file needs --metadata_store_server_config_file.")
    config = messages.MetadataStoreServerConfig()
    if path and kind != "mysql":
        try:
            return text_format.Parse(Path(path).read_text(), config)
        except OSError as error:
            raise UsageError(f"The file {path} cannot be read: {error.strerror}.") from None
        except text_format.ParseError as error:
            raise UsageError(f"{path} is not a MetadataStoreServerConfig in text format: {error}") from None
    if not (flags.mysql_config_host and flags.mysql_config_database and flags.mysql_config_port > 0):
        raise UsageError("Name the database: --mysql_config_host, --mysql_config_port and --mysql_config_database.")
    config.connection_config.mysql.host = flags.mysql_config_host
    config.connection_config.mysql.port = flags.mysql_config_port
    config.connection_config.mysql.database = flags.mysql_config_database
    config.connection_config.mysql.user = flags.mysql_config_user
    config.connection_config.mysql.password = flags.mysql_config_password
    if flags.enable_database_upgrade and flags.downgrade_db_schema_version >= 0:
        raise UsageError("--enable_database_upgrade and --downgrade_db_schema_version exclude each other.")
    if flags.enable_database_upgrade:
        config.migration_options.enable_upgrade_migration = True
    if flags.downgrade_db_schema_version >= 0:
        config.migration_options.downgrade_to_schema_version = flags.downgrade_db_schema_version
    return config


def database(config: messages.MetadataStoreServerConfig) -> Database:
    """The database that the configuration names."""
    connection = config.connection_config
    kind = connection.WhichOneof("config")
    if kind is None:
        raise UsageError("The configuration names no database: give it a connection_config.")
    name, address = f"The {kind} database", None
    if kind == "mysql":
        name = f"The database {connection.mysql.database} at {connection.mysql.host or connection.mysql.socket}"
        if connection.mysql.host:
            address = (connection.mysql.host, connection.mysql.port or 3306)
    return Database(
        connection=connection.SerializeToString(),
        migration=config.migration_options.SerializeToString(),
        name=name,
        address=address,
        exclusive=kind in ("fake_database", "sqlite"),
    )


class Service(grpc.GenericRpcHandler):
    """Every method of ML Metadata's service, and the standard health check."""

    def __init__(self, readers: Pool, writers: Pool) -> None:
        """Both pools are the same one for a database that only one process may use."""
        self._readers, self._writers = readers, writers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a method; None makes gRPC answer UNIMPLEMENTED."""
        path = handler_call_details.method
        if path == HEALTH:
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"\x08\x01")  # status: SERVING
        if not path.startswith(SERVICE):
            return None
        return grpc.unary_unary_rpc_method_handler(self._handler(path.removeprefix(SERVICE)))

    def _handler(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        pool = self._readers if method.startswith("Get") else self._writers

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            code, message, response = pool.call(method, request)
            if code in (INTERNAL, UNAVAILABLE):
                log(f"{method}: {STATUS[code].name}: {message}")
            if code != OK:
                context.abort(STATUS.get(code, grpc.StatusCode.UNKNOWN), message)
            return response

        return handle


def connect(pool: Pool, retries: int) -> None:
    """Create or migrate the schema, with some patience for a database that starts at the same time."""
    for attempt in range(retries + 1):
        try:
            return pool.open()
        except Unavailable as error:
            if attempt == retries:
                raise
            log(f"{error} Trying again.")
            time.sleep(min(2**attempt, 10))
    return None


def serve(flags: Flags) -> None:
    """Open the store, then listen until SIGTERM."""
    config = configuration(flags)
    where = database(config)
    readers = Pool(where, 1 if where.exclusive else READERS, CALL_TIMEOUT)
    writers = readers if where.exclusive else Pool(where, 1, CALL_TIMEOUT)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    connect(writers, flags.metadata_store_connection_retries)
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=flags.channel_arguments())
    server.add_generic_rpc_handlers([Service(readers, writers)])
    address = f"0.0.0.0:{flags.grpc_port}"
    if config.HasField("ssl_config"):
        tls = config.ssl_config
        credentials = grpc.ssl_server_credentials(
            [(tls.server_key.encode(), tls.server_cert.encode())],
            root_certificates=tls.custom_ca.encode() or None,
            require_client_auth=tls.client_verify,
        )
        server.add_secure_port(address, credentials)
    else:
        server.add_insecure_port(address)
    server.start()
    log(f"listening on {address}")
    while not stop.wait(30):
        readers.retire(IDLE)
        writers.retire(IDLE)
    server.stop(GRACE).wait()
    readers.close()
    writers.close()


def main() -> int:
    """The exit code: 0 after SIGTERM, 1 for a wrong command line or a database that cannot be used."""
    try:
        serve(parse(sys.argv[1:]))
    except (UsageError, Unavailable) as error:
        log(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
