"""A job: who, where and how it ran, what it drew, and how it used what it had asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import to
from facade import (
    BYTES,
    COST,
    COUNT,
    GPU_HOURS,
    GRAMS,
    HOURS,
    KWH,
    NOT_SET,
    SHARE,
    TIME,
    WATT,
    Column,
    Q,
    bars,
    choice,
    figures,
    grid,
    series,
)
from layout import board
from palette import COMPONENTS, ORANGE, STATES, VERMILION
from promql import caught_up, cost, grams, hours, kwh, priced

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from facade import Panel

J = 'cluster=~"$cluster",jobid="$jobid"'
GPUS = 'cluster=~"$cluster",instance=~"$instance",uuid=~"$uuid"'
# The GPU's own figures, only while this job holds it: before and after it is somebody else's.
HELD = f"and on (cluster, instance, uuid) jobwatt_job_gpu_allocated_seconds_total{{{J}}}"
RUNS = f"unless on (cluster, instance) jobwatt_job_end_time_seconds{{{J}}}"
GPU = "{{instance}} GPU {{gpu}}"
ABSENT = "Nothing measured for this job in this period"
GONE = "No such job in this period: choose a longer one"


def last(metric: str, by: str = "") -> str:
    """
    A counter of the job at the end of the range, over all its nodes; it began at 0 with the job.

    Once for each thing that is counted: until the job's owner is known its series have other labels.
    """
    of = "gpu, uuid" if "_gpu_" in metric else "component"
    found = f"max by (instance, {of}) (last_over_time({metric}{{{J}}}[$__range]))"
    return f"sum by ({by}) ({found})" if by else f"sum ({found})"


ENERGY = last("jobwatt_job_energy_joules_total")
HELD_S = last("jobwatt_job_gpu_allocated_seconds_total")
IDLE_S = last("jobwatt_job_gpu_idle_seconds_total")
IDLE_J = last("jobwatt_job_gpu_idle_energy_joules_total")
UNKNOWN_S = last("jobwatt_job_gpu_unknown_seconds_total")
PER_J, PER_S = "jobwatt:waste_cost:per_joule", "jobwatt:waste_cost:per_gpu_second"
GRADED, PRICED = "jobwatt:waste_co2e_grams_per_joule:avg5m", "jobwatt:waste_cost_per_joule:avg5m"
CO2E = caught_up(
    grams("job", where=J),
    [
        (
            ENERGY,
            priced("jobwatt:job_energy_joules:rate5m", J, GRADED),
            "jobwatt:waste_co2e_grams:per_joule",
        )
    ],
)
IDLE_COST = caught_up(
    cost("job", "gpu_idle_", J),
    [
        (IDLE_J, priced("jobwatt:job_gpu_idle_energy_joules:rate5m", J, PRICED), PER_J),
        (IDLE_S, priced("jobwatt:job_gpu_idle_seconds:rate5m", J, PRICED), PER_S),
    ],
)
HELD_SO_FAR = priced("jobwatt:job_gpu_allocated_seconds:rate5m", J, PRICED)
JOB_COST = caught_up(
    cost("job", where=J),
    [
        (ENERGY, priced("jobwatt:job_energy_joules:rate5m", J, PRICED), PER_J),
        (f"({HELD_S} or vector(0))", f"({HELD_SO_FAR} or vector(0))", PER_S),
    ],
)


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "jobwatt-job",
        "Job",
        "One job on all its nodes: its energy, its GPUs, CPUs and memory, and what it held without using.",
        [
            ("The job", _facts()),
            ("Power and energy", _power()),
            ("GPUs", _gpus()),
            ("CPUs and memory", _cpus()),
        ],
        [
            choice("jobid", "Job", 'label_values(jobwatt_job_info{cluster=~"$cluster"}, jobid)'),
            choice(
                "instance",
                "Node",
                f"label_values(jobwatt_job_info{{{J}}}, instance)",
                several=True,
                hidden=True,
            ),
            choice(
                "uuid",
                "GPU",
                f"label_values(jobwatt_job_gpu_allocated_seconds_total{{{J}}}, uuid)",
                several=True,
                hidden=True,
            ),
        ],
    )


def _facts() -> list[Panel]:
    who = "user, account, partition"
    return [
        grid(
            "Who and what",
            "Who runs the job, and what it was asked for as.",
            [
                Column("user", "User", link=to.user("${__value.raw:percentencode}")),
                Column("account", "Lab", link=to.lab("${__value.raw:percentencode}")),
                Column("partition", "Partition"),
                Column("name", "Name"),
                Column("qos", "QOS"),
                Column("array_job_id", "Array"),
            ],
            Q(
                f"group by ({who}, name, qos, array_job_id) (last_over_time(jobwatt_job_info{{{J}}}[$__range]))"
            ),
            size=(24, 4),
            empty=GONE,
        ),
        grid(
            "When, and how it ended",
            "When the job began, ended and has to end, and how it ended, in Slurm's words.",
            [
                Column("Value #A", "Started", TIME),
                Column("Value #B", "Ended", TIME),
                Column("Value #C", "Time limit", TIME),
                Column("state", "State", colours=STATES),
                Column("exit_code", "Exit code"),
            ],
            Q(
                f"min by ({who}) (last_over_time(jobwatt_job_start_time_seconds{{{J}}}[$__range])) * 1000"
            ),
            Q(
                f"max by ({who}) (last_over_time(jobwatt_job_end_time_seconds{{{J}}}[$__range])) * 1000"
            ),
            Q(
                f"max by ({who}) (last_over_time(jobwatt_job_limit_time_seconds{{{J}}}[$__range])) * 1000"
            ),
            Q(
                f"group by ({who}, state, exit_code) (last_over_time(jobwatt_job_exit_info{{{J}}}[$__range]))"
            ),
            size=(24, 4),
            empty=GONE,
        ),
        figures(
            "Energy",
            "Energy that the job is charged with on all its nodes, from its start to the end of the range on show.",
            KWH,
            Q(kwh(ENERGY)),
            size=(6, 4),
            empty=ABSENT,
        ),
        figures(
            "CO2e",
            "Grams of CO2 equivalent of this energy, PUE included, with the carbon intensity of each five minutes.",
            GRAMS,
            Q(CO2E),
            size=(6, 4),
            empty=NOT_SET,
        ),
        figures(
            "Cost",
            "What this energy cost at the price of each five minutes, PUE included, and the GPUs held at theirs, in the "
            "site's currency.",
            COST,
            Q(JOB_COST),
            decimals=2,
            size=(6, 4),
            empty=NOT_SET,
        ),
        figures(
            "Measured",
            "Share of the job's seconds that jobwatt measured, on the node where it is least.",
            SHARE,
            Q(f"min (last_over_time(jobwatt_job_coverage_ratio{{{J}}}[$__range]))"),
            size=(6, 4),
            decimals=1,
            empty=ABSENT,
        ),
        figures(
            "GPU time",
            "GPU hours that the job has held since its start, used or not.",
            GPU_HOURS,
            Q(hours(HELD_S)),
            size=(8, 4),
            decimals=1,
            empty="No GPU",
        ),
        figures(
            "Not used",
            "Share of the GPU time in which no kernel ran, of the time for which that is known.",
            SHARE,
            Q(f"{IDLE_S} / ({HELD_S} - ({UNKNOWN_S}) > 0)"),
            size=(8, 4),
            decimals=0,
            steps=[(None, "text"), (0.25, ORANGE), (0.75, VERMILION)],
            empty="Unknown",
        ),
        figures(
            "Cost of it",
            "What the unused GPU time cost, in the site's currency.",
            COST,
            Q(IDLE_COST),
            decimals=2,
            size=(8, 4),
            empty=NOT_SET,
        ),
    ]


def _power() -> list[Panel]:
    fed = f"jobwatt_job_component_measured_seconds_total{{{J}}}"
    by = "component, source, quality"
    return [
        grid(
            "Where the figures come from",
            "Which source fed each component of the job, on all its nodes together, whether it measured or estimated, and for "
            "how long: a component that was fed for less than the others has a gap.",
            [
                Column("component", "Component", width=110),
                Column("source", "Source"),
                Column("quality", "Quality", width=110),
                Column("Value", "Fed for", "s", width=110, decimals=0),
            ],
            Q(f"sum by ({by}) (max by (instance, {by}) (last_over_time({fed}[$__range])))"),
            size=(24, 6),
            empty=ABSENT,
        ),
        series(
            "Power by component",
            "What the job draws on all its nodes, stacked by component.",
            WATT,
            Q(
                f"sum by (component) (rate(jobwatt_job_energy_joules_total{{{J}}}[$__rate_interval]))",
                "{{component}}",
            ),
            size=(12, 8),
            stack=True,
            colours=COMPONENTS,
            empty=ABSENT,
        ),
        series(
            "Power by node",
            "What the job draws on each of its nodes, stacked.",
            WATT,
            Q(
                f"sum by (instance) (rate(jobwatt_job_energy_joules_total{{{J}}}[$__rate_interval]))",
                "{{instance}}",
            ),
            size=(12, 8),
            stack=True,
            empty=ABSENT,
        ),
        bars(
            "Energy by component",
            "Energy since the job's start, by component.",
            KWH,
            Q(
                f"sort_desc({kwh(last('jobwatt_job_energy_joules_total', 'component'))})",
                "{{component}}",
            ),
            size=(12, 6),
            colours=COMPONENTS,
            empty=ABSENT,
        ),
        bars(
            "Energy by node",
            "Energy since the job's start, by node.",
            KWH,
            Q(
                f"sort_desc({kwh(last('jobwatt_job_energy_joules_total', 'instance'))})",
                "{{instance}}",
            ),
            size=(12, 6),
            empty=ABSENT,
        ),
    ]


def _gpus() -> list[Panel]:
    return [
        series(
            "GPU use",
            "Share of the time in which a kernel ran, for each GPU. A GPU can be in use all the time and still do "
            "little: see SM activity.",
            SHARE,
            Q(f"jobwatt_job_gpu_utilization_ratio{{{J}}} {RUNS}", GPU),
            size=(12, 8),
            bounds=(0, 1),
            empty="No GPU, or nothing tells its use (slices of an A100)",
        ),
        series(
            "SM activity, tensor cores, memory bandwidth",
            "Means over the job's GPUs: share of the streaming multiprocessors' cycles with work on them, of cycles "
            "with a tensor core in use, and of the device memory's bandwidth. Measured from Hopper (H100) on.",
            SHARE,
            Q(f"avg (jobwatt_gpu_sm_active_ratio{{{GPUS}}} {HELD})", "SMs active"),
            Q(f"avg (jobwatt_gpu_sm_occupancy_ratio{{{GPUS}}} {HELD})", "SM occupancy"),
            Q(f"avg (jobwatt_gpu_tensor_active_ratio{{{GPUS}}} {HELD})", "tensor cores"),
            Q(f"avg (jobwatt_gpu_dram_active_ratio{{{GPUS}}} {HELD})", "memory bandwidth"),
            size=(12, 8),
            bounds=(0, 1),
            empty="Not measured on these GPUs (it is from Hopper on)",
        ),
        series(
            "GPU memory",
            "Memory in use on each GPU; the dashed line is what the largest of them has.",
            BYTES,
            Q(f"jobwatt_job_gpu_memory_used_bytes{{{J}}} {RUNS}", GPU),
            Q(f"max (jobwatt_gpu_memory_total_bytes{{{GPUS}}} {HELD})", "there is"),
            size=(12, 8),
            lines=["there is"],
            empty="No GPU",
        ),
        series(
            "GPU power",
            "What each GPU draws for this job. One that is held and idle still draws its idle power.",
            WATT,
            Q(
                f"sum by (instance, gpu, uuid) (rate(jobwatt_job_gpu_energy_joules_total{{{J}}}[$__rate_interval]))",
                GPU,
            ),
            size=(12, 8),
            empty="No GPU",
        ),
        series(
            "SM clocks",
            "Clock of each GPU's streaming multiprocessors. It falls when the GPU idles, is hot, or is at its power limit.",
            "hertz",
            Q(f"jobwatt_gpu_sm_clock_hertz{{{GPUS}}} {HELD}", GPU),
            size=(8, 8),
            empty="No GPU",
        ),
        series(
            "Clocks held down",
            "Share of the time in which the driver held a GPU's clocks down, by reason; power cap is usual under full load.",
            SHARE,
            Q(
                "sum by (instance, gpu, reason) ("
                f"rate(jobwatt_gpu_throttle_seconds_total{{{GPUS}}}[$__rate_interval]) {HELD}) > 0",
                "{{instance}} GPU {{gpu}}: {{reason}}",
            ),
            size=(8, 8),
            empty="Never in this period",
        ),
        series(
            "GPU temperature",
            "Temperature of each GPU while the job holds it.",
            "celsius",
            Q(f"jobwatt_gpu_temperature_celsius{{{GPUS}}} {HELD}", GPU),
            size=(8, 8),
            bounds=(None, None),
            empty="No GPU, or slices of one",
        ),
        _each_gpu(),
    ]


def _each_gpu() -> Panel:
    by = "instance, gpu, uuid"
    held, idle = (
        last(f"jobwatt_job_gpu_{what}_seconds_total", by) for what in ("allocated", "idle")
    )
    unknown, used = (
        last(f"jobwatt_job_gpu_{what}_seconds_total", by) for what in ("unknown", "utilization")
    )
    return grid(
        "Each GPU",
        "What the job held and how it was used, since its start: hours held, mean use, hours idle, and energy. Of a "
        "partitioned GPU the profile of the slice is shown.",
        [
            Column("instance", "Node", link=to.node("${__value.raw:percentencode}"), width=80),
            Column("gpu", "GPU", width=50),
            Column("model", "Model"),
            Column("mig_profile", "Slice", width=75),
            Column("Value #A", "Held", HOURS, width=80, decimals=1),
            Column("Value #B", "Mean use", SHARE, bar=True, decimals=0),
            Column("Value #C", "Idle", HOURS, width=80, decimals=1),
            Column("Value #D", "Energy", KWH, width=100, decimals=2),
            Column("Value #E", "Unused energy", KWH, width=120, decimals=2),
        ],
        Q(hours(held)),
        Q(f"{used} / ({held} - ({unknown}) > 0)"),
        Q(hours(idle)),
        Q(kwh(last("jobwatt_job_gpu_energy_joules_total", by))),
        Q(kwh(last("jobwatt_job_gpu_idle_energy_joules_total", by))),
        Q(
            f"group by ({by}, model, mig_profile) (last_over_time(jobwatt_gpu_info{{{GPUS}}}[$__range]) "
            f"and on (cluster, instance, uuid) last_over_time(jobwatt_job_gpu_allocated_seconds_total{{{J}}}[$__range]))"
        ),
        size=(24, 8),
        sort="Held",
        empty="No GPU",
    )


def _cpus() -> list[Panel]:
    return [
        series(
            "CPUs",
            "CPUs in use, and those that the job has reserved (dashed), on all its nodes.",
            COUNT,
            Q(f"sum (rate(jobwatt_job_cpu_seconds_total{{{J}}}[$__rate_interval]))", "in use"),
            Q(f"sum (jobwatt_job_cpus{{{J}}} {RUNS})", "reserved"),
            size=(12, 8),
            lines=["reserved"],
            empty=ABSENT,
        ),
        series(
            "Memory",
            "Memory in use without page cache, and the job's limit (dashed), on all its nodes.",
            BYTES,
            Q(f"sum (jobwatt_job_memory_used_bytes{{{J}}} {RUNS})", "in use"),
            Q(f"sum (jobwatt_job_memory_limit_bytes{{{J}}} {RUNS})", "limit"),
            size=(12, 8),
            lines=["limit"],
            empty=ABSENT,
        ),
        grid(
            "What its owner is told",
            "Alerts about this job that fire at the end of the range on show.",
            [Column("alertname", "Alert"), Column("alertstate", "State", width=120)],
            Q(f"group by (alertname, alertstate) (ALERTS{{{J}}})"),
            size=(24, 5),
            empty="No alert about this job",
        ),
    ]
