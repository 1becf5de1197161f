"""What the pages of a user and of a lab have in common. ``level`` is ``user`` or ``account``."""

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
from palette import COMPONENTS, GPUS, GREY, ORANGE, STATES
from promql import CLUSTER, cost, grams, hours, kwh, now, total, unused_share

if TYPE_CHECKING:
    from facade import Panel

NO_GPU = "No GPU held"
NO_JOB = "No job in this period"
NO_END = "No job ended in this period"
NOUN = {"user": "user", "account": "lab"}


def figures_of(level: str, where: str) -> list[Panel]:
    """The period in numbers."""
    energy = total(f"jobwatt:{level}_energy_joules:rate5m", where=where)
    idle_j = total(f"jobwatt:{level}_gpu_idle_energy_joules:rate5m", where=where)
    held = total(f"jobwatt:{level}_gpu_allocated_seconds:rate5m", where=where)
    everybody = unused_share(level, CLUSTER, level)
    who = NOUN[level]
    return [
        figures(
            "Energy",
            f"Energy that the {who}'s jobs are charged with over the time range on show.",
            KWH,
            Q(kwh(energy)),
            size=(4, 4),
            decimals=1,
            empty=NO_JOB,
        ),
        figures(
            "CO2e",
            "Grams of CO2 equivalent of this energy, PUE included, with the carbon intensity of each five minutes.",
            GRAMS,
            Q(grams(level, where=where)),
            size=(4, 4),
            empty=NOT_SET,
        ),
        figures(
            "GPU time",
            f"GPU hours that the {who}'s jobs held, used or not.",
            GPU_HOURS,
            Q(hours(held)),
            size=(4, 4),
            decimals=0,
            empty=NO_GPU,
        ),
        figures(
            "GPU time not used",
            f"Share of the GPU time held in which no kernel ran: this {who}'s, and the median of all {who}s.",
            SHARE,
            Q(unused_share(level, where), f"this {who}"),
            Q(f"quantile(0.5, {everybody})", "median"),
            size=(5, 4),
            decimals=0,
            steps=[(None, "text"), (0.5, ORANGE)],
            empty=NO_GPU,
        ),
        figures(
            "Unused",
            f"Energy of GPUs that the {who}'s jobs held while no kernel ran.",
            KWH,
            Q(kwh(idle_j)),
            size=(4, 4),
            decimals=1,
            empty=NO_GPU,
        ),
        figures(
            "Cost",
            "What the unused GPU time cost, in the site's currency.",
            COST,
            Q(cost(level, "gpu_idle_", where)),
            size=(3, 4),
            decimals=0,
            empty=NOT_SET,
        ),
    ]


def over_time(level: str, where: str) -> list[Panel]:
    """The period as it went by."""
    who = NOUN[level]
    rate = (
        f"sum by (component) (rate(jobwatt_job_energy_joules_total{{{where}}}[$__rate_interval]))"
    )
    power = (
        now("jobwatt:account_component_energy_joules:rate5m", "component", where)
        if level == "account"
        else rate
    )
    known = now(f"jobwatt:{level}_gpu_known_seconds:rate5m", where=where)
    idle = now(f"jobwatt:{level}_gpu_idle_seconds:rate5m", where=where)
    allocated = now(f"jobwatt:{level}_gpu_allocated_seconds:rate5m", where=where)
    return [
        series(
            "Power by component",
            f"What the {who}'s jobs draw, stacked by component.",
            WATT,
            Q(power, "{{component}}"),
            size=(12, 8),
            stack=True,
            colours=COMPONENTS,
            empty=NO_JOB,
        ),
        series(
            "GPUs held",
            f"GPUs that the {who}'s jobs hold: in use (a kernel runs), idle (none runs), unknown (nothing tells).",
            COUNT,
            Q(f"{known} - {idle}", "in use"),
            Q(idle, "idle"),
            Q(f"{allocated} - {known}", "unknown"),
            size=(12, 8),
            stack=True,
            colours=GPUS,
            empty=NO_GPU,
        ),
        series(
            f"GPU time used, beside the median of all {who}s",
            f"Share of the GPU time held in which a kernel ran: this {who}, and the median of all {who}s that hold "
            "GPUs at that time (dashed).",
            SHARE,
            Q(f"avg (jobwatt:{level}_gpu_efficiency:ratio{{{where}}})", f"this {who}"),
            Q(f"quantile(0.5, jobwatt:{level}_gpu_efficiency:ratio{{{CLUSTER}}})", "median"),
            size=(24, 8),
            bounds=(0, 1),
            lines=["median"],
            colours={"median": GREY},
            empty=NO_GPU,
        ),
        *ends(where, f"the {who}'s"),
    ]


