"""A node: its sensors side by side, who uses it, what it draws for nobody, and its GPUs' health."""

from __future__ import annotations

from typing import TYPE_CHECKING

import to
from facade import (
    COUNT,
    KWH,
    SECONDS,
    SHARE,
    TIME,
    WATT,
    Column,
    Q,
    choice,
    figures,
    grid,
    series,
)
from layout import board
from palette import COMPONENTS, OWNERS, VERMILION
from promql import kwh

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from facade import Panel

N = 'cluster=~"$cluster",instance="$instance"'
GPU = "GPU {{gpu}}"
SILENT = "The node was not measured in this period"


def rate(metric: str, by: str = "") -> str:
    """What a counter of the node counts each second, summed by the labels ``by``."""
    found = f"rate({metric}{{{N}}}[$__rate_interval])"
    return f"sum by ({by}) ({found})" if by else f"sum ({found})"


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "jobwatt-node",
        "Node",
        "One node: its sensors side by side, who uses it, and the health of its GPUs.",
        [
            ("Now", _now()),
            ("Who uses it", _who()),
            ("Sensors side by side", _sensors()),
            ("Health of the GPUs", _health()),
            ("The measuring itself", _measuring()),
        ],
        [
            choice(
                "instance",
                "Node",
                'label_values(jobwatt_build_info{cluster=~"$cluster"}, instance)',
            )
        ],
    )


def _now() -> list[Panel]:
    allocated = f"sum (jobwatt:node_gpu_allocated_seconds:rate5m{{{N}}})"
    idle = f"sum (jobwatt:node_gpu_idle_seconds:rate5m{{{N}}})"
    return [
        figures(
            "Power now",
            "What the node draws, all components.",
            WATT,
            Q(f"sum (jobwatt_node_power_watts{{{N}}})"),
            size=(5, 4),
            spark=True,
            empty=SILENT,
        ),
        figures(
            "Energy",
            "Energy of the node over the time range on show.",
            KWH,
            Q(kwh(f"sum (increase(jobwatt_node_energy_joules_total{{{N}}}[$__range]))")),
            size=(5, 4),
            decimals=1,
            empty=SILENT,
        ),
        figures(
            "GPUs now",
            "GPUs of the node, allocated to jobs, and allocated but idle; means over the last five minutes. An "
            "instance of a partitioned GPU (MIG) counts as one.",
            COUNT,
            Q(f"sum (jobwatt:node_gpus:count{{{N}}})", "there"),
            Q(allocated, "allocated"),
            Q(idle, "idle"),
            size=(6, 4),
            decimals=0,
            empty="No GPU",
        ),
        figures(
            "Jobs now",
            "Jobs that run on the node now.",
            COUNT,
            Q(f"sum (jobwatt_jobs{{{N}}})"),
            size=(4, 4),
            empty=SILENT,
        ),
        figures(
            "CPU use",
            "Share of the node's CPU time that is used.",
            SHARE,
            Q(f"{rate('jobwatt_node_cpu_busy_seconds_total')} / sum (jobwatt_node_cpus{{{N}}})"),
            size=(4, 4),
            decimals=0,
            empty=SILENT,
            spark=True,
        ),
    ]


