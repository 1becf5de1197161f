"""A user: jobs, energy, waste and efficiency, beside the cluster's median."""

from __future__ import annotations

from typing import TYPE_CHECKING

import owner
from facade import choice
from layout import board

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

WHERE = 'cluster=~"$cluster",user="$user"'


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "jobwatt-user",
        "User",
        "What one user's jobs used and held without using, beside the cluster's median.",
        [
            ("In this period", owner.figures_of("user", WHERE)),
            ("Over time", owner.over_time("user", WHERE)),
            ("Jobs", owner.jobs_of(WHERE)),
        ],
        [choice("user", "User", 'label_values(jobwatt_job_info{cluster=~"$cluster"}, user)')],
        since="now-7d",
    )
