"""Runs in a pod of MLflow, `python -c`, with the standard library and pymysql: can the pod reach its database and its buckets?

Reads a line of JSON from standard input: more keys and their buckets. Prints a line of JSON. Nothing secret is printed.
"""

import hashlib
import hmac
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

WAIT = 4
os.environ["RES_OPTIONS"] = "timeout:2 attempts:1"


def resolve(host: str) -> str:
    """Why a name cannot be resolved; empty if it can."""
    try:
        socket.getaddrinfo(host, None)
        return ""
    except OSError as error:
        return str(error)


def database() -> dict | None:
    """Log in to the database of MLflow."""
    uri = os.environ.get("MLFLOW_BACKEND_STORE_URI", "")
    found = re.match(r"mysql[+\w]*://([^:]*):(.*)@(\[[^]]*\]|[^:/@]*):?(\d*)/([^?]*)", uri)
    if not found:
        return None
    import pymysql

    *account, host, port, name = found.groups()
    user, password = map(urllib.parse.unquote, account)
    own = [os.environ.get(key, "") for key in ("DATABASE_USER", "DATABASE_PASSWORD")]
    if "//{}:{}@".format(*own) in uri:  # as the Secret has them, without percent-encoding
        user, password = own
    host = host.strip("[]")
    said = {"host": host, "port": int(port or 3306), "user": user, "database": name}
    if unknown := resolve(host):
        return said | {"fault": "host-name", "error": unknown}
    authority = re.search(r"ssl_ca=([^&]*)", uri)
    try:
        pymysql.connect(
            host=host, port=said["port"], user=user, password=password, database=name,
            connect_timeout=WAIT, read_timeout=WAIT, ssl={"ca": authority[1]} if authority else None,
        ).close()  # fmt: skip
    except Exception as error:
        code = error.args[0] if error.args else 0
        fault = {
            1045: "database-login",
            1698: "database-login",
            1044: "database-missing",
            1049: "database-missing",
        }.get(code, "database-address")
        text = str(error.args[1] if len(error.args) > 1 else error)
        return said | {"fault": "s3-certificate" if "CERTIFICATE" in text.upper() else fault, "error": text}
    return said


def bucket(endpoint: str, region: str, name: str, key: str, secret: str) -> dict:
    """List one object of a bucket, signed by hand: a client of S3 would take seconds and 80 MiB of the pod's memory."""
    url = urllib.parse.urlsplit(endpoint or f"https://s3.{region}.amazonaws.com")
    said = {"endpoint": url.geturl(), "bucket": name}
    if unknown := resolve(url.hostname):
        return said | {"fault": "host-name", "error": unknown}
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    day = stamp[:8]
    empty, scope = hashlib.sha256(b"").hexdigest(), f"{day}/{region}/s3/aws4_request"
    path, query, host = f"/{urllib.parse.quote(name)}", "list-type=2&max-keys=1", url.netloc
    if os.environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE") == "virtual":
        path, host = "/", f"{name}.{host}"
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp}
    signed = ";".join(headers)
    canonical = "\n".join(["GET", path, query, *(f"{k}:{v}" for k, v in headers.items()), "", signed, empty])
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    sign = ("AWS4" + secret).encode()
    for part in (day, region, "s3", "aws4_request"):
        sign = hmac.new(sign, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(sign, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )
    request = urllib.request.Request(f"{url.scheme}://{host}{path}?{query}", headers=headers)
    authority = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=authority or None) if url.scheme == "https" else None
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)).open(
            request, timeout=WAIT
        )
        return said
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")
        code = (re.search(r"<Code>(\w+)</Code>", body) or ["", f"HTTP {error.code}"])[1]
        faults = {
            "NoSuchBucket": "s3-bucket",
            "InvalidAccessKeyId": "s3-key",
            "SignatureDoesNotMatch": "s3-key",
            "AccessDenied": "s3-rights",
        }
        faults["RequestTimeTooSkewed"] = "clock"
        return said | {"fault": faults.get(code, "s3-address"), "error": code}
    except Exception as error:
        reason = str(getattr(error, "reason", error))
        return said | {"fault": "s3-certificate" if "CERTIFICATE" in reason.upper() else "s3-address", "error": reason}


def main() -> None:
    """Ask everything at once."""
    more = json.loads(sys.stdin.readline() or "{}")
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT_URL", ""))
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    found = {"dns": resolve("kubernetes.default.svc"), "time": time.time()}
    jobs = {"database": database}
    own = os.environ.get("_MLFLOW_SERVER_ARTIFACT_DESTINATION", "").removeprefix("s3://").partition("/")[0]
    if own and os.environ.get("AWS_ACCESS_KEY_ID"):
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        jobs["own"] = lambda: bucket(endpoint, region, own, key, secret)
    for name, each in more.items():
        jobs[name] = lambda each=each: bucket(endpoint, region, each["bucket"], each["key"], each["secret"])

    def run(name: str, job: Callable[[], dict | None]) -> None:
        try:
            found[name] = job()
        except Exception as error:
            found[name] = {"failed": f"{type(error).__name__}: {error}"}

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT * 2)
    print("\n" + json.dumps(found), flush=True)
    os._exit(0)


main()
