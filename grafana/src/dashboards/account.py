"""A lab, which is an account of Slurm: its users, jobs, energy and waste, beside the cluster's median."""

from __future__ import annotations

from typing import TYPE_CHECKING

import owner
import to
from facade import KWH, SHARE, Column, Q, choice, grid
from layout import board
from promql import kwh, total

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from facade import Panel

WHERE = 'cluster=~"$cluster",account="$account"'


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "jobwatt-account",
        "Lab",
        "What one lab's jobs used and held without using, by user, beside the cluster's median.",
        [
            ("In this period", owner.figures_of("account", WHERE)),
            ("Over time", owner.over_time("account", WHERE)),
            ("Users and jobs", [_users(), *owner.jobs_of(WHERE)]),
        ],
        [choice("account", "Lab", 'label_values(jobwatt_job_info{cluster=~"$cluster"}, account)')],
        since="now-7d",
    )


def _users() -> Panel:
    energy = total("jobwatt:user_account_energy_joules:rate5m", "user", WHERE)
    idle = total("jobwatt:user_account_gpu_idle_energy_joules:rate5m", "user", WHERE)
    return grid(
        "Users of the lab",
        "Energy of each user's jobs under this account over the time range on show, the part of it that unused GPUs "
        "drew, and that part's share.",
        [
            Column("user", "User", link=to.user("${__value.raw:percentencode}")),
            Column("Value #A", "Energy", KWH, bar=True, decimals=1),
            Column("Value #B", "Unused", KWH, bar=True, decimals=1),
            Column("Value #C", "Share", SHARE, width=90, decimals=0),
        ],
        Q(kwh(energy)),
        Q(kwh(idle)),
        Q(f"({idle}) / ({energy} > 0)"),
        size=(24, 10),
        sort="Energy",
        empty="No job of this lab in this period",
    )
