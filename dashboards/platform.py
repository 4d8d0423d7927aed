"""Platform: does every part run, with which resources, and what does the gateway see."""

from __future__ import annotations

from dashboards.common import (
    CODES,
    FAILED,
    NO_GPU,
    PODS,
    RATE,
    REQUESTS,
    WATCHDOG,
    ZERO,
    Board,
    Column,
    Query,
    bars,
    course,
    none,
    rows,
    states,
    value,
    zero,
)

HERE = 'namespace=~"$namespace"'
USERS = 'route!="", method!="HEAD"'
ALERTS = 'ALERTS{alertstate="firing", alertname!="Watchdog"}'
UP = {"1": ("up", "green"), "0": ("down", "red")}
GPU = "sum without (instance, job, pci_bus_id, DCGM_FI_DRIVER_VERSION)"
EXPIRES: tuple[tuple[float | None, str], ...] = ((None, "red"), (7 * 86400, "orange"), (21 * 86400, "green"))


def board() -> Board:
    """Build the board."""
    frame = Board("platform", "Platform", "Whether every part runs, what it uses, and what the gateway sees.")
    frame.choice("namespace", "Namespace", 'label_values(up{job="parts"}, namespace)', every="")
    frame.row(
        "Now",
        value(
            "Parts down",
            "Pods of parts that do not answer Prometheus.",
            f'sum(up{{job=~"parts|prometheus", {HERE}}} == bool 0)',
            thresholds=ZERO,
            width=3,
        ),
        value(
            "Pods not running",
            "Pods of parts, models and runs that are pending, failed, unknown, or running and not ready.",
            zero('count(up{job="pods-not-running"})', PODS),
            thresholds=((None, "green"), (1, "orange")),
            width=3,
        ),
        value(
            "Container restarts",
            "How often containers of this namespace started again within an hour.",
            f"sum(pod:restarts:increase1h{{{HERE}}})",
            thresholds=((None, "green"), (1, "orange"), (5, "red")),
            decimals=0,
            width=3,
        ),
        value(
            "Alerts firing",
            "Alerts that fire now; the watchdog, which always fires, is left out.",
            zero(f"count({ALERTS})", WATCHDOG),
            thresholds=ZERO,
            width=3,
        ),
        value(
            "Gateway requests",
            "Requests of users at the gateway per second; probes are left out.",
            "sum(route:requests:rate5m)",
            "reqps",
            width=3,
        ),
        value(
            "Gateway errors (5xx)",
            "Share of users' requests in five minutes that ended with a 5xx. The objective allows 1 %.",
            zero(
                "sum(route:request_error_ratio:rate5m * route:requests:rate5m) / (sum(route:requests:rate5m) > 0)",
                REQUESTS,
            ),
            "percentunit",
            thresholds=FAILED,
            decimals=2,
            width=3,
        ),
        value(
            "Gateway latency p95",
            "Of the requests in five minutes, 95 % were answered faster than this.",
            f"histogram_quantile(0.95, sum by (le) (rate(traefik_router_request_duration_seconds_bucket{{{USERS}}}[5m])))",
            "s",
            nothing="no requests",
            width=3,
        ),
        value(
            "Certificate expiry",
            "Time until the first TLS certificate of gateway and KServe's webhook ends.",
            "min(certificate:expires_in:seconds)",
            "dtdurations",
            thresholds=EXPIRES,
            nothing="no TLS",
            decimals=0,
            width=3,
            spark=False,
        ),
    )
    frame.row(
        "Parts and pods",
        states(
            "Parts up",
            "Whether each part answered Prometheus; a part with several pods is down when one of them is.",
            Query(f'min by (component) (up{{job=~"parts|prometheus", {HERE}}})', "{{component}}"),
            UP,
            width=9,
        ),
        rows(
            "Pods not running",
            "Pods of parts, models and runs that are pending, failed, unknown, or running and not ready.",
            Query(none('count by (namespace, pod, phase) (up{job="pods-not-running"})', "pod", PODS)),
            columns=(
                Column("pod", "Pod"),
                Column("namespace", "Namespace", width=105),
                Column("phase", "Phase", width=95),
            ),
            width=8,
        ),
        course(
            "Container restarts by pod",
            "How often containers started again within the hour before.",
            "none",
            Query(
                none(f"sum by (pod) (pod:restarts:increase1h{{{HERE}}}) > 0", "pod", "pod:restarts:increase1h"),
                "{{pod}}",
            ),
            width=7,
            calcs=("lastNotNull",),
        ),
    )
    frame.row(
        "CPU and memory",
        course(
            "CPU by part",
            "Cores that the pods of each part use.",
            "short",
            Query(f"component:cpu_usage:cores{{{HERE}}}", "{{component}}"),
            height=10,
            stacked=True,
        ),
        course(
            "Memory by part",
            "Working set of the pods of each part: what counts against the memory limit.",
            "bytes",
            Query(f"component:memory_working_set:bytes{{{HERE}}}", "{{component}}"),
            height=10,
            stacked=True,
        ),
        bars(
            "Memory of its limit, by pod",
            "Working set as a share of the pod's memory limit: at 100 % its container is killed.",
            "percentunit",
            Query(
                f'sort_desc(pod:memory_working_set:bytes{{component!="", {HERE}}}'
                " / on (namespace, pod) pod:memory_limit:bytes)",
                "{{pod}}",
            ),
            top=1,
            height=10,
        ),
    )
    frame.row(
        "Gateway",
        course(
            "Gateway requests by route",
            "Requests of users per second; probes are left out.",
            "reqps",
            Query("route:requests:rate5m", "{{route}}"),
        ),
        course(
            "Gateway errors (5xx) by route",
            "Share of users' requests in five minutes that ended with a 5xx. Dashed: 1 %, the objective.",
            "percentunit",
            Query(none("route:request_error_ratio:rate5m", "route", REQUESTS), "{{route}}"),
            thresholds=((0.01, "red"),),
        ),
        course(
            "Gateway latency p95 by route",
            "Of the requests in five minutes, 95 % were answered faster than this.",
            "s",
            Query(none("route:request_duration_seconds:p95_5m >= 0", "route", REQUESTS), "{{route}}"),
        ),
        course(
            "Gateway answers by status code",
            "All answers per second, those to probes included, by HTTP status code.",
            "reqps",
            Query(f'sum by (code) (rate(traefik_router_requests_total{{route!="", code=~"..."}}[{RATE}]))', "{{code}}"),
            stacked=True,
            colors=CODES,
        ),
        course(
            "Gateway traffic",
            "Bytes of requests and of answers per second.",
            "Bps",
            Query(f'sum(rate(traefik_router_requests_bytes_total{{route!=""}}[{RATE}]))', "received"),
            Query(f'sum(rate(traefik_router_responses_bytes_total{{route!=""}}[{RATE}]))', "sent"),
        ),
        course(
            "MLflow requests by status",
            "Requests that MLflow answered per second, by HTTP status code.",
            "reqps",
            Query(f"sum by (status) (rate(mlflow_http_request_total[{RATE}]))", "{{status}}"),
            stacked=True,
            colors=CODES,
        ),
    )
    frame.row(
        "Alerts and certificates",
        rows(
            "Firing alerts",
            "Alerts that fire now; the watchdog, which always fires, is left out.",
            Query(
                none(
                    f"sum by (alertname, severity, route, component, inferenceservice, pod) ({ALERTS})",
                    "alertname",
                    WATCHDOG,
                )
            ),
            columns=(
                Column("alertname", "Alert"),
                Column("severity", "Severity", width=90),
                Column("route", "Route"),
                Column("component", "Part"),
                Column("inferenceservice", "Model"),
                Column("pod", "Pod"),
            ),
            width=16,
        ),
        rows(
            "Certificate expiry by name",
            "Time until each TLS certificate of gateway and KServe's webhook ends.",
            Query("min by (component, name) (certificate:expires_in:seconds)"),
            columns=(
                Column("component", "Part", width=80),
                Column("name", "Name"),
                Column("A", "Expires in", "dtdurations", EXPIRES, width=160),
            ),
            width=8,
            nothing="no TLS",
        ),
    )
    gpu = "Hostname, gpu, modelName"
    frame.row(
        "GPUs (DCGM exporter)",
        course(
            "GPU utilization",
            "How busy each GPU is. Where GPUs are split (MIG), the activity of the graphics engine says more.",
            "percent",
            Query(f"avg by ({gpu}) (DCGM_FI_DEV_GPU_UTIL)", "{{Hostname}} GPU {{gpu}}"),
            top=100,
            nothing=NO_GPU,
        ),
        course(
            "GPU memory used",
            "Share of each GPU's frame buffer in use.",
            "percentunit",
            Query(
                f"sum by ({gpu}) (DCGM_FI_DEV_FB_USED) / sum by ({gpu}) (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)",
                "{{Hostname}} GPU {{gpu}}",
            ),
            thresholds=((0.95, "red"),),
            top=1,
            nothing=NO_GPU,
        ),
        course(
            "GPU engine active by pod",
            "Share of time in which the graphics engine worked, by pod: right also where GPUs are split (MIG).",
            "percentunit",
            Query("sum by (namespace, pod) (DCGM_FI_PROF_GR_ENGINE_ACTIVE)", "{{namespace}} {{pod}}"),
            nothing=NO_GPU,
        ),
        course(
            "GPU temperature",
            "Temperature of each GPU.",
            "celsius",
            Query(f"max by ({gpu}) (DCGM_FI_DEV_GPU_TEMP)", "{{Hostname}} GPU {{gpu}}"),
            thresholds=((85, "red"),),
            nothing=NO_GPU,
        ),
        course(
            "GPU power",
            "Electrical power of each GPU.",
            "watt",
            Query(f"sum by ({gpu}) (DCGM_FI_DEV_POWER_USAGE)", "{{Hostname}} GPU {{gpu}}"),
            stacked=True,
            nothing=NO_GPU,
        ),
        course(
            "GPU errors (XID)",
            "Number of the last XID error of each GPU; 0: none so far.",
            "none",
            Query(f"max by ({gpu}) (DCGM_FI_DEV_XID_ERRORS)", "{{Hostname}} GPU {{gpu}}"),
            thresholds=((1, "red"),),
            nothing=NO_GPU,
        ),
        collapsed=True,
    )
    return frame
