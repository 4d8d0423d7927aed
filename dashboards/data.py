"""Data and storage: object store, database, volumes, and the traffic of artifacts."""

from __future__ import annotations

from dashboards.common import FULL, RATE, ZERO, Board, Column, Query, course, rows, value, zero

USABLE = "minio_cluster_health_capacity_usable"
VOLUME = "kubelet_volume_stats"
USED = f"1 - sum({USABLE}_free_bytes) / sum({USABLE}_total_bytes)"


def board() -> Board:
    """Build the board."""
    frame = Board(
        "data", "Data and storage", "How full the stores are, and what goes through object store, database and MLflow."
    )
    frame.row(
        "Now",
        value(
            "Object store used",
            "Share of MinIO's usable space that is used.",
            USED,
            "percentunit",
            thresholds=FULL,
            decimals=1,
            width=3,
        ),
        value(
            "Object store free",
            "Free usable space of MinIO.",
            f"sum({USABLE}_free_bytes)",
            "bytes",
            width=3,
        ),
        value(
            "Drives offline",
            "Drives of MinIO that do not answer.",
            "sum(minio_cluster_health_drives_count) - sum(minio_cluster_health_drives_online_count)",
            thresholds=ZERO,
            width=3,
        ),
        value(
            "Objects",
            "Objects in all buckets; MinIO counts them every few minutes.",
            "sum(minio_cluster_usage_buckets_objects_count)",
            nothing="not counted yet",
            width=3,
        ),
        value(
            "Database up",
            "Whether MariaDB answers its exporter.",
            "min(mysql_up)",
            "none",
            texts={"1": ("up", "green"), "0": ("down", "red")},
            nothing="not measured",
            width=3,
            spark=False,
        ),
        value(
            "Connections used",
            "Open connections as a share of those that MariaDB allows.",
            "max(mysql_global_status_threads_connected / mysql_global_variables_max_connections)",
            "percentunit",
            thresholds=FULL,
            decimals=1,
            nothing="not measured",
            width=3,
        ),
        value(
            "Fullest volume",
            "Used share of the fullest volume. Volumes that are folders of the node (local-path) are not measured.",
            f"max({VOLUME}_used_bytes / {VOLUME}_capacity_bytes)",
            "percentunit",
            thresholds=FULL,
            nothing="not measured",
            decimals=1,
            width=3,
        ),
        value(
            "Artifact traffic",
            "Bytes of artifacts per second, up and down, through MLflow's proxy.",
            f"sum(rate(mlflow_artifact_bytes_total[{RATE}]))",
            "Bps",
            width=3,
        ),
    )
    frame.row(
        "Object store (MinIO)",
        rows(
            "Buckets",
            "Size and objects of each bucket; MinIO counts them every few minutes.",
            Query("sum by (bucket) (minio_cluster_usage_buckets_total_bytes)"),
            Query("sum by (bucket) (minio_cluster_usage_buckets_objects_count)"),
            columns=(
                Column("bucket", "Bucket"),
                Column("A", "Size", "bytes", width=90),
                Column("B", "Objects", "short", width=90),
            ),
            sort="Size",
            width=8,
            nothing="not counted yet",
        ),
        course(
            "Bucket sizes",
            "Size of each bucket; MinIO counts them every few minutes.",
            "bytes",
            Query("sum by (bucket) (minio_cluster_usage_buckets_total_bytes)", "{{bucket}}"),
            stacked=True,
            nothing="not counted yet",
        ),
        course(
            "Object store space",
            "Used and usable space of MinIO.",
            "bytes",
            Query(f"sum({USABLE}_total_bytes) - sum({USABLE}_free_bytes)", "used"),
            Query(f"sum({USABLE}_total_bytes)", "usable"),
        ),
        course(
            "Object store traffic",
            "Bytes per second that MinIO received and sent.",
            "Bps",
            Query(f"sum(rate(minio_api_requests_traffic_received_bytes[{RATE}]))", "received"),
            Query(f"sum(rate(minio_api_requests_traffic_sent_bytes[{RATE}]))", "sent"),
        ),
        course(
            "Object store requests",
            "Requests to MinIO per second, by call.",
            "reqps",
            Query(f"sum by (name) (rate(minio_api_requests_total[{RATE}]))", "{{name}}"),
            stacked=True,
        ),
        course(
            "Object store errors",
            "Requests to MinIO per second that failed: 4xx are mistakes of callers (or objects that are not there), 5xx MinIO's own.",
            "reqps",
            Query(zero(f"sum(rate(minio_api_requests_4xx_errors_total[{RATE}]))", "minio_api_requests_total"), "4xx"),
            Query(zero(f"sum(rate(minio_api_requests_5xx_errors_total[{RATE}]))", "minio_api_requests_total"), "5xx"),
        ),
    )
    frame.row(
        "Database (MariaDB)",
        course(
            "Database connections",
            "Open connections, those that work, and how many are allowed.",
            "none",
            Query("sum(mysql_global_status_threads_connected)", "open"),
            Query("sum(mysql_global_status_threads_running)", "working"),
            Query("sum(mysql_global_variables_max_connections)", "allowed"),
            dashed="allowed",
            nothing="not measured",
        ),
        course(
            "Database queries",
            "Queries per second, and those that took longer than long_query_time.",
            "short",
            Query(f"sum(rate(mysql_global_status_queries[{RATE}]))", "queries"),
            Query(f"sum(rate(mysql_global_status_slow_queries[{RATE}]))", "slow"),
            nothing="not measured",
        ),
        course(
            "Database connection errors",
            "Connections per second that ended in an error or were given up.",
            "short",
            Query(f"sum(rate(mysql_global_status_connection_errors_total[{RATE}]))", "errors"),
            Query(f"sum(rate(mysql_global_status_aborted_connects[{RATE}]))", "given up"),
            nothing="not measured",
        ),
        course(
            "Database traffic",
            "Bytes per second that MariaDB received and sent.",
            "Bps",
            Query(f"sum(rate(mysql_global_status_bytes_received[{RATE}]))", "received"),
            Query(f"sum(rate(mysql_global_status_bytes_sent[{RATE}]))", "sent"),
            nothing="not measured",
        ),
        course(
            "Database reads from disk",
            "Share of page reads that MariaDB did not find in its buffer pool. High for long: give it more memory.",
            "percentunit",
            Query(
                f"sum(rate(mysql_global_status_innodb_buffer_pool_reads[{RATE}]))"
                f" / (sum(rate(mysql_global_status_innodb_buffer_pool_read_requests[{RATE}])) > 0)",
                "from disk",
            ),
            thresholds=((0.05, "red"),),
            nothing="not measured",
        ),
        course(
            "Database waits for row locks",
            "How often per second a statement waited for a row that another one holds.",
            "short",
            Query(f"sum(rate(mysql_global_status_innodb_row_lock_waits[{RATE}]))", "waits"),
            nothing="not measured",
        ),
    )
    frame.row(
        "Volumes",
        rows(
            "Volumes used",
            "Used share of each volume. Volumes that are folders of the node (local-path) are not measured.",
            Query(f"max by (namespace, persistentvolumeclaim) ({VOLUME}_used_bytes / {VOLUME}_capacity_bytes)"),
            Query(f"max by (namespace, persistentvolumeclaim) ({VOLUME}_used_bytes)"),
            Query(f"max by (namespace, persistentvolumeclaim) ({VOLUME}_capacity_bytes)"),
            columns=(
                Column("persistentvolumeclaim", "Claim"),
                Column("namespace", "Namespace", width=120),
                Column("A", "Full", "percentunit", FULL, width=90),
                Column("B", "Used", "bytes", width=100),
                Column("C", "Size", "bytes", width=100),
            ),
            sort="Full",
            nothing="not measured here: volumes are folders of the node",
        ),
        course(
            "Prometheus storage",
            "Size of Prometheus' own data: blocks on its volume, log of the last hours, and blocks in memory mapping.",
            "bytes",
            Query("sum(prometheus_tsdb_storage_blocks_bytes)", "blocks"),
            Query("sum(prometheus_tsdb_wal_storage_size_bytes)", "log"),
            stacked=True,
            width=6,
        ),
        course(
            "Prometheus series",
            "Series that Prometheus holds in memory.",
            "short",
            Query("sum(prometheus_tsdb_head_series)", "series"),
            width=6,
        ),
    )
    frame.row(
        "MLflow",
        course(
            "Artifact traffic through MLflow",
            "Bytes of artifacts per second through MLflow's proxy.",
            "Bps",
            Query(f"sum by (direction) (rate(mlflow_artifact_bytes_total[{RATE}]))", "{{direction}}"),
        ),
        course(
            "Artifact requests through MLflow",
            "Uploads and downloads of artifacts per second, by HTTP status.",
            "reqps",
            Query(
                f"sum by (direction, status) (rate(mlflow_artifact_requests_total[{RATE}]))", "{{direction}} {{status}}"
            ),
        ),
        course(
            "MLflow latency",
            "Half and 95 % of MLflow's requests were answered faster than this.",
            "s",
            *(
                Query(
                    f"histogram_quantile({q}, sum by (le) (rate(mlflow_http_request_duration_seconds_bucket[{RATE}]))) >= 0",
                    name,
                )
                for q, name in ((0.5, "p50"), (0.95, "p95"))
            ),
            nothing="no requests",
        ),
    )
    return frame
