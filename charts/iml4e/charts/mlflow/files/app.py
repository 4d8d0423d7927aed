"""MLflow's server for many addresses and many writers: `mlflow server --app-name iml4e`.

MLflow compares the Origin of a write with a list of addresses, and the Host of every request with another list. A page of a
host that only the second list has opens, and each of its own calls is refused. Here a request whose Origin is its own Host
is not cross-origin, so the list of hosts alone decides. Refusals say what to do.

Two writers that add the same tag, parameter or dataset at once both see that it is missing, and the database refuses the second
one's key. MLflow answers that with 400, which no client repeats. Here the server repeats it: the key is there by then.
"""

from typing import Any

#: Ports that browsers leave out.
DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
#: How an answer begins that is a duplicate key in the database's own words; 1062 is MySQL's number of it.
DUPLICATE = b'{"error_code": "BAD_REQUEST", "message": "(pymysql.err.IntegrityError) (1062, '
#: Times that a request is tried, and bytes of a body that is kept for it: MLflow itself takes no more than 1 MB in a batch.
TRIES, LARGEST = 4, 4 << 20


class SameOrigin:
    """ASGI middleware: a request to its page's own address loses its Origin, and host names lose their case."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            headers = [(key, value.lower() if key == b"host" else value) for key, value in scope["headers"]]
            host = dict(headers).get(b"host", b"")
            scheme, _, origin = dict(headers).get(b"origin", b"").lower().partition(b"://")
            port = DEFAULT_PORTS.get(scheme, b"")
            if origin and origin.removesuffix(port) == host.removesuffix(port):
                headers = [(key, value) for key, value in headers if key != b"origin"]
            scope = {**scope, "headers": headers}
        await self.app(scope, receive, send)


class Again:
    """ASGI middleware: a request that the database refused for a key that another writer has just added is tried again."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; only an answer of 400 is held back until it is whole."""
        headers = dict(scope.get("headers", ()))
        json = headers.get(b"content-type", b"").startswith(b"application/json")
        if scope["type"] != "http" or not json or not 0 < int(headers.get(b"content-length", 0)) <= LARGEST:
            await self.app(scope, receive, send)
            return
        body = [await receive()]
        while body[-1].get("more_body"):
            body.append(await receive())
        for attempt in range(TRIES):
            parts, held = iter(body), []

            async def replay(parts: Any = parts) -> Any:
                return next(parts, None) or await receive()

            async def hold(message: Any, held: Any = held) -> None:
                if held or message.get("status") == 400:
                    held.append(message)
                else:
                    await send(message)

            await self.app(dict(scope), replay, hold)
            answer = b"".join(each.get("body", b"") for each in held)
            if attempt == TRIES - 1 or not answer.startswith(DUPLICATE):
                break
        for message in held:
            await send(message)


def create() -> Any:
    """Make the application. MLflow is imported here: its command line imports this module only to see that this is a factory."""
    from mlflow.server import fastapi_security
    from mlflow.server.fastapi_app import app

    page = fastapi_security.get_allowed_origins()[0]
    fastapi_security.INVALID_HOST_MSG = (
        f"This host name is not one of the platform's: open {page}/mlflow/, or name the host in the release's values, "
        "global.publicUrl or mlflow.allowedHosts (it is checked against DNS rebinding)."
    )
    fastapi_security.CORS_BLOCKED_MSG = (
        f"A page of another address may not change MLflow: open {page}/mlflow/. If that is not the address in your "
        "browser, because a proxy changes the header Host, set the release's value global.publicUrl to the one that is."
    )
    app.add_middleware(Again)
    app.add_middleware(SameOrigin)
    return app
