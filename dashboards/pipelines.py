"""Pipelines: runs of Kubeflow Pipelines, what they wait for, and the parts that drive them."""

from __future__ import annotations

from dashboards.common import ARGO, PHASES, PODS, RATE, RUN_PAGE, Board, Column, Query, course, none, rows, value, zero

OFF = "Kubeflow Pipelines is off"
API = 'route=~".+-pipelines"'


def ended(phase: str) -> str:
    """Runs that came into a phase in the chosen time; Argo counts a phase from its first event on, which `increase()` misses."""
    now = f'max_over_time(argo_workflows_total_count{{phase=~"{phase}"}}[$__range])'
    return zero(f"sum({now} - argo_workflows_total_count offset $__range or {now})", ARGO)


def board() -> Board:
    """Build the board."""
    frame = Board("pipelines", "Pipelines", "Runs of pipelines: how many, which failed, what they wait for.", hours=6)
    frame.row(
        "Now",
        value("Runs running", "Workflows that run now.", 'sum(argo_workflows_gauge{phase="Running"})', width=3),
        value(
            "Runs waiting",
            "Workflows that have not begun.",
            'sum(argo_workflows_gauge{phase="Pending"})',
            thresholds=((None, "green"), (1, "orange")),
            nothing=OFF,
            width=3,
        ),
        value(
            "Pods of runs waiting",
            "Pods of runs that are pending: no room, no GPU, an image or a volume that is not there.",
            'sum(argo_workflows_pods_gauge{phase="Pending"})',
            thresholds=((None, "green"), (1, "orange")),
            nothing=OFF,
            width=3,
        ),
        value(
            "Runs succeeded",
            "Workflows that ended well in the chosen time.",
            ended("Succeeded"),
            decimals=0,
            nothing=OFF,
            width=3,
            spark=False,
        ),
        value(
            "Runs failed",
            "Workflows that failed or ended with an error in the chosen time.",
            ended("Failed|Error"),
            thresholds=((None, "green"), (1, "red")),
            decimals=0,
            nothing=OFF,
            width=3,
            spark=False,
        ),
        value(
            "API latency p95",
            "Of users' requests in five minutes to the Pipelines API and its pages, 95 % were answered faster than this.",
            f"max(route:request_duration_seconds:p95_5m{{{API}}} >= 0)",
            "s",
            nothing="no requests",
            width=3,
        ),
        value(
            "API errors (5xx)",
            "Share of users' requests to the Pipelines API and its pages that ended with a 5xx, in five minutes.",
            zero(f"max(route:request_error_ratio:rate5m{{{API}}})", ARGO),
            "percentunit",
            thresholds=((None, "green"), (0.005, "orange"), (0.01, "red")),
            decimals=2,
            nothing=OFF,
            width=3,
        ),
        value(
            "Controller errors",
            "Errors of the workflow controller in the chosen time.",
            "round(sum(increase(argo_workflows_error_count[$__range])))",
            thresholds=((None, "green"), (1, "red")),
            decimals=0,
            nothing=OFF,
            width=3,
            spark=False,
        ),
    )
    frame.row(
        "Runs",
        course(
            "Runs by phase",
            "Workflows in the cluster by phase; those that ended stay until they are cleaned up.",
            "none",
            Query("sum by (phase) (argo_workflows_gauge)", "{{phase}}"),
            colors=PHASES,
            nothing=OFF,
        ),
        course(
            "Runs that ended, per hour",
            "How many workflows ended within the hour before, by how they ended.",
            "none",
            Query(none("sum by (phase) (runs:ended:increase1h)", "phase", ARGO), "{{phase}}"),
            colors=PHASES,
        ),
        course(
            "Pods of runs by phase",
            "Pods of runs that are pending or running.",
            "none",
            Query("sum by (phase) (argo_workflows_pods_gauge)", "{{phase}}"),
            colors=PHASES,
            nothing=OFF,
        ),
        rows(
            "Durations of steps",
            "Steps of runs in the chosen time, and how long the pods of each step were seen. Longest first.",
            Query(
                none(
                    'sum by (pipeline, step, run) (count_over_time(pod:info{run!=""}[$__range:30s])) * 30', "step", PODS
                )
            ),
            columns=(
                Column("pipeline", "Pipeline"),
                Column("step", "Step"),
                Column("run", "Run", link=RUN_PAGE),
                Column("A", "Duration", "s", width=90),
            ),
            sort="Duration",
            width=16,
        ),
        course(
            "Pods of runs that do not run",
            "Pods of runs that are pending, failed, unknown, or running and not ready.",
            "none",
            Query(
                none('count by (run, phase) (up{job="pods-not-running", run!=""})', "run", PODS), "{{run}} {{phase}}"
            ),
        ),
    )
    frame.row(
        "Workflow controller (Argo)",
        course(
            "Controller queues",
            "Work that waits in the queues of the workflow controller.",
            "none",
            Query("sum by (queue_name) (argo_workflows_queue_depth_gauge)", "{{queue_name}}"),
            nothing=OFF,
        ),
        course(
            "Controller workers",
            "Workers of the workflow controller that are busy, by queue.",
            "none",
            Query("sum by (worker_type) (argo_workflows_workers_busy_count)", "{{worker_type}}"),
            nothing=OFF,
        ),
        course(
            "Controller errors by cause",
            "Errors of the workflow controller per second, by cause.",
            "short",
            Query(f"sum by (cause) (rate(argo_workflows_error_count[{RATE}]))", "{{cause}}"),
            nothing=OFF,
        ),
    )
    frame.row(
        "Pipelines API",
        course(
            "Pipelines API requests",
            "Requests of users per second to the Pipelines API and its pages.",
            "reqps",
            Query(none(f"route:requests:rate5m{{{API}}}", "route", ARGO), "{{route}}"),
        ),
        course(
            "Pipelines API latency",
            "Half, 95 % and 99 % of users' requests were answered faster than this, in five minutes.",
            "s",
            *(Query(f"route:request_duration_seconds:p{p}_5m{{{API}}} >= 0", f"p{p}") for p in (50, 95, 99)),
            nothing="no requests in five minutes",
        ),
        course(
            "Runs, experiments, pipelines",
            "Change since the last start of the Pipelines API: what is deleted counts down.",
            "none",
            Query("sum(run_server_create_requests)", "runs created"),
            Query("sum(experiment_server_run_count)", "experiments"),
            Query("sum(pipeline_server_pipeline_count)", "pipelines"),
            nothing=OFF,
        ),
    )
    return frame
