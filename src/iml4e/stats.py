"""Traffic of served models: what the landing page shows at `/models/`."""

from typing import Any

from iml4e import Error, platform

#: Seconds that the answer may take; the page itself waits for none of its sources longer than two.
TIMEOUT = 15


def read(last: str = "10m", name: str = "", namespace: str = "") -> tuple[list[dict[str, Any]], list[str]]:
    """Read requests, errors and latencies of served models, and what is missing from them.

    Args:
        last: time that counts, such as "10m", "1h" or "7d".
        name: endpoint; empty: all.
        namespace: of the endpoints; empty: all that the landing page lists.

    Raises:
        Error: the page does not answer, does not take `last`, or does not list the endpoint.
    """
    import requests

    url = f"{platform.get('GATEWAY_URL').rstrip('/')}/models/"
    try:
        answer = requests.get(url, params={"last": last}, timeout=TIMEOUT)
    except requests.RequestException as error:
        kind = "in time" if isinstance(error, requests.Timeout) else f"({type(error).__name__})"
        raise Error(f"{url} does not answer {kind}: is IML4E_URL right, and the platform up?") from None
    try:
        content = answer.json()
    except ValueError:
        content = {}
    if not answer.ok or "models" not in content:
        said = content.get("error") or "the part home is off or not ready; home.enabled=true installs it"
        raise Error(f"{url} answers {answer.status_code}: {said}")
    models, missing = content["models"], content["missing"]
    if models is None:
        raise Error("; ".join(missing))
    found = [each for each in models if name in ("", each["name"]) and namespace in ("", each["namespace"])]
    if name and not found:
        names = ", ".join(f"{each['namespace']}/{each['name']}" for each in models[:10])
        raise Error(f"no endpoint {name} is listed at {url}; {f'there are {names}' if names else 'nothing is served'}")
    return found, missing


def table(models: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows for a terminal, the header first."""
    rows = [("ENDPOINT", "VERSION", "READY", "REQUESTS", "ERRORS", "ERROR %", "P50", "P95", "P99")]
    for each in models:
        counts = [_count(each[key]) for key in ("requests", "errors")]
        ratio = "-" if each["error_ratio"] is None else f"{each['error_ratio']:.2%}"
        ready = f"{each['replicas']['ready']}/{each['replicas']['wanted']}"
        times = [_time(each[f"{key}_seconds"]) for key in ("p50", "p95", "p99")]
        rows.append((f"{each['namespace']}/{each['name']}", each["version"] or "-", ready, *counts, ratio, *times))
    return rows


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value}"


def _time(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
