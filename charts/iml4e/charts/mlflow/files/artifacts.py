"""Artifacts, streamed between client and S3 store.

MLflow's own handlers copy each artifact: an upload is collected in memory (3.17 with a static prefix) or on disk, and a download
waits until the whole object lies on the server's disk. Here a body goes to the store in parts while it arrives, and an object to
the client while it is read, at the client's pace: memory stays flat and no disk is needed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import boto3
from anyio import CancelScope, CapacityLimiter, fail_after, move_on_after, sleep, to_thread
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException, _UnsupportedMultipartUploadException
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.uri import validate_path_is_safe
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router

log = logging.getLogger("mlflow.server")

PREFIX = os.environ["_MLFLOW_STATIC_PREFIX"]
APIS = (f"{PREFIX}/api/2.0", f"{PREFIX}/ajax-api/2.0")
ARTIFACTS = tuple(f"{api}/mlflow-artifacts/artifacts/" for api in APIS)
METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS")
PART = 5 * 2**20
"""Bytes of an upload that are in memory; S3 takes no smaller part."""
UPLOADS = int(os.environ["MAX_UPLOADS"])
"""Uploads at the same time; further ones are told to come again, which MLflow's clients do."""
THREADS = 2
"""Calls to the S3 store at the same time, in threads apart from those of MLflow's handlers: tracking goes on meanwhile."""
STALL = 60
"""Seconds that a client may stay silent while it sends an artifact."""
CHUNK = 256 * 2**10
"""Bytes of a download that are in memory."""
UNTRUSTED = re.compile(
    r"certificate verify failed: (.+?) \(_ssl|hostname .+ doesn't match .+|no certificate or crl found"
)
"""What OpenSSL and urllib3 say of certificates, which does not pass by itself."""


def error(status: int, code: str, message: str) -> JSONResponse:
    """An error as MLflow's clients read it."""
    return JSONResponse({"error_code": code, "message": message}, status)


def store_error(failure: ClientError | BotoCoreError, path: str) -> Response:
    """What the S3 store refused, as an answer: only what may pass by itself has a status that clients try again.

    That is 500 and not 503, whose text the gateway replaces by its own.
    """
    if found := UNTRUSTED.search(str(failure)):
        message = (
            f"The certificate of the artifact store is not trusted: {found[1] or found[0]}. Ask the administrator to renew it, or to name "
            "its authority in global.caCertificate."
        )
        log.error("%s", message)
        return error(501, "INTERNAL_ERROR", message)
    if not isinstance(failure, ClientError):
        log.error("the S3 store does not answer: %s", failure)
        return error(500, "TEMPORARILY_UNAVAILABLE", f"The artifact store does not answer: {failure}")
    code = failure.response["Error"].get("Code", "")
    said = failure.response["Error"].get("Message", "")
    status = failure.response["ResponseMetadata"].get("HTTPStatusCode", 500)
    if status == 404 and code != "NoSuchBucket":
        return error(404, "RESOURCE_DOES_NOT_EXIST", f"There is no artifact at {path}.")
    if status == 416:
        return error(416, "INVALID_PARAMETER_VALUE", f"The artifact at {path} is shorter than the range asked for.")
    log.error("the S3 store refuses %s: %s (%s)", path, said, code)
    # MinIO tells a full disk by an internal error, and a full bucket by one of several codes
    if status == 507 or "Full" in code or "Quota" in code or "no space left" in said:
        message = f"The artifact store is full and kept nothing of {path}. Ask the administrator for space: {said}"
        return error(507, "RESOURCE_EXHAUSTED", message)
    if status >= 500 or code in ("SlowDown", "RequestTimeout"):
        return error(500, "TEMPORARILY_UNAVAILABLE", f"The artifact store failed at {path}: {said}")
    return error(501, "INTERNAL_ERROR", f"The artifact store refuses {path}: {said} ({code})")


async def no_signed_urls(request: Request) -> Response:
    """The answer to clients that ask for signed URLs of the S3 store and could not reach them: they go on without."""
    message = f"{_UnsupportedMultipartUploadException.MESSAGE}: mlflow.route.signedUrls is false"
    return error(501, "NOT_IMPLEMENTED", message)


async def drain(body: AsyncIterator[bytes]) -> None:
    """Read what is left of a body: proxies and clients that are still sending miss an answer."""
    with move_on_after(STALL), suppress(ClientDisconnect):
        async for _ in body:
            pass


