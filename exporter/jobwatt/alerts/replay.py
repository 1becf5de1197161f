"""
`jobwatt alerts replay`: who would have been mailed over past data, when and about what.

Nothing is sent and no rule needs to be installed: every user alert is written out over raw metrics
with the site's thresholds (inline.py), evaluated over the past by the server (promapi.py) and taken
through Prometheus's and Alertmanager's own rules here (simulate.py). It is as if mails had been
switched on at ``--from``. What it cannot know: restarts of Alertmanager, silences, and a mail
server's refusals.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from . import alertmanager, asking, files, inline, promapi, replayview, rules, simulate, site

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from datetime import tzinfo

    from .inline import Alert, Rules
    from .promapi import Prometheus
    from .simulate import Firing, Mail

log = logging.getLogger(__name__)

_PRESENT = "jobwatt_snapshot_timestamp_seconds"  # every exporter shows it
_JOBID = re.compile(r"[0-9A-Za-z_+.]{1,40}")  # fit for a matcher; no job id of Slurm's is otherwise
_WITHIN = "30m"  # a job that has just ended is still told about


class ReplayError(ValueError):
    """The replay cannot be made; one line says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """
    What of a site matters here.

    Attributes:
        addressed: matches the users who can be written to; of the others the operators hear.
        pue: 1 where the site has set none.
    """

    rules: Rules
    schedule: simulate.Schedule = field(default_factory=simulate.Schedule)
    timing: simulate.Timing = field(default_factory=simulate.Timing)
    addressed: str = ".*"
    pue: float = 1.0


@dataclass(frozen=True, slots=True)
class Span:
    """The time looked at: evaluations from ``start`` to ``end``, every ``step`` seconds."""

    start: float
    end: float
    step: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags to its parser."""
    asking.add_span(parser)
    add = parser.add_argument
    add(
        "--site",
        type=Path,
        metavar="FILE",
        help="site.toml with its thresholds and hours (default: the shipped one)",
    )
    add(
        "--step",
        default="5m",
        metavar="TIME",
        help="between two evaluations, 15s to 30m (default 5m)",
    )
    add("--user", metavar="NAME", help="only what this user would have got")
    add("--json", action="store_true", help="for scripts")
    asking.add_access(parser)


def run(args: argparse.Namespace) -> int:
    """The command: a table or JSON on stdout; ValueError with one line where it cannot be made."""
    setting = of_site(args.site)
    span = _span(args, setting.schedule.zone)
    server = asking.server(args)
    told = replay(server, setting, span, args.user)
    report = replayview.Report(
        span.start,
        span.end,
        span.step,
        setting.schedule.zone,
        tuple(view(server, told, setting.pue)),
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    sys.stdout.write(replayview.as_json(report) if args.json else replayview.as_text(report, width))
    return 0


def of_site(path: Path | None) -> Setting:
    """The shipped rules with a site's thresholds, and its hours."""
    read = site.read(path or files.root() / "site.toml")
    when = read.schedule
    holidays = (
        first + timedelta(days=day)
        for first, last in when.holidays
        for day in range((last - first).days + 1)
    )
    return Setting(
        inline.read(rules.texts(read)),
        simulate.Schedule(when.zone, when.hours, frozenset(when.days), frozenset(holidays)),
        addressed=alertmanager.addressed(read.mail),
        pue=read.cost.pue or 1.0,
    )


# --- times ---------------------------------------------------------------------------------------


