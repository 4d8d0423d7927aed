"""What a run costs: CPU, memory and GPU of pipeline runs, by run and by step."""

from __future__ import annotations

from dashboards.common import NO_GPU, PLAIN, PODS, RUN_PAGE, Board, Column, Query, bars, course, none, rows, value, zero

CHOSEN = 'run!="", pipeline=~"$pipeline"'
#: Series of runs that are over count too: the highest value of a sum that only grows is the whole.
CPU = f"max_over_time(run_step:cpu_seconds:total{{{CHOSEN}}}[$__range:30s])"
#: A value at each half minute, added up: hours.
HOURS = "[$__range:30s]) * 30 / 3600"
MEMORY = f"sum_over_time(run_step:memory:bytes{{{CHOSEN}}}{HOURS} / 2^30"
PEAK = f"max_over_time(run_step:memory:bytes{{{CHOSEN}}}[$__range:30s])"
SECONDS = f"count_over_time(pod:info{{{CHOSEN}}}[$__range:30s]) * 30"
#: With labels of the run, for series of pods.
JOIN = f"* on (namespace, pod) group_left (run, step, pipeline) pod:info{{{CHOSEN}}}"
GPU = f'sum_over_time((count by (namespace, pod) (DCGM_FI_DEV_FB_USED{{pod!=""}}) {JOIN}){HOURS}'


def cost(expr: str, by: str) -> str:
    """A cost by these labels: 0 for runs whose pods were too short to be measured, and one row `none` without runs."""
    return none(f"{expr} or 0 * sum by ({by}) ({SECONDS})", by.split(", ")[-1], PODS)


def board() -> Board:
    """Build the board."""
    frame = Board("costs", "What a run costs", "CPU, memory and GPU of pipeline runs, by run and by step.", hours=6)
    frame.choice("pipeline", "Pipeline", 'label_values(pod:info{run!=""}, pipeline)')
    frame.row(
        "In the chosen time",
        value(
            "Runs",
            "Runs of which pods were seen.",
            zero(f"count(count by (namespace, run) (max_over_time(pod:info{{{CHOSEN}}}[$__range])))", PODS),
            decimals=0,
            spark=False,
        ),
        value(
            "Core-hours of runs",
            "One core for one hour is one core-hour.",
            zero(f"sum({CPU}) / 3600", PODS),
            decimals=3,
            width=5,
            spark=False,
        ),
        value(
            "GiB-hours of runs",
            "One GiB of memory for one hour is one GiB-hour.",
            zero(f"sum({MEMORY})", PODS),
            decimals=3,
            width=5,
            spark=False,
        ),
        value(
            "GPU-hours of runs",
            "One GPU for one hour, whether it worked or not.",
            zero(f"sum({GPU})", PODS),
            decimals=3,
            width=5,
            spark=False,
        ),
        value(
            "Cores that runs use now",
            "Cores that pods of runs use now.",
            zero(f"sum(pod:cpu_usage:cores{{{CHOSEN}}})", PODS),
            width=5,
        ),
    )
    run, step, all_three = "pipeline, run", "pipeline, step", "pipeline, run, step"
    frame.row(
        "By run",
        rows(
            "Cost of each run",
            "CPU, memory and GPU of each run in the chosen time, and how long its pods ran, added up. Steps of a few seconds count as 0.",
            Query(cost(f"sum by ({run}) ({CPU}) / 3600", run)),
            Query(cost(f"sum by ({run}) ({MEMORY})", run)),
            Query(cost(f"max by ({run}) ({PEAK})", run)),
            Query(cost(f"sum by ({run}) ({GPU})", run)),
            Query(none(f"sum by ({run}) ({SECONDS})", "run", PODS)),
            columns=(
                Column("pipeline", "Pipeline"),
                Column("run", "Run", link=RUN_PAGE),
                Column("A", "Core-hours", "short"),
                Column("B", "GiB-hours", "short"),
                Column("C", "Peak memory", "bytes"),
                Column("D", "GPU-hours", "short"),
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
            Query(f"sort_desc({cost(f'sum by ({step}) ({CPU})', step)})", "{{pipeline}} {{step}}"),
            thresholds=PLAIN,
            height=10,
        ),
        bars(
            "Peak memory by step",
            "Most memory that the pods of each step used at once, of all chosen runs: what the memory request has to hold.",
            "bytes",
            Query(f"sort_desc({cost(f'max by ({step}) ({PEAK})', step)})", "{{pipeline}} {{step}}"),
            thresholds=PLAIN,
            height=10,
        ),
        bars(
            "GPU-hours by step",
            "GPUs that the pods of each step held, times how long.",
            "short",
            Query(f"sort_desc({cost(f'sum by ({step}) ({GPU})', step)})", "{{pipeline}} {{step}}"),
            thresholds=PLAIN,
            height=10,
        ),
        rows(
            "Cost of each step of each run",
            "CPU, memory and time of each step of each run in the chosen time.",
            Query(cost(f"sum by ({all_three}) ({CPU})", all_three)),
            Query(cost(f"sum by ({all_three}) ({MEMORY})", all_three)),
            Query(cost(f"max by ({all_three}) ({PEAK})", all_three)),
            Query(none(f"sum by ({all_three}) ({SECONDS})", "step", PODS)),
            columns=(
                Column("pipeline", "Pipeline"),
                Column("run", "Run", link=RUN_PAGE),
                Column("step", "Step"),
                Column("A", "CPU", "s"),
                Column("B", "GiB-hours", "short"),
                Column("C", "Peak memory", "bytes"),
                Column("D", "Time of pods", "s"),
            ),
            sort="CPU",
            width=24,
            height=12,
        ),
    )
    frame.row(
        "Over time",
        course(
            "CPU of runs by step",
            "Cores that the pods of each step use.",
            "short",
            Query(
                none(f"sum by (pipeline, step) (pod:cpu_usage:cores{{{CHOSEN}}})", "step", PODS),
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
                none(f"sum by (pipeline, step) (pod:memory_working_set:bytes{{{CHOSEN}}})", "step", PODS),
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
                f"avg by (pipeline, step) (DCGM_FI_PROF_GR_ENGINE_ACTIVE {JOIN})",
                "{{pipeline}} {{step}}",
            ),
            top=1,
            width=12,
            nothing=NO_GPU,
        ),
        course(
            "GPU memory by step",
            "Frame buffer that the pods of each step use.",
            "bytes",
            Query(
                f"sum by (pipeline, step) (DCGM_FI_DEV_FB_USED * 2^20 {JOIN})",
                "{{pipeline}} {{step}}",
            ),
            width=12,
            nothing=NO_GPU,
        ),
        collapsed=True,
    )
    return frame
