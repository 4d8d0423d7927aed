"""Fetches models from S3: `fetch.py URI FOLDER [URI FOLDER …]`, KServe's init container, in any image that has boto3.

An address names one folder, with or without a slash at its end, never its neighbours; or a single object. Address of the
store, region and keys are in the environment (AWS_…), or in JSON that KServe takes from Secret storage-config where an InferenceService has
`storage` (STORAGE_CONFIG, STORAGE_OVERRIDE_CONFIG). So are the certificate authorities that it trusts: AWS_CA_BUNDLE, or a
ConfigMap that KServe mounts (global.caCertificate.existingConfigMap). Annotations of a Secret that KServe hands on by variables:
s3-verifyssl (S3_VERIFY_SSL), s3-usevirtualbucket (S3_USER_VIRTUAL_BUCKET), s3-useanoncredential (awsAnonymousCredential).
Exit codes: 1 the store cannot be read, 2 wrong call, 3 there is nothing at that address: starting again would not help.
"""

import json
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from boto3.exceptions import Boto3Error
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

THREADS = 8
#: Seconds between two lines about a long download.
EVERY = 10.0
#: What OpenSSL and urllib3 say of certificates.
UNTRUSTED = re.compile(
    r"certificate verify failed: (.+?) \(_ssl|hostname .+ doesn't match .+|no certificate or crl found"
)

#: Words of Secret storage-config and of `storage.parameters`, as KServe defines them, and the variables that stand for them.
SETTINGS = {
    "endpoint_url": "AWS_ENDPOINT_URL",
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "region": "AWS_DEFAULT_REGION",
    "ca_bundle": "AWS_CA_BUNDLE",
    "verify_ssl": "S3_VERIFY_SSL",
}


class Failed(Exception):
    """The download failed; a sentence and the exit code."""

    def __init__(self, sentence: str, code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code


def settings() -> None:
    """Take into the environment what `storage` of an InferenceService says; its parameters come after its key.

    Raises:
        Failed: what KServe passes on is no JSON.
    """
    for name in ("STORAGE_CONFIG", "STORAGE_OVERRIDE_CONFIG"):
        try:
            given = json.loads(os.environ.get(name) or "{}")
            os.environ.update(
                {
                    SETTINGS[key]: str(value)
                    for key, value in given.items()
                    if key in SETTINGS and value not in (None, "")
                }
            )
        except (ValueError, AttributeError):
            raise Failed(
                "the key of Secret storage-config that storage.key names must hold a JSON object of texts", 2
            ) from None


def authorities() -> str | bool | None:
    """What boto3 checks the store's certificate with: a file, False for no check, None for what it does by itself."""
    if os.environ.get("S3_VERIFY_SSL", "1").lower() in ("0", "false"):
        return False
    if os.environ.get("CA_BUNDLE_CONFIGMAP_NAME") and not os.environ.get("AWS_CA_BUNDLE"):
        return os.path.join(os.environ["CA_BUNDLE_VOLUME_MOUNT_POINT"], "cabundle.crt")
    return None


def is_on(variable: str) -> bool:
    """Whether KServe switches something on."""
    return os.environ.get(variable, "").lower() in ("1", "true")


def listing(s3: object, bucket: str, key: str) -> dict[str, int]:
    """Return the objects of a folder, or the single object: key and size in bytes."""
    folder = key.rstrip("/") + "/" if key else ""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
    found = {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}
    found = {name: size for name, size in found.items() if not name.endswith("/")}
    if not found and key and not key.endswith("/"):
        try:
            found = {key: s3.head_object(Bucket=bucket, Key=key)["ContentLength"]}
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
    return found


def fetch(uri: str, target: Path) -> None:
    """Download what an address names into a folder.

    Raises:
        Failed: there is nothing, or the store cannot be read.
    """
    scheme, _, place = uri.partition("://")  # no urlsplit: keys may have # and ?
    bucket, _, key = place.partition("/")
    if scheme != "s3" or not bucket:
        raise Failed(f"{uri} is no address like s3://BUCKET/FOLDER", 2)
    key = key.lstrip("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
    style = "virtual" if is_on("S3_USER_VIRTUAL_BUCKET") else "path" if endpoint else "auto"
    signature = UNSIGNED if is_on("awsAnonymousCredential") else None
    config = Config(max_pool_connections=THREADS, s3={"addressing_style": style}, signature_version=signature)
    try:
        s3 = boto3.client("s3", endpoint_url=endpoint, verify=authorities(), config=config)
        found = listing(s3, bucket, key)
        if not found:
            raise Failed(f"there is nothing at {uri}: storageUri must name the folder of a model", 3)
        total, done, start = sum(found.values()), 0, time.monotonic()
        print(f"{uri}: {len(found)} files, {total / 2**20:.1f} MiB", flush=True)
        said = start
        base = key.rstrip("/") + "/" if key and key not in found else key.rpartition("/")[0] + "/" if "/" in key else ""

        def load(name: str) -> int:
            path = (target / name.removeprefix(base)).resolve()
            if not path.is_relative_to(target.resolve()):
                raise Failed(f"the object {name!r} would leave the folder of the model", 3)
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, name, str(path))
            return found[name]

        with ThreadPoolExecutor(THREADS) as pool:
            for size in pool.map(load, found):
                done += size
                if time.monotonic() - said > EVERY:
                    said = time.monotonic()
                    print(f"{done / 2**20:.0f} of {total / 2**20:.0f} MiB after {said - start:.0f} s", flush=True)
        print(f"fetched in {time.monotonic() - start:.1f} s", flush=True)
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        reason = error.response["Error"].get("Message") or code
        gone = code in ("NoSuchBucket", "NoSuchKey")
        raise Failed(f"{uri} cannot be read: {reason} ({code})", 3 if gone else 1) from None
    except (BotoCoreError, Boto3Error, ValueError) as error:  # ValueError: an endpoint that is no URL
        if found := UNTRUSTED.search(str(error)):
            raise Failed(
                f"{uri} cannot be read: the certificate of {endpoint or 'AWS'} is not trusted: {found[1] or found[0]}. Renew it, or name its "
                "authority in global.caCertificate.existingConfigMap (docs/install.md, A private certificate authority)"
            ) from None
        raise Failed(f"{uri} cannot be read from {endpoint or 'AWS'}: {error}") from None
    except OSError as error:
        raise Failed(f"{uri} cannot be stored in {target}: {error.strerror or error}") from None


def main(words: list[str]) -> int:
    """Download each address into its folder."""
    if not words or len(words) % 2:
        print("usage: fetch URI FOLDER [URI FOLDER …]", file=sys.stderr)
        return 2
    try:
        settings()
        for uri, folder in zip(words[0::2], words[1::2], strict=True):
            Path(folder).mkdir(parents=True, exist_ok=True)
            fetch(uri, Path(folder))
    except Failed as error:
        print(error, file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