def _who() -> list[Panel]:
    runs = f"unless on (cluster, instance, jobid) jobwatt_job_end_time_seconds{{{N}}}"
    return [
        series(
            "Power by job",
            "What each job on the node is charged with, stacked; below them what daemons use (system) and what nobody "
            "has reserved (unallocated). Together they are the node.",
            WATT,
            Q(rate("jobwatt_system_energy_joules_total"), "system"),
            Q(rate("jobwatt_unallocated_energy_joules_total"), "unallocated"),
            Q(rate("jobwatt_job_energy_joules_total", "jobid, user"), "{{jobid}} {{user}}"),
            size=(24, 10),
            stack=True,
            colours=OWNERS,
            empty=SILENT,
        ),
        grid(
            "Jobs on the node now",
            "Each job's CPUs, GPUs, power and energy on this node, and since when it has run. A number opens its page.",
            [
                Column("jobid", "Job", link=to.job("${__value.raw}", "Started", "Now"), width=75),
                Column("user", "User", link=to.user("${__value.raw:percentencode}"), width=110),
                Column("account", "Lab", link=to.lab("${__value.raw:percentencode}"), width=85),
                Column("name", "Name"),
                Column("Value #B", "CPUs", COUNT, width=65),
                Column("Value #C", "GPUs", COUNT, width=65),
                Column("Value #D", "Power", WATT, bar=True, decimals=0),
                Column("Value #E", "Energy", KWH, width=100, decimals=2),
                Column("Value #F", "Started", TIME, width=140),
                Column("Value #G", "Now", TIME, hidden=True),
            ],
            Q(f"group by (jobid, user, account, name) (jobwatt_job_info{{{N}}} {runs})"),
            Q(f"sum by (jobid) (jobwatt_job_cpus{{{N}}} {runs})"),
            Q(f"count by (jobid) (jobwatt_job_gpu_allocated_seconds_total{{{N}}} {runs})"),
            Q(f"sum by (jobid) (jobwatt_job_power_watts{{{N}}} {runs})"),
            Q(kwh(f"sum by (jobid) (jobwatt_job_energy_joules_total{{{N}}} {runs})")),
            Q(f"max by (jobid) (jobwatt_job_start_time_seconds{{{N}}} {runs}) * 1000"),
            Q(f"(max by (jobid) (jobwatt_job_info{{{N}}} {runs}) * 0 + time()) * 1000"),
            size=(24, 8),
            sort="Power",
            empty="No job on this node",
        ),
        series(
            "System and unallocated energy",
            "What the node draws for no job: daemons and the kernel (system), and the idle power of what nobody has "
            "reserved (unallocated), by component.",
            WATT,
            Q(rate("jobwatt_system_energy_joules_total", "component"), "system {{component}}"),
            Q(
                rate("jobwatt_unallocated_energy_joules_total", "component"),
                "unallocated {{component}}",
            ),
            size=(12, 8),
            stack=True,
            empty=SILENT,
        ),
        grid(
            "Idle power",
            "What each device draws when nothing runs on it: measured by `jobwatt calibrate`, or learnt while the "
            "device was not allocated. It divides energy into what a reservation costs and what use costs.",
            [
                Column("component", "Component", width=95),
                Column("device", "Device"),
                Column("origin", "Known by", width=95),
                Column("Value", "Idle power", WATT, width=110, decimals=1),
            ],
            Q(f"jobwatt_idle_power_watts{{{N}}}"),
            size=(12, 8),
            sort="Idle power",
            empty="Not known yet: calibrate the drained node",
        ),
    ]


def _sensors() -> list[Panel]:
    return [
        series(
            "Power by component",
            "The node's power as jobwatt accounts for it, stacked; the dashed line is the wall meter, where there is one.",
            WATT,
            Q(rate("jobwatt_node_energy_joules_total", "component"), "{{component}}"),
            Q(rate("jobwatt_wall_energy_joules_total"), "wall meter"),
            size=(12, 9),
            stack=True,
            colours=COMPONENTS,
            lines=["wall meter"],
            empty=SILENT,
        ),
        grid(
            "Where the figures come from",
            "The source of each component's energy, whether it measures or estimates, how old its last reading is, and for "
            "what share of the time range on show it delivered.",
            [
                Column("component", "Component", width=110),
                Column("source", "Source"),
                Column("quality", "Quality", width=110),
                Column("Value #A", "Age", "s", width=80, decimals=0),
                Column("Value #B", "Covered", SHARE, width=95, decimals=1),
            ],
            Q(
                f"jobwatt_component_age_seconds{{{N}}} * on (instance, component, source) group_left (quality) "
                f"jobwatt_component_info{{{N}}}"
            ),
            Q(
                "clamp_max(sum by (component, source, quality) "
                f"(increase(jobwatt_component_measured_seconds_total{{{N}}}[$__range])) / $__range_s, 1)"
            ),
            size=(12, 9),
            empty=SILENT,
        ),
        series(
            "RAPL zones",
            "Power of each zone of the processors that RAPL measures. A core zone lies within its package.",
            WATT,
            Q(rate("jobwatt_rapl_energy_joules_total", "zone, path"), "{{zone}} ({{path}})"),
            size=(12, 8),
            empty="RAPL is not read on this node; `jobwatt doctor` says why",
        ),
        series(
            "GPU power",
            "Power of each GPU from its energy counter.",
            WATT,
            Q(rate("jobwatt_gpu_energy_joules_total", "gpu, uuid"), GPU),
            size=(12, 8),
            empty="No GPU",
        ),
        series(
            "GPU energy counter against power",
            "The energy that a GPU's counter shows over the energy that its power sums up to. 1 when both agree; "
            "more than 15 % off, one of them is not to be trusted.",
            SHARE,
            Q(f"jobwatt_gpu_energy_agreement_ratio{{{N}}}", GPU),
            size=(24, 7),
            bounds=(None, None),
            empty="No GPU, or no energy counter",
        ),
    ]


