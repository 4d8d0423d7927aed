"""What a run costs: CPU, memory and GPU of pipeline runs, by run and by step."""

from __future__ import annotations

from dashboards.common import Board, Column, Query, bars, course, none, rows, value, zero

CHOSEN = 'pipeline=~"$pipeline"'
#: Series of runs that are over count too: the highest value of a sum that only grows is the whole.
CPU = f"max_over_time(run_step:cpu_seconds:total{{{CHOSEN}}}[$__range:30s])"
#: Bytes of memory at each half minute, added up: GiB-hours.
MEMORY = (
    "sum_over_time((sum by (namespace, pod) (container_memory_working_set_bytes)"
    f" * on (namespace, pod) group_left (run, step, pipeline) run_pod:info{{{CHOSEN}}})[$__range:30s])"
    " * 30 / 3600 / 2^30"
)
GPU = f"sum_over_time(run_step:gpus{{{CHOSEN}}}[$__range:30s]) * 30 / 3600"
PEAK = f"max_over_time(run_step:memory_bytes:max{{{CHOSEN}}}[$__range:30s])"
SECONDS = f"count_over_time(run_pod:info{{{CHOSEN}}}[$__range:30s]) * 30"


def board() -> Board:
    """Build the board."""
    frame = Board("costs", "What a run costs", "CPU, memory and GPU of pipeline runs, by run and by step.", hours=6)
    frame.choice("pipeline", "Pipeline", "label_values(run_pod:info, pipeline)")
    frame.row(
        "In the chosen time",
        value(
            "Runs",
            "Runs of which pods were seen.",
            zero(f"count(count by (namespace, run) (max_over_time(run_pod:info{{{CHOSEN}}}[$__range])))"),
            decimals=0,
            width=4,
            spark=False,
        ),
        value(
            "Core-hours of runs",
            "One core for one hour is one core-hour.",
            zero(f"sum({CPU}) / 3600"),
            decimals=3,
            width=5,
            spark=False,
        ),
        value(
            "GiB-hours of runs",
            "One GiB of memory for one hour is one GiB-hour.",
            zero(f"sum({MEMORY})"),
            decimals=3,
            width=5,
            spark=False,
        ),
        value(
            "GPU-hours of runs",
            "One GPU for one hour, whether it worked or not.",
            zero(f"sum({GPU})"),
            decimals=3,
            width=5,
            spark=False,
        ),
        value(
            "Cores that runs use now",
            "Cores that pods of runs use now.",
            zero(
                "sum(sum by (namespace, pod) (rate(container_cpu_usage_seconds_total[$__rate_interval]))"
                f" * on (namespace, pod) group_left () run_pod:info{{{CHOSEN}}})"
            ),
            width=5,
        ),
    )
    frame.row(
        "By run",
        rows(
            "Cost of each run",
            "CPU, memory and GPU of each run in the chosen time, and how long its pods ran, added up.",
            Query(none(f"sum by (pipeline, run) ({CPU}) / 3600", "run", "pipeline")),
            Query(none(f"sum by (pipeline, run) ({MEMORY})", "run", "pipeline")),
            Query(none(f"max by (pipeline, run) ({PEAK})", "run", "pipeline")),
            Query(none(f"sum by (pipeline, run) ({GPU})", "run", "pipeline")),
            Query(none(f"sum by (pipeline, run) ({SECONDS})", "run", "pipeline")),
            columns=(
                Column("pipeline", "Pipeline"),
                Column("run", "Run"),
                Column("A", "Core-hours"),
                Column("B", "GiB-hours"),
                Column("C", "Peak memory", "bytes"),
                Column("D", "GPU-hours"),
                Column("E", "Time of pods", "s"),
            ),
            sort="Core-hours",
            width=24,
            height=9,
        ),
    )
    frame.row(
        "By step",
        bars(
            "CPU by step",
            "CPU seconds of each step in the chosen time, over all chosen runs.",
            "s",
            Query(none(f"sort_desc(sum by (pipeline, step) ({CPU}))", "step", "pipeline"), "{{pipeline}} {{step}}"),
            thresholds=((None, "blue"),),
            height=10,
        ),
        bars(
            "Peak memory by step",
            "Most memory that a pod of each step used, over all chosen runs: what its memory request has to be.",
            "bytes",
            Query(none(f"sort_desc(max by (pipeline, step) ({PEAK}))", "step", "pipeline"), "{{pipeline}} {{step}}"),
            thresholds=((None, "blue"),),
            height=10,
        ),
        bars(
            "GPU-hours by step",
            "GPUs that the pods of each step held, times how long.",
            "short",
            Query(none(f"sort_desc(sum by (pipeline, step) ({GPU}))", "step", "pipeline"), "{{pipeline}} {{step}}"),
            thresholds=((None, "blue"),),
            height=10,
        ),
        rows(
            "Cost of each step of each run",
            "CPU, memory and GPU of each step in the chosen time.",
            Query(none(f"sum by (pipeline, run, step) ({CPU})", "step", "run", "pipeline")),
            Query(none(f"sum by (pipeline, run, step) ({MEMORY})", "step", "run", "pipeline")),
            Query(none(f"max by (pipeline, run, step) ({PEAK})", "step", "run", "pipeline")),
            Query(none(f"sum by (pipeline, run, step) ({SECONDS})", "step", "run", "pipeline")),
            columns=(
                Column("pipeline", "Pipeline"),
                Column("run", "Run"),
                Column("step", "Step"),
                Column("A", "CPU", "s"),
                Column("B", "GiB-hours"),
                Column("C", "Peak memory", "bytes"),
                Column("D", "Time of pods", "s"),
            ),
            sort="CPU",
            width=24,
            height=12,
        ),
    )
    use = "* on (namespace, pod) group_left (run, step, pipeline)"
    frame.row(
        "Over time",
        course(
            "CPU of runs by step",
            "Cores that the pods of each step use.",
            "short",
            Query(
                none(
                    "sum by (pipeline, step) (sum by (namespace, pod) (rate(container_cpu_usage_seconds_total[$__rate_interval]))"
                    f" {use} run_pod:info{{{CHOSEN}}})",
                    "step",
                    "pipeline",
                ),
                "{{pipeline}} {{step}}",
            ),
            stacked=True,
            width=12,
        ),
        course(
            "Memory of runs by step",
            "Working set of the pods of each step.",
            "bytes",
            Query(
                none(
                    "sum by (pipeline, step) (sum by (namespace, pod) (container_memory_working_set_bytes)"
                    f" {use} run_pod:info{{{CHOSEN}}})",
                    "step",
                    "pipeline",
                ),
                "{{pipeline}} {{step}}",
            ),
            stacked=True,
            width=12,
        ),
    )
    frame.row(
        "GPUs of runs (DCGM exporter)",
        course(
            "GPU utilization by step",
            "How busy the GPUs of each step are: below the GPUs that it holds, it waits for data.",
            "percentunit",
            Query(
                f"avg by (pipeline, step) (DCGM_FI_PROF_GR_ENGINE_ACTIVE {use} run_pod:info{{{CHOSEN}}})",
                "{{pipeline}} {{step}}",
            ),
            top=1,
            width=12,
            nothing="no GPU metrics: needs NVIDIA's DCGM exporter",
        ),
        course(
            "GPU memory by step",
            "Frame buffer that the pods of each step use.",
            "bytes",
            Query(
                f"sum by (pipeline, step) (DCGM_FI_DEV_FB_USED * 2^20 {use} run_pod:info{{{CHOSEN}}})",
                "{{pipeline}} {{step}}",
            ),
            width=12,
            nothing="no GPU metrics: needs NVIDIA's DCGM exporter",
        ),
        collapsed=True,
    )
    return frame
