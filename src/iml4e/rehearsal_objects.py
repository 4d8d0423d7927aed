"""Runs in a pod of a rehearsal, `python -c`: copies the newest objects of each bucket to the copy's store, or reads them there again.

Reads a plan (JSON) from PLAN, and keys from the environment. Prints the digests of the copies as a line of JSON.
"""

import hashlib
import heapq
import json
import os
import sys
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


def client(endpoint: str, region: str, prefix: str, style: str = "path") -> Any:
    """A client of a store, with a key of the environment."""
    return boto3.client(
        "s3", endpoint_url=endpoint or None, region_name=region, aws_access_key_id=os.environ[f"{prefix}_KEY"],
        aws_secret_access_key=os.environ[f"{prefix}_SECRET"],
        config=Config(s3={"addressing_style": style} if endpoint else {}, retries={"total_max_attempts": 3}),
    )  # fmt: skip


def main() -> None:
    """Copy, then read the copies."""
    plan = json.loads(os.environ["PLAN"])
    found: dict[str, dict[str, str]] = {}
    for role, bucket in plan["buckets"].items():
        there = client(plan["to"], "us-east-1", f"TO_{role.upper()}")
        if plan["do"] == "copy":
            here = client(plan["from"], plan["region"], f"FROM_{role.upper()}", plan["style"])
            pages = here.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            every = (each for page in pages for each in page.get("Contents", []) if each["Size"] < 2**28)
            for each in heapq.nlargest(plan["count"], every, key=lambda each: (each["LastModified"], each["Key"])):
                body = here.get_object(Bucket=bucket, Key=each["Key"])["Body"]
                there.upload_fileobj(body, bucket, each["Key"])
        found[bucket] = {}
        for page in there.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for each in page.get("Contents", []):
                body = there.get_object(Bucket=bucket, Key=each["Key"])["Body"]
                digest = hashlib.sha256()
                for chunk in body.iter_chunks(2**20):
                    digest.update(chunk)
                found[bucket][each["Key"]] = digest.hexdigest()
    print(json.dumps(found))


try:
    main()
except (BotoCoreError, ClientError, OSError) as error:
    print(" ".join(str(error).split()))
    sys.exit(1)
