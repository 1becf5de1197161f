"""The cluster: what it draws, for whom, what is held and unused, and whether the measuring works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import to
from facade import (
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
    figures,
    grid,
    series,
)
from layout import board
from palette import COMPONENTS, GPUS, GREY, ORANGE, OWNERS, VERMILION
from promql import CLUSTER, cost, grams, hours, kwh, now, site_kwh, total

if TYPE_CHECKING:
    from collections.abc import Callable

    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from facade import Panel

WEEK = "[7d:5m]"
IDLE_J = total("jobwatt:cluster_gpu_idle_energy_joules:rate5m", window=WEEK)
IDLE_S = total("jobwatt:cluster_gpu_idle_seconds:rate5m", window=WEEK)


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "jobwatt-cluster",
        "Cluster",
        "What the cluster draws, for whom, and what is held without being used.",
        [
            ("Now", _now()),
            ("Where power goes", _power()),
            ("GPUs", _gpus()),
            ("Held and not used", _waste()),
            ("Carbon and money", _grid()),
            ("The measuring itself", _measuring()),
        ],
    )


def _now() -> list[Panel]:
    return [
        figures(
            "Power now",
            "What all nodes draw: CPUs, memory and GPUs, and the rest of the node where a wall meter tells.",
            WATT,
            Q(now("jobwatt:cluster_energy_joules:rate5m")),
            size=(4, 4),
            spark=True,
        ),
        figures(
            "Energy",
            "Energy of all nodes over the time range on show, without the building's cooling (PUE).",
            KWH,
            Q(kwh(total("jobwatt:cluster_energy_joules:rate5m"))),
            size=(4, 4),
            decimals=1,
        ),
        figures(
            "GPUs now",
            "GPUs in the cluster, allocated to jobs, in use by a kernel, and allocated but idle; means over the last "
            "five minutes. An instance of a partitioned GPU (MIG) counts as one.",
            COUNT,
            Q(now("jobwatt:cluster_gpus:count"), "in the cluster"),
            Q(now("jobwatt:cluster_gpu_allocated_seconds:rate5m"), "allocated"),
            Q(
                f"{now('jobwatt:cluster_gpu_known_seconds:rate5m')} - {now('jobwatt:cluster_gpu_idle_seconds:rate5m')}",
                "in use",
            ),
            Q(now("jobwatt:cluster_gpu_idle_seconds:rate5m"), "idle"),
            size=(8, 4),
            decimals=0,
        ),
        figures(
            "Jobs now",
            "Jobs that run now, on any node.",
            COUNT,
            Q(f"count (group by (cluster, jobid) (jobwatt:job_running:info{{{CLUSTER}}}))"),
            size=(4, 4),
            empty="0",
        ),
        figures(
            "GPU use",
            "Share of the GPU time held by jobs in which a kernel ran. 100 % means that no GPU was held idle, not "
            "that it was used well.",
            SHARE,
            Q(
                f"1 - {total('jobwatt:cluster_gpu_idle_seconds:rate5m')} / "
                f"({total('jobwatt:cluster_gpu_known_seconds:rate5m')} > 0)"
            ),
            size=(4, 4),
            decimals=0,
            empty="No GPU held",
        ),
    ]


def _power() -> list[Panel]:
    labs = Q(now("jobwatt:account_energy_joules:rate5m", "account"), "{{account}}")
    system = Q(now("jobwatt:cluster_component_system_energy_joules:rate5m"), "system")
    nodes = f"jobwatt:node_energy_joules:rate5m{{{CLUSTER}}}"
    free = Q(now("jobwatt:cluster_component_unallocated_energy_joules:rate5m"), "unallocated")
    return [
        series(
            "Power by component",
            "What CPUs, memory (dram), GPUs and the rest of the nodes (other, only with a wall meter) draw, stacked.",
            WATT,
            Q(
                now("jobwatt:cluster_component_energy_joules:rate5m", "component"),
                "{{component}}",
            ),
            size=(12, 9),
            stack=True,
            colours=COMPONENTS,
        ),
        series(
            "Power by lab",
            "What each lab's jobs are charged with, stacked; on top what daemons use (system) and what nobody has "
            "reserved (unallocated). Together they are the cluster.",
            WATT,
            labs,
            system,
            free,
            size=(12, 9),
            stack=True,
            colours=OWNERS,
        ),
        bars(
            "Energy by component",
            "Energy of the cluster over the time range on show, by component.",
            KWH,
            Q(
                f"sort_desc({kwh(total('jobwatt:cluster_component_energy_joules:rate5m', 'component'))})",
                "{{component}}",
            ),
            colours=COMPONENTS,
            decimals=1,
        ),
        bars(
            "Energy by lab",
            "Energy that each lab's jobs are charged with over the time range on show.",
            KWH,
            Q(
                f"sort_desc({kwh(total('jobwatt:account_energy_joules:rate5m', 'account'))})",
                "{{account}}",
            ),
            decimals=1,
        ),
        bars(
            "Energy by partition",
            "Energy that the jobs of each Slurm partition are charged with over the time range on show.",
            KWH,
            Q(
                f"sort_desc({kwh(total('jobwatt:partition_energy_joules:rate5m', 'partition'))})",
                "{{partition}}",
            ),
            decimals=1,
        ),
        series(
            "Power by partition",
            "What the jobs of each Slurm partition are charged with, stacked.",
            WATT,
            Q(now("jobwatt:partition_energy_joules:rate5m", "partition"), "{{partition}}"),
            size=(12, 8),
            stack=True,
        ),
        series(
            "Power of a node",
            "Of all nodes: the one that draws the most, the median, and the one that draws the least, all components.",
            WATT,
            *(
                Q(f"{function} {nodes})", legend)
                for legend, function in (
                    ("most", "max ("),
                    ("median", "quantile(0.5,"),
                    ("least", "min ("),
                )
            ),
            size=(12, 8),
        ),
    ]


def _gpus() -> list[Panel]:
    allocated = now("jobwatt:cluster_gpu_allocated_seconds:rate5m")
    known = now("jobwatt:cluster_gpu_known_seconds:rate5m")
    idle = now("jobwatt:cluster_gpu_idle_seconds:rate5m")
    return [
        series(
            "GPUs allocated, in use, idle",
            "GPUs held by jobs: in use (a kernel runs), idle (held, none runs), unknown (nothing tells, as on slices "
            "of an A100); and those that nobody holds (free).",
            COUNT,
            Q(f"{known} - {idle}", "in use"),
            Q(idle, "idle"),
            Q(f"{allocated} - {known}", "unknown"),
            Q(f"clamp_min({now('jobwatt:cluster_gpus:count')} - {allocated}, 0)", "free"),
            size=(12, 8),
            stack=True,
            colours=GPUS,
        ),
        series(
            "GPUs held idle by lab",
            "GPUs that each lab's jobs hold while no kernel runs on them, as a mean over five minutes.",
            COUNT,
            Q(now("jobwatt:account_gpu_idle_seconds:rate5m", "account"), "{{account}}"),
            size=(12, 8),
            stack=True,
        ),
    ]


def _waste() -> list[Panel]:
    return [
        figures(
            "Unused this week",
            "GPU hours held by jobs in the last seven days while no kernel ran.",
            GPU_HOURS,
            Q(hours(IDLE_S)),
            size=(6, 4),
            decimals=0,
            steps=[(None, ORANGE)],
        ),
        figures(
            "Its energy",
            "What GPUs drew while held idle in the last seven days, the building's PUE included where the site has set it.",
            KWH,
            Q(site_kwh(IDLE_J)),
            size=(6, 4),
            decimals=1,
            steps=[(None, ORANGE)],
        ),
        figures(
            "Its CO2e",
            "Grams of CO2 equivalent of this energy, PUE included, with the carbon intensity of each five minutes.",
            GRAMS,
            Q(grams("cluster", "gpu_idle_", window=WEEK)),
            size=(6, 4),
            steps=[(None, ORANGE)],
            empty=NOT_SET,
        ),
        figures(
            "Its cost",
            "In the site's currency: the energy at its price, and the GPU hours at theirs, where the site has set them.",
            COST,
            Q(cost("cluster", "gpu_idle_", window=WEEK)),
            size=(6, 4),
            decimals=0,
            steps=[(None, ORANGE)],
            empty=NOT_SET,
        ),
        _owners("user", "User", to.user),
        _owners("account", "Lab", to.lab),
        _jobs(),
    ]


def _owners(level: str, noun: str, page: Callable[[str], str]) -> Panel:
    idle = total(f"jobwatt:{level}_gpu_idle_seconds:rate5m", level)
    held = total(f"jobwatt:{level}_gpu_allocated_seconds:rate5m", level)
    energy = total(f"jobwatt:{level}_gpu_idle_energy_joules:rate5m", level)
    return grid(
        f"{noun}s with the most unused GPU energy",
        f"Energy of GPUs that each {noun.lower()}'s jobs held over the time range on show while no kernel ran, the "
        f"GPU hours it lasted, and their share of all GPU hours held. A name opens its page.",
        [
            Column(level, noun, link=page("${__value.raw:percentencode}")),
            Column("Value #A", "Unused", KWH, bar=True, decimals=1),
            Column("Value #B", "GPU hours", HOURS, width=95, decimals=0),
            Column("Value #C", "Share", SHARE, width=70, decimals=0),
        ],
        Q(f"topk(15, {kwh(energy)} > 0)"),
        Q(hours(f"{idle} and on ({level}) topk(15, {energy} > 0)")),
        Q(f"({idle}) / ({held} > 0) and on ({level}) topk(15, {energy} > 0)"),
        size=(12, 11),
        sort="Unused",
        empty="No GPU was held idle in this period",
    )


def _jobs() -> Panel:
    top = f"max_over_time(jobwatt:job_gpu_idle_energy_joules:top50{{{CLUSTER}}}[$__range])"
    jobs = f"topk(15, max by (jobid, user, account, partition) ({top}))"
    start = f"max by (jobid) (last_over_time(jobwatt:job_start_time_seconds:top50{{{CLUSTER}}}[$__range]))"
    end = f"max by (jobid) (last_over_time(jobwatt:job_last_time_seconds:top50{{{CLUSTER}}}[$__range]))"
    return grid(
        "Jobs with the most unused GPU energy",
        "Jobs seen in the time range on show by the energy that their GPUs drew while no kernel ran, since the job's "
        "start. A number opens the job's page at the time it ran.",
        [
            Column(
                "jobid", "Job", link=to.job("${__value.raw}", "Started", "Seen until"), width=90
            ),
            Column("user", "User", link=to.user("${__value.raw:percentencode}")),
            Column("account", "Lab", width=90),
            Column("Value #A", "Unused", KWH, bar=True, decimals=1),
            Column("Value #B", "Started", TIME, width=150),
            Column("Value #C", "Seen until", TIME, width=150),
        ],
        Q(kwh(jobs)),
        Q(f"({start} and on (jobid) {jobs}) * 1000"),
        Q(f"({end} and on (jobid) {jobs}) * 1000"),
        size=(24, 11),
        sort="Unused",
        empty="No GPU was held idle in this period",
    )


def _grid() -> list[Panel]:
    co2e = "jobwatt:cluster_co2e_grams:rate5m"
    return [
        figures(
            "CO2e",
            "Grams of CO2 equivalent of all that the nodes used over the time range on show, PUE included, with the carbon "
            "intensity of each five minutes.",
            GRAMS,
            Q(grams("cluster")),
            size=(6, 7),
            empty=NOT_SET,
        ),
        figures(
            "Energy bill",
            "What this energy cost, PUE included, at the price of each five minutes, in the site's currency.",
            COST,
            Q(total("jobwatt:cluster_energy_cost:rate5m")),
            size=(6, 7),
            decimals=0,
            empty=NOT_SET,
        ),
        bars(
            "CO2e by lab",
            "Grams of CO2 equivalent of each lab's jobs over the time range on show.",
            GRAMS,
            Q(f"sort_desc({grams('account', by='account')})", "{{account}}"),
            size=(12, 7),
            empty=NOT_SET,
        ),
        series(
            "Carbon intensity of the electricity",
            "Grams of CO2 equivalent per kWh that grams are counted with. Work that can wait costs less where it is low.",
            "short",
            Q("max (jobwatt:site_carbon_intensity:grams_per_kwh)", "g/kWh"),
            size=(12, 8),
            empty=NOT_SET,
        ),
        series(
            "CO2e an hour",
            "Grams of CO2 equivalent an hour: of all nodes, and of jobs' GPUs held while no kernel ran.",
            GRAMS,
            Q(f"{now(co2e)} * 3600", "all nodes"),
            Q(f"{now('jobwatt:cluster_gpu_idle_co2e_grams:rate5m')} * 3600", "GPUs held unused"),
            size=(12, 8),
            colours={"all nodes": GREY, "GPUs held unused": ORANGE},
            empty=NOT_SET,
        ),
    ]


def _measuring() -> list[Panel]:
    return [
        figures(
            "Nodes measured",
            "Nodes whose figures are less than two minutes old, and nodes that have answered within the last day but "
            "do not now.",
            COUNT,
            Q(f"count (jobwatt:node_age:seconds{{{CLUSTER}}} < 120)", "measured"),
            Q(
                f"count (group by (cluster, instance) (present_over_time(jobwatt_jobs{{{CLUSTER}}}[1d])) "
                f"unless on (cluster, instance) jobwatt:node_age:seconds{{{CLUSTER}}} < 120) or vector(0)",
                "silent",
            ),
            size=(6, 4),
        ),
        figures(
            "Job time measured",
            "The least of all jobs here now: the share of the job's seconds on a node that jobwatt measured.",
            SHARE,
            Q(f"min (jobwatt_job_coverage_ratio{{{CLUSTER}}})"),
            size=(6, 4),
            empty="No jobs",
            decimals=1,
        ),
        figures(
            "Jobs without an owner, or left out",
            "Jobs of which nobody has told the owner yet: more than none for minutes means that hooks and slurmctld "
            "are silent. Left out: jobs beyond what a node's page may show (limits.jobs).",
            COUNT,
            Q(f"sum (jobwatt_jobs_unresolved{{{CLUSTER}}})", "without"),
            Q(f"sum (jobwatt_hidden_jobs{{{CLUSTER}}})", "left out"),
            size=(6, 4),
            steps=[(None, "text"), (1, VERMILION)],
        ),
        figures(
            "Alerts for operators",
            "Alerts about hardware and about the measuring that fire now.",
            COUNT,
            Q(
                f'count (ALERTS{{{CLUSTER},alertstate="firing",audience="ops"}}) or vector(0)',
                "firing",
            ),
            size=(6, 4),
            steps=[(None, "text"), (1, VERMILION)],
        ),
        grid(
            "Sources that deliver nothing",
            "Kinds of sensor that a node has and cannot read now; `jobwatt doctor` on the node says why.",
            [
                Column("instance", "Node", link=to.node("${__value.raw:percentencode}")),
                Column("source", "Source"),
            ],
            Q(f"jobwatt_source_up{{{CLUSTER}}} == 0"),
            size=(12, 7),
            empty="All sources deliver",
        ),
        grid(
            "What operators are told",
            "Alerts about hardware and about the measuring that fire now.",
            [
                Column("alertname", "Alert"),
                Column("instance", "Node", link=to.node("${__value.raw:percentencode}")),
                Column("severity", "Severity", width=110),
            ],
            Q(
                "group by (alertname, instance, severity) "
                f'(ALERTS{{{CLUSTER},alertstate="firing",audience="ops"}})'
            ),
            size=(12, 7),
            empty="No alert fires",
        ),
    ]
