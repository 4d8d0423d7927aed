"""End MLflow runs that nobody will end: their pipeline run was cancelled or deleted, or a step died before it ended its own.

Kubeflow Pipelines ends the runs that it tracks when it learns how a pipeline run ended. Of a deleted one it learns nothing, and a
cancelled one it calls failed. Runs that the code of a step opens have the tag iml4e.pipeline_run (MLFLOW_RUN_CONTEXT).
"""

import base64
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from typing import Any

MLFLOW = os.environ["MLFLOW_URL"].rstrip("/") + "/api/2.0/mlflow/"
PIPELINES = os.environ["PIPELINES_URL"].rstrip("/") + "/apis/v2beta1/runs/"
GRACE = 120
"""Seconds that Kubeflow Pipelines has for ending an MLflow run itself, or for storing a run that it has just begun to track."""
RECENT = 3600
"""Seconds for which a run that ended as failed is looked at: several turns of this program."""
OWNERS = ("kfp.pipeline_run_id", "iml4e.pipeline_run")
"""Tags with the id of the pipeline run: of the run that Kubeflow Pipelines opened, and of those that its steps did."""

Run = dict[str, Any]


def ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Get JSON, or post it."""
    headers = {"Content-Type": "application/json"}
    if url.startswith(MLFLOW):
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
            login = f"{user}:{os.environ['MLFLOW_TRACKING_PASSWORD']}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
    context = ssl.create_default_context()
    if authority := os.environ.get("CA_FILE"):
        context.load_verify_locations(authority)
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:
        return json.load(answer)


def pages(method: str, key: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All that an MLflow search finds."""
    while True:
        found = ask(MLFLOW + method, body)
        yield from found.get(key, [])
        if not (token := found.get("next_page_token")):
            return
        body = {**body, "page_token": token}


def tag(run: Run, *names: str) -> str:
    """Value of the first of these tags that a run has, or nothing."""
    tags = {each["key"]: each["value"] for each in run["data"].get("tags", [])}
    return next((tags[name] for name in names if tags.get(name)), "")


def owner(run: Run, known: dict[str, Run]) -> str:
    """Id of the pipeline run that an MLflow run belongs to, or nothing: by its own tags, or those of the run it is nested in."""
    for _ in range(10):
        if found := tag(run, *OWNERS):
            return found
        if not (parent := tag(run, "mlflow.parentRunId")):
            return ""
        if parent not in known:
            try:
                known[parent] = ask(f"{MLFLOW}runs/get?run_id={parent}")["run"]
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                return ""
        run = known[parent]
    return ""


def seconds(text: str) -> float:
    """A time of Kubeflow Pipelines' as seconds since 1970."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def verdict(run: Run, pipeline: dict[str, Any] | None, now: float) -> tuple[str, float]:
    """How an MLflow run ended, and when; an empty status leaves it alone.

    Args:
        run: it has the status RUNNING or FAILED.
        pipeline: the pipeline run; None if it was deleted.
        now: seconds since 1970.
    """
    status = run["info"]["status"]
    if pipeline is None:
        young = now - run["info"]["start_time"] / 1000 < GRACE
        return ("KILLED", now) if status == "RUNNING" and not young else ("", 0)
    # a run that has just been made has no state, and its history begins with an entry without one
    state, history = pipeline.get("state"), pipeline.get("state_history", [])
    if state not in ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"):
        return "", 0
    ended = seconds(pipeline["finished_at"])
    if now - ended < GRACE:
        return "", 0
    before = [each for each in history if each.get("state") not in (None, state)]
    cancelled = state == "CANCELED" or (before and before[-1]["state"] == "CANCELING")
    if cancelled:
        # a step that failed before has failed
        own = run["info"].get("end_time", 0) / 1000
        since = seconds(before[-1]["update_time"]) if before else ended
        return ("KILLED", own or ended) if status == "RUNNING" or own >= since - 1 else ("", 0)
    if status != "RUNNING":
        return "", 0
    tracked = not tag(run, OWNERS[1])
    return ("FINISHED" if tracked and state in ("SUCCEEDED", "SKIPPED") else "FAILED"), ended


def main() -> None:
    """Look at all runs that are open or failed lately, and end those that are over."""
    now = time.time()
    experiments = [e["experiment_id"] for e in pages("experiments/search", "experiments", {"max_results": 1000})]
    filters = (
        "attributes.status = 'RUNNING'",
        f"attributes.status = 'FAILED' and attributes.end_time > {int(now - RECENT) * 1000}",
    )
    known: dict[str, Run] = {}
    pipelines: dict[str, dict[str, Any] | None] = {}
    count = 0
    for begin in range(0, len(experiments), 100):
        for condition in filters:
            query = {"experiment_ids": experiments[begin : begin + 100], "filter": condition, "max_results": 1000}
            for run in pages("runs/search", "runs", query):
                if not (mine := owner(run, known)):
                    continue
                if mine not in pipelines:
                    try:
                        pipelines[mine] = ask(PIPELINES + mine)
                    except urllib.error.HTTPError as error:
                        if error.code != 404:
                            raise
                        pipelines[mine] = None
                status, end = verdict(run, pipelines[mine], now)
                if status:
                    ask(
                        MLFLOW + "runs/update",
                        {"run_id": run["info"]["run_id"], "status": status, "end_time": int(end * 1000)},
                    )
                    how = pipelines[mine]["state"] if pipelines[mine] else "deleted"
                    print(f"run {run['info']['run_id']} is {status}: pipeline run {mine} is {how}", flush=True)
                    count += 1
    print(f"{count} runs ended in {len(experiments)} experiments", flush=True)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(
            f"mlflow_runs: {getattr(error, 'url', None) or 'MLflow or Kubeflow Pipelines'} does not answer: {error}; the next Job tries again"
        )
