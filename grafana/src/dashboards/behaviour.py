"""Efficiency and behaviour: how jobs end, how GPUs are used, short jobs, nights and weekends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import owner
import to
from facade import COUNT, GPU_HOURS, HOURS, KWH, SHARE, Column, Q, bars, figures, grid, note, series
from layout import board
from palette import BLUE, ORANGE, PURPLE, STATES, USE
from promql import CLUSTER, hours, kwh, now

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from facade import Panel

FAILED = 'state!="COMPLETED"'
WEEKEND = "(day_of_week() == 0 or day_of_week() == 6)"
WORKING = "(day_of_week() > 0 < 6 and hour() >= 7 < 18)"
NIGHT = "(day_of_week() > 0 < 6 unless hour() >= 7 < 18)"
WHEN = {"working hours": WORKING, "nights": NIGHT, "weekends": WEEKEND}


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "jobwatt-behaviour",
        "Efficiency and behaviour",
        "How jobs end, how the GPUs they hold are used, and when: where habits waste energy.",
        [
            ("How jobs end", _ends()),
            ("How GPUs are used", _use()),
            ("Short jobs", _short()),
            ("Nights and weekends", _when()),
        ],
        since="now-7d",
    )


def _ends() -> list[Panel]:
    lost = owner.ended_energy(f"{CLUSTER},{FAILED}", "account")
    ended = owner.ended_energy(CLUSTER, "account")
    by_user = owner.ended_energy(f"{CLUSTER},{FAILED}", "user")
    jobs = owner.ended_jobs(f"{CLUSTER},{FAILED}", "user")
    return [
        *owner.ends(CLUSTER, "all"),
        bars(
            "Energy not completed, by lab",
            "Of the energy of each lab's jobs that ended in the time range on show, the share in jobs that failed, ran "
            "out of memory or time, were cancelled or preempted, or of whose end nothing is known.",
            SHARE,
            Q(f"sort_desc(({lost}) / ({ended} > 0))", "{{account}}"),
            decimals=0,
            empty=owner.NO_END,
        ),
        grid(
            "Users with the most energy not completed",
            "Energy and number of each user's jobs that ended in the time range on show and did not complete.",
            [
                Column("user", "User", link=to.user("${__value.raw:percentencode}")),
                Column("Value #A", "Energy", KWH, bar=True, decimals=1),
                Column("Value #B", "Jobs", COUNT, width=90, decimals=0),
            ],
            Q(f"topk(15, {kwh(by_user)})"),
            Q(f"{jobs} and on (user) topk(15, {by_user})"),
            size=(16, 8),
            sort="Energy",
            empty=owner.NO_END,
        ),
        series(
            "Energy of jobs that ended, by how",
            "Energy of the jobs that ended in each hour (or longer, for long ranges), by Slurm's word for how they ended, stacked.",
            KWH,
            Q(
                kwh(
                    "sum by (state) (sum_over_time("
                    f"jobwatt:user_account_state_ended_energy_joules:sum5m{{{CLUSTER}}}[$__interval:5m]))"
                ),
                "{{state}}",
            ),
            size=(24, 8),
            stack=True,
            columns=True,
            colours=STATES,
            step="1h",
            empty=owner.NO_END,
        ),
    ]


def _use() -> list[Panel]:
    name = "jobwatt:cluster_gpus_by_use:count"
    order = " or ".join(
        f'label_replace(sum (sum_over_time({name}{{{CLUSTER},use="{use}"}}[$__range:5m])) * 300 / 3600, "use", '
        f'"{use}", "", "")'
        for use in USE
    )
    return [
        series(
            "GPUs held, by how much they are used",
            "GPUs that jobs hold, by the share of the last five minutes in which a kernel ran, stacked. At the bottom "
            "those that did nothing.",
            COUNT,
            Q(now(name, "use"), "{{use}}"),
            size=(16, 9),
            stack=True,
            colours=USE,
            empty="No GPU held",
        ),
        bars(
            "GPU hours by use",
            "The same over the time range on show: GPU hours held, by how much the GPU was used.",
            GPU_HOURS,
            Q(order, "{{use}}"),
            size=(8, 9),
            colours=USE,
            decimals=0,
            empty="No GPU held",
        ),
        bars(
            "Use of held GPUs, by lab",
            "Mean share of the time in which a kernel ran on the GPUs that each lab held.",
            SHARE,
            Q(f"sort({_mean_use('account')})", "{{account}}"),
            size=(12, 8),
            decimals=0,
            empty="No GPU held",
        ),
        grid(
            "Users who use their GPUs least",
            "Of the users with ten GPU hours or more in the time range on show, those whose GPUs ran kernels for the "
            "smallest share of the time.",
            [
                Column("user", "User", link=to.user("${__value.raw:percentencode}")),
                Column("Value #A", "Mean use", SHARE, bar=True, decimals=0),
                Column("Value #B", "GPU hours", HOURS, width=110, decimals=0),
            ],
            Q(f"bottomk(15, {_mean_use('user')} and on (user) {_held_hours()} >= 10)"),
            Q(
                f"{_held_hours()} and on (user) bottomk(15, {_mean_use('user')} and on (user) {_held_hours()} >= 10)"
            ),
            size=(12, 8),
            sort="GPU hours",
            empty="Nobody held ten GPU hours",
        ),
    ]


def _mean_use(level: str) -> str:
    used, known = (
        f"sum by ({level}) (sum_over_time(jobwatt:{level}_gpu_{what}_seconds:rate5m{{{CLUSTER}}}[$__range:5m]))"
        for what in ("utilization", "known")
    )
    return f"{used} / ({known} > 0)"


def _held_hours() -> str:
    name = f"jobwatt:user_gpu_allocated_seconds:rate5m{{{CLUSTER}}}"
    return hours(f"sum by (user) (sum_over_time({name}[$__range:5m])) * 300")


def _short() -> list[Panel]:
    count = f"jobwatt:user_account_short_jobs_ended:count5m{{{CLUSTER}}}[$__range:5m]"
    energy = f"jobwatt:user_account_short_ended_energy_joules:sum5m{{{CLUSTER}}}[$__range:5m]"
    return [
        figures(
            "Short jobs",
            "Share of the jobs that ended in the time range on show after less than five minutes (the site's "
            "`short_job`).",
            SHARE,
            Q(
                f"(sum (sum_over_time({count})) or vector(0)) / sum ({owner.ended_jobs(CLUSTER, 'state')})"
            ),
            size=(4, 8),
            decimals=0,
            empty=owner.NO_END,
        ),
        figures(
            "Their energy",
            "Energy of the jobs that ended after less than five minutes.",
            KWH,
            Q(kwh(f"sum (sum_over_time({energy})) or vector(0)")),
            size=(4, 8),
            decimals=2,
            empty=owner.NO_END,
        ),
        grid(
            "Users with the most short jobs",
            "How many of each user's jobs ended after less than five minutes, and their energy. Many short jobs in a "
            "row are often a script that fails at its start, or a search over parameters that could be one job.",
            [
                Column("user", "User", link=to.user("${__value.raw:percentencode}")),
                Column("account", "Lab", link=to.lab("${__value.raw:percentencode}")),
                Column("Value #A", "Short jobs", COUNT, bar=True, decimals=0),
                Column("Value #B", "Energy", KWH, width=95, decimals=2),
            ],
            Q(f"topk(15, sum by (user, account) (sum_over_time({count})))"),
            Q(
                kwh(f"sum by (user, account) (sum_over_time({energy}))")
                + f" and on (user, account) topk(15, sum by (user, account) (sum_over_time({count})))"
            ),
            size=(16, 8),
            sort="Short jobs",
            empty="No short job in this period",
        ),
    ]


def _when() -> list[Panel]:
    colours = {"working hours": BLUE, "nights": PURPLE, "weekends": ORANGE}
    energy = "jobwatt:cluster_energy_joules:rate5m"
    idle, known = (f"jobwatt:cluster_gpu_{what}_seconds:rate5m" for what in ("idle", "known"))
    return [
        bars(
            "Energy by time",
            "Energy of the cluster in working hours (Monday to Friday, 7 to 18 h UTC), nights and weekends.",
            KWH,
            *(Q(kwh(_within(energy, when)), name) for name, when in WHEN.items()),
            colours=colours,
            decimals=1,
        ),
        bars(
            "Unused GPU time by time",
            "GPU hours held while no kernel ran, in working hours (Monday to Friday, 7 to 18 h UTC), nights and weekends.",
            GPU_HOURS,
            *(Q(hours(_within(idle, when)), name) for name, when in WHEN.items()),
            colours=colours,
            decimals=0,
        ),
        bars(
            "Share not used by time",
            "Of the GPU time held by jobs, the share in which no kernel ran. A notebook left open shows at night.",
            SHARE,
            *(
                Q(f"{_within(idle, when)} / ({_within(known, when)} > 0)", name)
                for name, when in WHEN.items()
            ),
            colours=colours,
            decimals=0,
        ),
        note(
            "What these numbers can say",
            "A job that was cancelled or ran out of time is not wasted for that alone, and a GPU in use is not used "
            "well for that alone. Look at a user's jobs before you draw conclusions, and ask.",
        ),
    ]


def _within(series_: str, when: str) -> str:
    """What a recorded rate adds up to in the range on show, counting only certain times."""
    return f"sum (sum_over_time(({series_}{{{CLUSTER}}} and on () {when})[$__range:5m])) * 300"
