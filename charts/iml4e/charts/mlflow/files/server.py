"""MLflow's server for artifacts of any size, many writers and many addresses; serve.py runs it."""

from __future__ import annotations

from typing import Any

import database
import metrics
from artifacts import Artifacts, store_error
from botocore.exceptions import BotoCoreError, ClientError
from flask import Response, request
from middleware import Again, Bodies, Health, Histories, Pages, Refusals, SameOrigin
from mlflow.server import app as flask_app
from mlflow.server import fastapi_app, fastapi_security


def of_handlers(failure: BotoCoreError | ClientError) -> Response:
    """What the S3 store told MLflow's own handlers, which list and delete artifacts: otherwise a page without a reason."""
    answer = store_error(failure, request.path)
    return Response(answer.body, answer.status_code, mimetype="application/json")


def create() -> Any:
    """MLflow's application, with routes of the chart for artifacts in place of its own."""
    database.install()
    app = fastapi_app.app
    metrics.start()
    page = fastapi_security.get_allowed_origins()[0]
    fastapi_security.INVALID_HOST_MSG = (
        f"This host name is not one of the platform's: open {page}/mlflow/, or name the host in the release's values, "
        "global.publicUrl or mlflow.allowedHosts (it is checked against DNS rebinding)."
    )
    fastapi_security.CORS_BLOCKED_MSG = (
        f"A page of another address may not change MLflow: open {page}/mlflow/. If that is not the address in your "
        "browser, because a proxy changes the header Host, set the release's value global.publicUrl to the one that is."
    )
    # upstream's routes for artifacts, which copy to the disk, lack the prefix; the last route hands everything else to Flask
    app.router.routes[:] = [
        route for route in app.router.routes if "/mlflow-artifacts/" not in getattr(route, "path", "")
    ]
    mount = app.router.routes[-1]
    mount.app = Artifacts(mount.app).router()
    for kind in (BotoCoreError, ClientError):
        flask_app.register_error_handler(kind, of_handlers)
    for middleware in (Again, Pages, Histories, Bodies, SameOrigin, Refusals, metrics.Traffic, Health):
        app.add_middleware(middleware)
    return app