def _health() -> list[Panel]:
    return [
        series(
            "Temperature",
            "Temperature of each GPU.",
            "celsius",
            Q(f"jobwatt_gpu_temperature_celsius{{{N}}}", GPU),
            size=(8, 8),
            bounds=(None, None),
            empty="No GPU",
        ),
        series(
            "Clocks held down",
            "Share of the time in which a GPU's clocks were held down by heat or by the board's power brake. The power "
            "cap is left out: it is usual under full load.",
            SHARE,
            Q(
                "sum by (gpu, reason) (rate(jobwatt_gpu_throttle_seconds_total"
                f'{{{N},reason!="sw_power_cap"}}[$__rate_interval])) > 0',
                "GPU {{gpu}}: {{reason}}",
            ),
            size=(8, 8),
            empty="Never in this period",
        ),
        series(
            "GPU memory in use",
            "Device memory in use on each GPU.",
            "bytes",
            Q(f"jobwatt_gpu_memory_used_bytes{{{N}}}", GPU),
            size=(8, 8),
            empty="No GPU",
        ),
        grid(
            "State of each GPU",
            "Whether it answers, and what the driver counts against it: uncorrected ECC errors, rows of memory replaced, "
            "and XID events in the time range on show.",
            [
                Column("gpu", "GPU", width=60),
                Column("uuid", "UUID", width=335),
                Column("model", "Model"),
                Column("Value #A", "Answers", "bool_yes_no", width=80),
                Column("Value #B", "ECC errors", COUNT, width=100),
                Column("Value #C", "Rows replaced", COUNT, width=115),
                Column("Value #D", "XIDs", COUNT, width=70),
            ],
            Q(f"max by (gpu, uuid) (jobwatt_gpu_up{{{N}}})"),
            Q(
                f'sum by (gpu, uuid) (last_over_time(jobwatt_gpu_ecc_errors_total{{{N},kind="uncorrected"}}[$__range]))'
            ),
            Q(f"sum by (gpu, uuid) (last_over_time(jobwatt_gpu_remapped_rows{{{N}}}[$__range]))"),
            Q(f"sum by (gpu, uuid) (increase(jobwatt_gpu_xid_events_total{{{N}}}[$__range]))"),
            Q(
                f'group by (gpu, uuid, model) (last_over_time(jobwatt_gpu_info{{{N},mig_profile=""}}[$__range]))'
            ),
            size=(24, 8),
            empty="No GPU",
        ),
    ]


def _measuring() -> list[Panel]:
    return [
        grid(
            "Sources",
            "Each kind of sensor that jobwatt reads here: whether it delivers, and how long its last read took.",
            [
                Column("source", "Source"),
                Column("Value #A", "Delivers", "bool_yes_no", width=80),
                Column("Value #B", "Last read", SECONDS, width=90),
            ],
            Q(f"max by (source) (jobwatt_source_up{{{N}}})"),
            Q(f"max by (source) (jobwatt_source_read_seconds{{{N}}})"),
            size=(8, 7),
            empty=SILENT,
        ),
        figures(
            "Age",
            "Seconds since the snapshot that the node shows was taken.",
            SECONDS,
            Q(f"time() - max (jobwatt_snapshot_timestamp_seconds{{{N}}})"),
            size=(4, 7),
            decimals=0,
            steps=[(None, "text"), (120, VERMILION)],
            empty=SILENT,
        ),
        series(
            "Errors of the sources",
            "Reads that failed, a minute, by source and reason.",
            "cpm",
            Q(
                f"60 * {rate('jobwatt_source_errors_total', 'source, reason')} > 0",
                "{{source}}: {{reason}}",
            ),
            size=(12, 7),
            empty="None in this period",
        ),
    ]