class Artifacts:
    """The routes by which artifacts come and go."""

    def __init__(self, handlers: Any) -> None:
        self.handlers = handlers
        """MLflow's own."""
        self.answering = 0
        """Requests that they are answering."""
        self.bucket, self.root = split(os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"])
        self.uploads = 0
        self.threads = CapacityLimiter(THREADS)
        style = os.environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")
        self.s3 = boto3.client(
            "s3",
            endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"),
            verify=False if os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() == "true" else None,
            config=Config(
                s3={"addressing_style": style},
                max_pool_connections=2 * UPLOADS,
                # a store that is away is tried for some seconds: longer, and the requests that wait would go on failing after its return
                connect_timeout=3,
                # six seconds on average: botocore's pause begins at 25 ms and doubles
                retries={"mode": "standard", "total_max_attempts": 9},
            ),
        )
        self.extra = json.loads(os.environ.get("MLFLOW_S3_UPLOAD_EXTRA_ARGS") or "{}")

    def router(self) -> Router:
        """The routes of MLflow that carry content of artifacts; every other request goes to MLflow's own handlers."""
        routes = []
        for artifacts in ARTIFACTS:
            routes.append(self.route(artifacts + "{path:path}", GET=self.download, HEAD=self.download, PUT=self.upload))
        for api in APIS:
            routes.append(
                self.route(f"{api}/mlflow/logged-models/{{model_id}}/artifacts/files", GET=self.of_logged_model)
            )
        routes.append(self.route(f"{PREFIX}/get-artifact", GET=self.of_run))
        routes.append(self.route(f"{PREFIX}/model-versions/get-artifact", GET=self.of_model_version))
        routes.append(Route(f"{PREFIX}/no-signed-urls", no_signed_urls, methods=METHODS))
        return Router(routes, redirect_slashes=False, default=self.bridge)

    def route(self, path: str, **endpoints: Callable[[Request], Awaitable[Any]]) -> Route:
        """A route with an endpoint for some methods, whose errors reach the client as MLflow's do."""

        async def answer(request: Request) -> Any:
            endpoint = endpoints.get(request.method)
            if endpoint is None:
                return self.bridge
            try:
                return await endpoint(request)
            except (ClientError, BotoCoreError) as failure:
                refused = store_error(failure, request.url.path)
            except MlflowException as failure:
                refused = JSONResponse(json.loads(failure.serialize_as_json()), failure.get_http_status_code())
            if request.method == "PUT":
                await drain(request.state.body)
            return refused

        return Route(path, answer, methods=METHODS)

    async def bridge(self, *request: Any) -> None:
        """Let MLflow's own handlers answer."""
        self.answering += 1
        try:
            await self.handlers(*request)
        finally:
            self.answering -= 1

    async def give_way(self) -> None:
        """Let tracking go first, for up to 10 ms: a few large artifacts would otherwise take all of the processor."""
        for _ in range(5):
            if not self.answering:
                return
            await sleep(0.002)

    async def run(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Call what blocks in a thread."""
        return await to_thread.run_sync(lambda: function(**arguments), limiter=self.threads)

    # Downloads

    async def download(self, request: Request) -> Any:
        """An artifact by its path in the store."""
        path = validate_path_is_safe(request.path_params["path"])
        return await self.send(request, self.bucket, join(self.root, path))

    async def of_run(self, request: Request) -> Any:
        """An artifact of a run, as the pages ask for it."""
        from mlflow.server.handlers import _get_tracking_store

        run = request.query_params.get("run_id") or request.query_params.get("run_uuid")
        if not run or "path" not in request.query_params:
            raise MlflowException.invalid_parameter_value("Name the run_id of the run and the path of its artifact.")
        found = await self.run(_get_tracking_store().get_run, run_id=run)
        return await self.below(request, found.info.artifact_uri, request.query_params["path"])

    async def of_logged_model(self, request: Request) -> Any:
        """A file of a logged model."""
        from mlflow.server.handlers import _get_tracking_store

        path = request.query_params.get("artifact_file_path")
        if not path:
            raise MlflowException.invalid_parameter_value("Name the artifact_file_path of the model's file.")
        found = await self.run(_get_tracking_store().get_logged_model, model_id=request.path_params["model_id"])
        return await self.below(request, found.artifact_location, path)

    async def of_model_version(self, request: Request) -> Any:
        """A file of a registered model's version."""
        from mlflow.server.handlers import _get_model_registry_store

        asked = request.query_params
        if not {"name", "version", "path"} <= set(asked):
            raise MlflowException.invalid_parameter_value(
                "Name the name and version of the model and the path of its file."
            )
        store = _get_model_registry_store()
        uri = await self.run(store.get_model_version_download_uri, name=asked["name"], version=asked["version"])
        return await self.below(request, uri, asked["path"])

    async def below(self, request: Request, uri: str, path: str) -> Any:
        """An artifact below the address that MLflow keeps for a run or a model."""
        scheme = urllib.parse.urlsplit(uri).scheme
        if scheme not in ("mlflow-artifacts", "s3"):
            return self.bridge
        bucket, key = split(uri)
        if scheme == "mlflow-artifacts":
            bucket, key = self.bucket, join(self.root, key)
        return await self.send(request, bucket, join(key, validate_path_is_safe(path)))

    async def send(self, request: Request, bucket: str, key: str) -> Response:
        """An object, while it is read; or the part of it that the client asks for, to go on after a break."""
        asked = {"Range": request.headers["range"]} if "range" in request.headers else {}
        if "if-range" in request.headers:
            asked["IfMatch"] = request.headers["if-range"]
        read = self.s3.head_object if request.method == "HEAD" else self.s3.get_object
        try:
            found = await self.run(read, Bucket=bucket, Key=key, **asked)
        except ClientError as failure:
            if "IfMatch" not in asked or failure.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
            # it changed since the client had the first part: all of it
            found = await self.run(read, Bucket=bucket, Key=key)
        name = urllib.parse.quote(key.rpartition("/")[2], safe="")
        headers = {
            "Content-Length": str(found["ContentLength"]),
            "Content-Type": _guess_mime_type(key),
            # never shown in the page: an artifact could hold a script
            "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
            "X-Content-Type-Options": "nosniff",
            "Accept-Ranges": "bytes",
            "ETag": found["ETag"],
            "Cache-Control": "no-cache",
        }
        if "ContentRange" in found:
            headers["Content-Range"] = found["ContentRange"]
        status = 206 if "ContentRange" in found else 200
        if request.method == "HEAD":
            return Response(None, status, headers)
        return StreamingResponse(self.chunks(found["Body"]), status, headers)

    async def chunks(self, body: Any) -> AsyncIterator[bytes]:
        """Read an object piece by piece; Starlette waits for the client in between."""
        try:
            while chunk := await to_thread.run_sync(body.read, CHUNK, limiter=self.threads):
                yield chunk
                await self.give_way()
        finally:
            body.close()

    # Uploads

    async def upload(self, request: Request) -> Any:
        """Store the body as an object: in parts while it arrives, listed when all of it is there."""
        request.state.body = request.stream()
        path = validate_path_is_safe(request.path_params["path"])
        if not path or path.endswith("/"):
            raise MlflowException.invalid_parameter_value("The path of an artifact ends with the name of a file.")
        if self.uploads >= UPLOADS:
            message = f"{UPLOADS} artifacts are being sent at the moment (mlflow.maxUploads). Try again."
            return error(429, "RESOURCE_EXHAUSTED", message)
        self.uploads += 1
        try:
            await self.store(request.state.body, join(self.root, path))
        except ClientDisconnect:
            log.warning("the client went away while it sent %s: nothing was stored", path)
        except TimeoutError:
            message = f"Nothing of {path} arrived for {STALL} s, and nothing was stored. Try again."
            return error(408, "INVALID_PARAMETER_VALUE", message)
        finally:
            self.uploads -= 1
        return JSONResponse({})

    async def store(self, body: AsyncIterator[bytes], key: str) -> None:
        """Store a body: a small one in one piece, else in parts."""
        place = {"Bucket": self.bucket, "Key": key}
        how = {"ContentType": _guess_mime_type(key), **self.extra}
        upload, done, buffer = "", [], bytearray()
        try:
            while chunk := await self.next(body):
                buffer += chunk
                await self.give_way()
                # S3 takes 10,000 parts: they grow with their number, up to 275 GB in all
                if len(buffer) < PART * (1 + len(done) // 1000):
                    continue
                if not upload:
                    upload = (await self.run(self.s3.create_multipart_upload, **place, **how))["UploadId"]
                done.append(await self.part(place, upload, len(done) + 1, buffer))
                buffer = bytearray()
            if not upload:
                await self.run(self.s3.put_object, **place, **how, Body=buffer)
                return
            if buffer:
                done.append(await self.part(place, upload, len(done) + 1, buffer))
            await self.run(self.s3.complete_multipart_upload, **place, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            if upload:
                # also when this task is cancelled
                with CancelScope(shield=True):
                    await self.run(self.abort, place=place, upload=upload)
            raise

    async def next(self, body: AsyncIterator[bytes]) -> bytes:
        """The next piece of a body; empty at its end."""
        with fail_after(STALL):
            return await anext(body, b"")

    async def part(self, place: dict[str, str], upload: str, number: int, buffer: bytearray) -> dict[str, Any]:
        """Send one part; return what completes the upload."""
        stored = await self.run(self.s3.upload_part, **place, UploadId=upload, PartNumber=number, Body=buffer)
        return {"PartNumber": number, **{key: value for key, value in stored.items() if key in ("ETag", *CHECKSUMS)}}

    def abort(self, place: dict[str, str], upload: str) -> None:
        """Give back the space of parts that no object will have."""
        try:
            self.s3.abort_multipart_upload(**place, UploadId=upload)
        except (ClientError, BotoCoreError) as failure:
            log.warning("parts of %s stay in the store: %s", place["Key"], failure)


CHECKSUMS = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256")


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an address."""
    parts = urllib.parse.urlsplit(uri)
    return parts.netloc, parts.path.strip("/")


def join(*parts: str) -> str:
    """A key from its parts."""
    return "/".join(part for part in parts if part)
