"""Models: traffic, errors, latency and saturation of the served models, by model and by version."""

from __future__ import annotations

from dashboards.common import CODES, FAILED, PODS, RATE, REQUESTS, Board, Query, course, none, value, zero

CHOSEN = 'namespace=~"$namespace", inferenceservice=~"$model"'
SERVED = f'{CHOSEN}, version=~"$version", version!=""'
BY = "namespace, inferenceservice, version"
VERSION = "{{namespace}}/{{inferenceservice}} v{{version}}"
#: 1 for each route of a chosen model.
ROUTES = (
    f'max by (route) (label_join(up{{job="models", {CHOSEN}}} * 0 + 1, "route", "-", "namespace", "inferenceservice"))'
)
#: Pods of chosen models.
POD = f'inferenceservice!="", {CHOSEN}, version=~"$version"'
#: 1 for each pod of a chosen model.
EACH_POD = f"max by (namespace, pod, inferenceservice, version) (pod:info{{{POD}}})"


def rate(counter: str, by: str, more: str = "") -> str:
    """Rate of a counter of the model server, summed."""
    return f"sum by ({by}) (rate({counter}{{{SERVED}{more}}}[{RATE}]))"


def quantile(share: float, by: str = "") -> str:
    """A quantile of the time to answer, absent without requests."""
    buckets = rate("model_server_request_duration_seconds_bucket", f"{by}, le".removeprefix(", "))
    return f"histogram_quantile({share}, {buckets}) >= 0"


def at_gateway(series: str) -> str:
    """A series of routes, of chosen models only."""
    return f"({series} and on (route) {ROUTES})"