def _span(args: argparse.Namespace, zone: tzinfo) -> Span:
    now = time.time()
    start, end = (asking.moment(text, now, zone) for text in (args.start, args.end))
    if not start < end:
        raise ReplayError(f"--from {args.start} is not before --to {args.end}")
    step = inline.seconds(args.step)
    if not 15 <= step <= 1800:
        raise ReplayError(f"--step {args.step} is not between 15s and 30m")
    if end - start < step:
        raise ReplayError(f"--from {args.start} --to {args.end} is shorter than --step {args.step}")
    return Span(-(-start // step) * step, end // step * step, step)


# --- mails ---------------------------------------------------------------------------------------


def replay(server: Prometheus, setting: Setting, span: Span, user: str | None = None) -> list[Mail]:
    """Every mail that would have gone out in the span, by time."""
    if not server.has(_PRESENT, span.start, span.end):
        raise ReplayError(f"{server.url}: no series of jobwatt between --from and --to")
    alerts = setting.rules.user_alerts()
    firings = [firing for alert in alerts for firing in fired(server, alert, setting.rules, span)]
    if user is not None:
        firings = [firing for firing in firings if firing.label("user") == user]
    return _mails(firings, [alert.name for alert in alerts], setting, span.end)


def _mails(
    firings: Sequence[Firing], order: Sequence[str], setting: Setting, until: float
) -> list[Mail]:
    """To owners, and to the operators (at any hour, one mail a cluster) about owners without an address."""
    known = {
        user: re.fullmatch(setting.addressed, user) is not None
        for user in {firing.label("user") for firing in firings}
    }
    owners = [firing for firing in firings if known[firing.label("user")]]
    others = [firing for firing in firings if not known[firing.label("user")]]
    sent = simulate.mails(owners, setting.timing, order, setting.schedule.is_open, until)
    together = replace(setting.timing, group_by=("cluster",))
    sent += simulate.mails(others, together, order, simulate.Schedule().is_open, until)
    return sorted(sent, key=attrgetter("at"))


def fired(server: Prometheus, alert: Alert, rules: Rules, span: Span) -> Iterable[Firing]:
    """When Prometheus would have called the alert firing, by its labels."""
    log.info("evaluating %s", alert.name)
    expr = inline.expand(alert.expr, rules.records)
    present: dict[simulate.Labels, list[float]] = {}
    try:
        for series in server.query_range(expr, span.start, span.end, span.step):
            labels = {k: v for k, v in series.labels.items() if k != "__name__"} | dict(
                alert.labels
            )
            present.setdefault(tuple(sorted(labels.items())), []).extend(
                at for at, _ in series.points
            )
    except promapi.QueryError as err:
        raise ReplayError(f"{server.url} refuses the expression of {alert.name}: {err}") from err
    for key, times in present.items():
        spells = simulate.spells(times, span.step, span.end, alert.for_s, alert.keep_firing_s)
        if spells:
            yield simulate.Firing(alert.name, key, spells)


# --- what a mail is about ------------------------------------------------------------------------


def view(server: Prometheus, mails: Iterable[Mail], pue: float) -> Iterable[replayview.MailView]:
    """The mails with what each of their jobs had wasted by then."""
    for mail in mails:
        jobs = sorted({told.labels.get("jobid", "") for told in mail.told})
        wasted = _wasted(server, [job for job in jobs if _JOBID.fullmatch(job)], mail.at)
        nothing = replayview.Waste()
        lines = tuple(
            replayview.Line(
                told.alert,
                told.labels.get("user", ""),
                told.labels.get("jobid", ""),
                told.labels.get("account", ""),
                told.labels.get("partition", ""),
                told.since,
                wasted.get(_job(told.labels), nothing).times(pue),
            )
            for told in mail.told
        )
        yield replayview.MailView(
            mail.at, mail.group.get("cluster", ""), mail.group.get("user", ""), lines
        )


def _wasted(
    server: Prometheus, jobids: Sequence[str], at: float
) -> dict[tuple[str, str], replayview.Waste]:
    """Nodes, GPUs, idle seconds and joules so far, by cluster and job."""
    if not jobids:
        return {}
    found: dict[tuple[str, str], replayview.Waste] = {}
    match = f'{{jobid=~"{"|".join(jobids).replace(".", "[.]").replace("+", "[+]")}"}}'
    for operation, metric, name in (
        ("count", "jobwatt_job_gpu_idle_seconds_total", "gpus"),
        ("sum", "jobwatt_job_gpu_idle_seconds_total", "idle_s"),
        ("sum", "jobwatt_job_gpu_idle_energy_joules_total", "idle_j"),
    ):
        expr = f"{operation} by (cluster, jobid, instance) (last_over_time({metric}{match}[{_WITHIN}]))"
        for series in server.query(expr, at):
            job = _job(series.labels)
            node, figure = series.labels.get("instance", ""), series.points[0][1]
            found[job] = found.get(job, replayview.Waste()).plus(node, **{name: figure})
    return found


def _job(labels: replayview.StrMap) -> tuple[str, str]:
    return labels.get("cluster", ""), labels.get("jobid", "")
