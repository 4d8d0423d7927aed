"""Which series the boards read beside recorded ones, by who gives them: no board reads any other.

A panel whose source is off on a cluster says so in place of a curve; tests leave it out by the name of its source.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Who gives the series."""

    name: str
    job: str
    """Prometheus' job that scrapes them."""
    metrics: tuple[str, ...]
    present: str = ""
    """Expression with series where the source is on; empty: always."""


SOURCES = (
    Source("Prometheus", "", ("up", "ALERTS")),
    Source(
        "Prometheus' own metrics",
        "prometheus",
        (
            "prometheus_tsdb_storage_blocks_bytes",
            "prometheus_tsdb_wal_storage_size_bytes",
            "prometheus_tsdb_head_series",
        ),
    ),
    Source(
        "the gateway",
        "parts",
        (
            "traefik_router_requests_total",
            "traefik_router_request_duration_seconds_bucket",
            "traefik_router_requests_bytes_total",
            "traefik_router_responses_bytes_total",
        ),
    ),
    Source(
        "the model server",
        "models",
        (
            "model_server_requests_total",
            "model_server_request_duration_seconds_bucket",
            "model_server_request_duration_seconds_sum",
            "model_server_model_calls_total",
            "model_server_model_rows_total",
        ),
    ),
    Source(
        "MLflow",
        "parts",
        (
            "mlflow_http_request_total",
            "mlflow_http_request_duration_seconds_bucket",
            "mlflow_artifact_bytes_total",
            "mlflow_artifact_requests_total",
        ),
        'up{component="mlflow"}',
    ),
    Source(
        "MinIO",
        "parts",
        (
            "minio_cluster_health_capacity_usable_total_bytes",
            "minio_cluster_health_capacity_usable_free_bytes",
            "minio_cluster_health_drives_count",
            "minio_cluster_health_drives_online_count",
            "minio_cluster_usage_buckets_total_bytes",
            "minio_cluster_usage_buckets_objects_count",
            "minio_api_requests_traffic_received_bytes",
            "minio_api_requests_traffic_sent_bytes",
            "minio_api_requests_total",
            "minio_api_requests_4xx_errors_total",
            "minio_api_requests_5xx_errors_total",
        ),
        'up{component="minio"}',
    ),
    Source(
        "MariaDB",
        "parts",
        (
            "mysql_up",
            "mysql_global_status_threads_connected",
            "mysql_global_status_threads_running",
            "mysql_global_variables_max_connections",
            "mysql_global_status_queries",
            "mysql_global_status_slow_queries",
            "mysql_global_status_connection_errors_total",
            "mysql_global_status_aborted_connects",
            "mysql_global_status_bytes_received",
            "mysql_global_status_bytes_sent",
            "mysql_global_status_innodb_buffer_pool_reads",
            "mysql_global_status_innodb_buffer_pool_read_requests",
            "mysql_global_status_innodb_row_lock_waits",
        ),
        'up{component="mariadb"}',
    ),
    Source(
        "Kubeflow Pipelines",
        "parts",
        (
            "argo_workflows_gauge",
            "argo_workflows_total_count",
            "argo_workflows_pods_gauge",
            "argo_workflows_error_count",
            "argo_workflows_queue_depth_gauge",
            "argo_workflows_workers_busy_count",
            "run_server_create_requests",
            "experiment_server_run_count",
            "pipeline_server_pipeline_count",
        ),
        'up{component="pipelines"}',
    ),
    Source(
        "the kubelet's cadvisor",
        "throttling",
        ("container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total"),
        "container_cpu_cfs_periods_total",
    ),
    Source(
        "volumes that the kubelet measures (folders of the node are not)",
        "volumes",
        ("kubelet_volume_stats_used_bytes", "kubelet_volume_stats_capacity_bytes"),
        "kubelet_volume_stats_used_bytes",
    ),
    Source(
        "a model with a latency objective",
        "",
        ("model:latency_objective:seconds", "model:latency_objective_ratio:rate5m"),
        "model:latency_objective:seconds",
    ),
    Source("a certificate", "", ("certificate:expires_in:seconds",), 'up{job="certificates"}'),
    Source("the probes", "probes", ("probe_duration_seconds",), 'up{job="probes"}'),
    Source(
        "NVIDIA's DCGM exporter",
        "gpus",
        (
            "DCGM_FI_DEV_GPU_UTIL",
            "DCGM_FI_DEV_FB_USED",
            "DCGM_FI_DEV_FB_FREE",
            "DCGM_FI_DEV_GPU_TEMP",
            "DCGM_FI_DEV_POWER_USAGE",
            "DCGM_FI_DEV_XID_ERRORS",
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        ),
        "DCGM_FI_DEV_GPU_UTIL",
    ),
)
