"""
`jobwatt alerts response`: whether people waste less after their first mail, and what they do with what is freed.

Asks the Prometheus (or the long-term storage) that has what recording.yaml and usage.yaml record, over some
months. Of people only sums are shown (cohorts.py); no name leaves this program.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from datetime import UTC
from typing import TYPE_CHECKING

from . import asking, cohorts, inline, responseview
from .promapi import QueryError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from .cohorts import Person
    from .promapi import Prometheus

_DAY_S = 86_400
_CHUNK_S = 7 * _DAY_S
_WINDOW_D = 7, 90
# 288 steps a day. They end before midnight: one at midnight would be of both days.
_STEPS = "[1d:5m]"
_MOST = 274  # 95 % of them: of a day that was measured less, what was used is not known
# ALERTS are of jobs and Prometheus's own; long-term storage keeps the series that is recorded of them
_ALERTS = """
max by (cluster, user) (
  max_over_time(jobwatt:user_alerts_firing:count[1d])
  or on (cluster, user) max_over_time(ALERTS{audience="user",alertstate="firing"}[1d])
)
"""
_MEASURED = f"""
max by (cluster) (count_over_time((group by (cluster) (jobwatt:node_power_watts:sum)){_STEPS})) >= {_MOST}
"""
_USE = {
    "held_s": "jobwatt:user_gpu_allocated_seconds:rate5m",
    "known_s": "jobwatt:user_gpu_known_seconds:rate5m",
    "idle_s": "jobwatt:user_gpu_idle_seconds:rate5m",
    "energy_j": "jobwatt:user_energy_joules:rate5m",
}


class ResponseError(ValueError):
    """Nothing can be said; one line says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags to its parser."""
    asking.add_span(parser)
    add = parser.add_argument
    add(
        "--mails-since",
        required=True,
        metavar="TIME",
        help="the day (UTC) on which mails began; whose alert fired before was not written to, and is compared with",
    )
    add(
        "--window",
        default="28d",
        metavar="TIME",
        help="how long people are followed before and after their first alert, 7d to 90d (default 28d)",
    )
    add("--json", action="store_true", help="for scripts")
    asking.add_access(parser)


def run(args: argparse.Namespace) -> int:
    """The command: a table or JSON on stdout; ValueError with one line where nothing can be said."""
    now = time.time()
    start, end, since = (
        int(asking.moment(text, now, UTC) // _DAY_S)
        for text in (args.start, args.end, args.mails_since)
    )
    window = inline.seconds(args.window) / _DAY_S
    if not _WINDOW_D[0] <= window <= _WINDOW_D[1] or window != int(window):
        raise ResponseError(f"--window {args.window} is not whole days from 7d to 90d")
    if not start < end:
        raise ResponseError(f"--from {args.start} is not days before --to {args.end}")
    if not start <= since < end:
        raise ResponseError(
            f"--mails-since {args.mails_since} is not between --from {args.start} and --to {args.end}: "
            "whose alert is the first one would not be known"
        )
    report = follow(asking.server(args), start, end, since, int(window))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    sys.stdout.write(
        responseview.as_json(report) if args.json else responseview.as_text(report, width)
    )
    return 0


def follow(
    server: Prometheus, start: int, end: int, since: int, window: int
) -> responseview.Report:
    """The report of the days ``start <= day < end``, numbered from 1970 in UTC; mails since day ``since``."""
    history = read(server, start, end)
    if history.first is None or not history.use:
        raise ResponseError(
            f"{server.url}: no recorded series of users between --from and --to; are recording.yaml's rules loaded, "
            "and do pages name users (privacy.users)?"
        )
    if history.first > since:
        raise ResponseError(
            f"{server.url}: nothing before {responseview.date(history.first)}, when mails had begun: whose alert is the "
            "first one is not known"
        )
    mailed, others = cohorts.groups(history, since, end, window)
    compared = others if others.told else None
    return responseview.Report(
        since, window, since - history.first, mailed, others,
        cohorts.response(mailed, compared) if mailed.told else None,
    )  # fmt: skip


def read(server: Prometheus, start: int, end: int) -> cohorts.History:
    """What happened in the days ``start <= day < end``."""
    use: dict[Person, dict[int, dict[str, float]]] = {}
    for name, series in _USE.items():
        # of replicas the one that has more: both recorded the same
        expr = f"max by (cluster, user) (sum_over_time({series}{_STEPS})) * 300"
        for person, day, value in _days(server, expr, start, end):
            if person[1]:  # "": nobody in particular
                use.setdefault(person, {}).setdefault(day, {})[name] = value
    alerts: dict[Person, set[int]] = {}
    for person, day, _ in _days(server, _ALERTS, start, end):
        alerts.setdefault(person, set()).add(day)
    measured: dict[str, set[int]] = {}
    for (cluster, _), day, _ in _days(server, _MEASURED, start, end):
        measured.setdefault(cluster, set()).add(day)
    return cohorts.History(
        {
            person: {day: cohorts.Use(**found) for day, found in days.items()}
            for person, days in use.items()
        },
        alerts,
        measured,
    )


def _days(
    server: Prometheus, expr: str, start: int, end: int
) -> Iterator[tuple[Person, int, float]]:
    """Each series' value of each day, asked for at its last second."""
    first, last = (start + 1) * _DAY_S - 1, end * _DAY_S - 1
    try:
        for series in server.query_range(expr, first, last, _DAY_S, _CHUNK_S):
            person = series.labels.get("cluster", ""), series.labels.get("user", "")
            for at, value in series.points:
                if math.isfinite(value):
                    yield person, int(at // _DAY_S), value
    except QueryError as err:
        raise ResponseError(f"{server.url} refuses {' '.join(expr.split())}: {err}") from err