def board() -> Board:
    """Build the board."""
    frame = Board(
        "models", "Models", "Traffic, errors, latency and saturation of the served models, by model and by version."
    )
    frame.choice("namespace", "Namespace", 'label_values(up{job="models"}, namespace)')
    frame.choice("model", "Model", 'label_values(up{job="models", namespace=~"$namespace"}, inferenceservice)')
    frame.choice("version", "Version", f"label_values(model_server_requests_total{{{CHOSEN}}}, version)")
    failed = rate("model_server_requests_total", BY, ', code=~"5.."')
    asked = rate("model_server_requests_total", BY)
    frame.row(
        "Now",
        value(
            "Models served",
            "Models of which at least one pod answers Prometheus.",
            zero(f'count(max by (namespace, inferenceservice) (up{{job="models", {CHOSEN}}}) == 1)', PODS),
            width=3,
        ),
        value(
            "Model pods down",
            "Pods of models that do not answer Prometheus.",
            zero(f'sum(up{{job="models", {CHOSEN}}} == bool 0)', PODS),
            thresholds=((None, "green"), (1, "red")),
            width=3,
        ),
        value(
            "Predictions",
            "Requests per second that the chosen models answered.",
            zero(f"sum(rate(model_server_requests_total{{{SERVED}}}[{RATE}]))", PODS),
            "reqps",
            width=3,
        ),
        value(
            "Rows predicted",
            "Rows per second that the chosen models predicted; a request has one or more.",
            zero(f"sum(rate(model_server_model_rows_total{{{SERVED}}}[{RATE}]))", PODS),
            "rowsps",
            width=3,
        ),
        value(
            "Model errors (5xx)",
            "Share of requests that ended with a 5xx at the gateway, in five minutes. The objective allows 1 %.",
            zero(
                f"sum({at_gateway('route:request_error_ratio:rate5m')} * route:requests:rate5m)"
                f" / (sum({at_gateway('route:requests:rate5m')}) > 0)",
                REQUESTS,
            ),
            "percentunit",
            thresholds=FAILED,
            decimals=2,
            width=3,
        ),
        value(
            "Model latency p50",
            "Half of the requests were answered faster than this.",
            quantile(0.5),
            "s",
            nothing="no requests",
            width=3,
        ),
        value(
            "Model latency p95",
            "Of the requests, 95 % were answered faster than this.",
            quantile(0.95),
            "s",
            nothing="no requests",
            width=3,
        ),
        value(
            "Latency / objective",
            "The worst model's p95 at the gateway, as a share of the objective in annotation iml4e.org/latency-objective.",
            f"max(model:latency_objective_ratio:rate5m{{{CHOSEN}}} >= 0)",
            "percentunit",
            thresholds=((None, "green"), (0.8, "orange"), (1, "red")),
            nothing="no objective",
            decimals=0,
            width=3,
        ),
    )
    frame.row(
        "Traffic",
        course(
            "Predictions by model and version",
            "Requests per second that each version of a model answered.",
            "reqps",
            Query(asked, VERSION),
        ),
        course(
            "Predictions by status code",
            "Requests per second by HTTP status code; 4xx are mistakes of callers.",
            "reqps",
            Query(
                rate("model_server_requests_total", "code")
                + " > 0 or "
                + rate("model_server_requests_total", "code", ', code="200"'),
                "{{code}}",
            ),
            stacked=True,
            colors=CODES,
        ),
        course(
            "Predictions by protocol",
            "Requests per second by protocol: V1 (instances) and V2 (tensors).",
            "reqps",
            Query(rate("model_server_requests_total", "protocol"), "{{protocol}}"),
            stacked=True,
        ),
    )
    frame.row(
        "Errors",
        course(
            "Model errors (5xx) by version",
            "Share of requests that the model server answered with a 5xx. Dashed: 1 %, the objective.",
            "percentunit",
            Query(f"{failed} / ({asked} > 0) or 0 * {asked}", VERSION),
            thresholds=((0.01, "red"),),
        ),
        course(
            "Model errors (5xx) at the gateway",
            "Share of requests that ended with a 5xx at the gateway: also those that no pod was there to answer. Dashed: 1 %.",
            "percentunit",
            Query(none(at_gateway("route:request_error_ratio:rate5m"), "route", REQUESTS), "{{route}}"),
            thresholds=((0.01, "red"),),
        ),
        course(
            "Mistakes of callers (4xx)",
            "Requests per second that the model server refused: wrong body, wrong model name, too large.",
            "reqps",
            Query(
                f'sum by (namespace, inferenceservice, code) (rate(model_server_requests_total{{{CHOSEN}, code=~"4.."}}[{RATE}])) > 0'
                f' or sum by (namespace, inferenceservice, code) (rate(model_server_requests_total{{{CHOSEN}, code="400"}}[{RATE}]))',
                "{{namespace}}/{{inferenceservice}} {{code}}",
            ),
        ),
    )
    frame.row(
        "Latency",
        course(
            "Model latency p50, p95, p99 against the objective",
            "How fast the chosen models answer, at the gateway, and the objective of each, dashed, from annotation iml4e.org/latency-objective.",
            "s",
            *(
                Query(at_gateway(f"route:request_duration_seconds:p{p}_5m >= 0"), f"{{{{route}}}} p{p}")
                for p in (50, 95, 99)
            ),
            Query(f"model:latency_objective:seconds{{{CHOSEN}}}", "{{namespace}}-{{inferenceservice}} objective"),
            dashed=".* objective",
            nothing="no requests in five minutes",
        ),
        course(
            "Model latency p95 by version",
            "Of the requests, the model server answered 95 % faster than this.",
            "s",
            Query(quantile(0.95, BY), VERSION),
            nothing="no requests",
        ),
        course(
            "Model latency p99 by version",
            "Of the requests, the model server answered 99 % faster than this.",
            "s",
            Query(quantile(0.99, BY), VERSION),
            nothing="no requests",
        ),
    )
    throttled = (
        f'sum by (namespace, pod) (rate(container_cpu_cfs_throttled_periods_total{{namespace=~"$namespace"}}[{RATE}]))'
    )
    periods = f'sum by (namespace, pod) (rate(container_cpu_cfs_periods_total{{namespace=~"$namespace"}}[{RATE}]))'
    join = f" * on (namespace, pod) group_left (inferenceservice, version) {EACH_POD}"
    frame.row(
        "Saturation",
        course(
            "Model pods up by version",
            "Pods of each version that answer Prometheus.",
            "none",
            Query(
                f'sum by ({BY}) (max by (namespace, pod) (up{{job="models", {CHOSEN}}})'
                f" * on (namespace, pod) group_left (inferenceservice, version) {EACH_POD})",
                VERSION,
            ),
        ),
        course(
            "Model CPU by version",
            "Cores that the pods of each version use.",
            "short",
            Query(f"sum by ({BY}) (pod:cpu_usage:cores{{{POD}}})", VERSION),
        ),
        course(
            "Model memory by version, of its limit",
            "Working set as a share of the memory limit of the fullest pod of each version: at 100 % its container is killed.",
            "percentunit",
            Query(
                f"max by ({BY}) (pod:memory_working_set:bytes{{{POD}}}"
                " / on (namespace, pod) group_left () pod:memory_limit:bytes)",
                VERSION,
            ),
            thresholds=((0.9, "red"),),
            nothing="no limit, or the kubelet is not asked",
        ),
        course(
            "Model CPU throttled",
            "Share of scheduling periods in which a pod was held back by its CPU limit; 0 also for pods without one.",
            "percentunit",
            Query(f"max by ({BY}) ({throttled} / ({periods} > 0){join} or 0 * {EACH_POD})", VERSION),
            thresholds=((0.25, "red"),),
        ),
        course(
            "Rows per call of the model",
            "Rows in a call of the model: above the rows per request, the model server batches because requests queue.",
            "short",
            Query(
                f"{rate('model_server_model_rows_total', BY)}"
                f" / ({rate('model_server_model_calls_total', BY)} > 0)"
                f" or 0 * max by ({BY}) ({EACH_POD})",
                VERSION,
            ),
        ),
        course(
            "Requests in work by version",
            "Requests in the model server on average, waiting and being predicted: rate of requests times their mean time.",
            "short",
            Query(rate("model_server_request_duration_seconds_sum", BY), VERSION),
        ),
    )
    return frame