def ends(where: str, whose: str) -> list[Panel]:
    """How jobs ended: their energy and their number by Slurm's word for it."""
    when = "jobs that ended in the time range on show, by Slurm's word for how they ended"
    return [
        bars(
            "Energy by how jobs ended",
            f"Energy of {whose} {when}. What a failed or cancelled job has computed may still have been of use (a "
            "checkpoint, a lesson).",
            KWH,
            Q(f"sort_desc({kwh(ended_energy(where, 'state'))})", "{{state}}"),
            size=(12, 7),
            colours=STATES,
            decimals=1,
            empty=NO_END,
        ),
        bars(
            "Jobs by how they ended",
            f"The number of {whose} {when}.",
            COUNT,
            Q(f"sort_desc({ended_jobs(where, 'state')})", "{{state}}"),
            size=(12, 7),
            colours=STATES,
            decimals=0,
            empty=NO_END,
        ),
    ]


def ended_energy(where: str, by: str) -> str:
    """Joules of the jobs that ended in the range on show; each is recorded in one window of five minutes."""
    name = "jobwatt:user_account_state_ended_energy_joules:sum5m"
    return f"sum by ({by}) (sum_over_time({name}{{{where}}}[$__range:5m]))"


def ended_jobs(where: str, by: str) -> str:
    """How many jobs ended in the range on show."""
    name = "jobwatt:user_account_state_jobs_ended:count5m"
    return f"sum by ({by}) (sum_over_time({name}{{{where}}}[$__range:5m]))"


def jobs_of(where: str) -> list[Panel]:
    """The jobs of the period, each with a link to its page."""

    def last(metric: str, by: str = "jobid") -> str:
        return f"sum by ({by}) (last_over_time({metric}{{{where}}}[$__range]))"

    energy = last("jobwatt_job_energy_joules_total")
    top = f"topk(200, {energy})"
    held = last("jobwatt_job_gpu_allocated_seconds_total")
    idle = last("jobwatt_job_gpu_idle_seconds_total")
    start = f"min by (jobid) (last_over_time(jobwatt_job_start_time_seconds{{{where}}}[$__range]))"
    end = f"max by (jobid) (last_over_time(jobwatt_job_end_time_seconds{{{where}}}[$__range]))"
    info = f"last_over_time(jobwatt_job_info{{{where}}}[$__range])"
    return [
        grid(
            "Jobs",
            "Jobs seen in the time range on show, the 200 that used the most energy: hours of GPUs held, their share "
            "without a kernel, and how the job ended. A number opens the job's page at the time it ran.",
            [
                Column("jobid", "Job", link=to.job("${__value.raw}", "Started", "Until"), width=75),
                Column("user", "User", link=to.user("${__value.raw:percentencode}"), width=90),
                Column("name", "Name", width=130),
                Column("partition", "Partition", width=80),
                Column("state", "State", width=130, colours=STATES),
                Column("Value #A", "Energy", KWH, bar=True, decimals=2),
                Column("Value #C", "GPU hours", HOURS, width=85, decimals=1),
                Column("Value #D", "Not used", SHARE, width=75, decimals=0),
                Column("Value #E", "Started", TIME, width=130),
                Column("Value #F", "Until", TIME, hidden=True),
            ],
            Q(kwh(top)),
            Q(f"group by (jobid, user, name, partition) ({info}) and on (jobid) {top}"),
            Q(f"{hours(held)} and on (jobid) {top}"),
            Q(f"({idle}) / ({held} > 0) and on (jobid) {top}"),
            Q(f"{start} * 1000 and on (jobid) {top}"),
            Q(
                f"({end} or (max by (jobid) ({info}) * 0 + $__to / 1000)) * 1000 and on (jobid) {top}"
            ),
            Q(
                "group by (jobid, state) "
                f'(last_over_time(jobwatt_job_exit_info{{{where},state!=""}}[$__range])) and on (jobid) {top}'
            ),
            size=(24, 14),
            sort="Energy",
            empty=NO_JOB,
        )
    ]
