"""
What a replay found, as a table for people or JSON for scripts. Pure.

The JSON is one object:

    from, to          RFC 3339 in UTC
    step_seconds      seconds between two evaluations
    timezone          the site's, as the table uses it
    mails             by time, each:
      at              RFC 3339 in UTC
      to              "owner", or "operators" about users to whom no address belongs
      cluster, user   whose jobs these are; user is "" in a mail to the operators
      lines           by job, each:
        alert, user, jobid, account, partition
        since         RFC 3339 in UTC: since when the alert fires
        nodes         names of the job's nodes that hold its GPUs
        gpus          how many it holds (MIG instances count by themselves); null where unknown
        idle_gpu_hours, idle_kwh   since the job's start, kWh times the site's PUE; null where unknown
    summary           mails, users, jobs, idle_gpu_hours, idle_kwh (each job once, as of its last mail),
                      alerts: {name: jobs (or users) told of it}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

StrMap = Mapping[str, str]
_J_PER_KWH = 3_600_000
_WIDE = 100  # columns from which nodes are named
_LONGEST = 24  # characters of a user's or node's name in the table


@dataclass(frozen=True, slots=True)
class Waste:
    """What a job holds and has left unused; None: unknown."""

    nodes: tuple[str, ...] = ()
    gpus: float | None = None
    idle_s: float | None = None
    idle_j: float | None = None

    def plus(self, node: str, **more: float) -> Waste:
        """With one node's figure added."""
        sums = {name: (getattr(self, name) or 0.0) + figure for name, figure in more.items()}
        return replace(self, nodes=tuple(sorted({*self.nodes, node})), **sums)

    def times(self, pue: float) -> Waste:
        """With the energy of cooling and losses."""
        return replace(self, idle_j=None if self.idle_j is None else self.idle_j * pue)

    @property
    def gpu_hours(self) -> float | None:
        """Idle GPU hours."""
        return None if self.idle_s is None else self.idle_s / 3600

    @property
    def kwh(self) -> float | None:
        """Idle energy."""
        return None if self.idle_j is None else self.idle_j / _J_PER_KWH


@dataclass(frozen=True, slots=True)
class Line:
    """One alert about one job (or, without a job, about a user)."""

    alert: str
    user: str
    jobid: str
    account: str
    partition: str
    since: float
    waste: Waste


@dataclass(frozen=True, slots=True)
class MailView:
    """One mail; ``user`` is "" where it goes to the operators."""

    at: float
    cluster: str
    user: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """All mails together; each job counts once, as of its last mail."""

    mails: int
    users: int
    jobs: int
    gpu_hours: float
    kwh: float
    alerts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole replay; times are Unix seconds."""

    start: float
    end: float
    step: float
    zone: tzinfo
    mails: tuple[MailView, ...]

    def summary(self) -> Summary:
        """Count it all up."""
        jobs: dict[tuple[str, str], Waste] = {}
        told: dict[str, set[tuple[str, str, str]]] = {}
        for mail in self.mails:
            for line in mail.lines:
                told.setdefault(line.alert, set()).add((mail.cluster, line.user, line.jobid))
                if line.jobid:
                    jobs[mail.cluster, line.jobid] = line.waste
        return Summary(
            len(self.mails),
            len({(mail.cluster, line.user) for mail in self.mails for line in mail.lines}),
            len(jobs),
            sum(waste.gpu_hours or 0.0 for waste in jobs.values()),
            sum(waste.kwh or 0.0 for waste in jobs.values()),
            {alert: len(who) for alert, who in told.items()},
        )


# --- JSON ----------------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    """The report for scripts; the module's text says what is in it."""
    found = report.summary()
    plain = {
        "from": _utc(report.start),
        "to": _utc(report.end),
        "step_seconds": report.step,
        "timezone": str(report.zone),
        "mails": [_mail_json(mail) for mail in report.mails],
        "summary": {
            "mails": found.mails,
            "users": found.users,
            "jobs": found.jobs,
            "idle_gpu_hours": round(found.gpu_hours, 3),
            "idle_kwh": round(found.kwh, 3),
            "alerts": dict(found.alerts),
        },
    }
    return json.dumps(plain, indent=1) + "\n"


def _mail_json(mail: MailView) -> dict[str, Any]:
    lines = [
        {
            "alert": line.alert,
            "user": line.user,
            "jobid": line.jobid,
            "account": line.account,
            "partition": line.partition,
            "since": _utc(line.since),
            "nodes": list(line.waste.nodes),
            "gpus": None if line.waste.gpus is None else int(line.waste.gpus),
            "idle_gpu_hours": _rounded(line.waste.gpu_hours),
            "idle_kwh": _rounded(line.waste.kwh),
        }
        for line in mail.lines
    ]
    to = "owner" if mail.user else "operators"
    return {
        "at": _utc(mail.at),
        "to": to,
        "cluster": mail.cluster,
        "user": mail.user,
        "lines": lines,
    }


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 3)


# --- text ----------------------------------------------------------------------------------------


def as_text(report: Report, width: int = 120) -> str:
    """The report as a table of at most about ``width`` columns, and a summary."""
    wide, clusters = width >= _WIDE, {mail.cluster for mail in report.mails}
    hidden = {
        name for name, shown in (("nodes", wide), ("cluster", len(clusters) > 1)) if not shown
    }
    columns = [column for column in _COLUMNS if column not in hidden]
    rows = [row for mail in report.mails for row in _rows(mail, report.zone)]
    table = _table(columns, [[row[column] for column in columns] for row in rows])
    return "\n".join([*table, *_summary(report)]) + "\n"


_COLUMNS = ("mail", "cluster", "user", "job", "alert", "GPUs", "idle GPU h", "idle kWh", "nodes")
_RIGHT = {"GPUs", "idle GPU h", "idle kWh"}


def _rows(mail: MailView, zone: tzinfo) -> Iterator[dict[str, str]]:
    for at, line in enumerate(mail.lines):
        waste, again = line.waste, at and line.user == mail.lines[at - 1].user
        user = _shown(line.user) + ("" if mail.user else " (operators)")
        yield {
            "mail": "" if at else _local(mail.at, zone),
            "cluster": "" if at else _shown(mail.cluster) or "-",
            "user": "" if again else user,
            "job": _shown(line.jobid) or "-",
            "alert": _shown(line.alert.removeprefix("Jobwatt")),
            "GPUs": "-" if waste.gpus is None else f"{waste.gpus:.0f}",
            "idle GPU h": _figure(waste.gpu_hours, 1),
            "idle kWh": _figure(waste.kwh, 2),
            "nodes": _nodes(waste.nodes),
        }


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = (
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()
    yield ""


def _summary(report: Report) -> Iterator[str]:
    found, zone = report.summary(), report.zone
    span = f"{_local(report.start, zone)} to {_local(report.end, zone)} ({zone})"
    if not found.mails:
        yield f"nobody would have been mailed, {span}"
        return
    about = f" about {_some(found.jobs, 'job')}" if found.jobs else ""
    yield f"{_some(found.mails, 'mail')} to {_some(found.users, 'user')}{about}, {span}"
    yield f"idle by then: {found.gpu_hours:.1f} GPU hours, {found.kwh:.2f} kWh"
    width = max(map(len, found.alerts))
    for alert, count in sorted(found.alerts.items(), key=lambda pair: (-pair[1], pair[0])):
        yield f"  {_shown(alert, width).ljust(width)}  {count}"


def _some(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _local(at: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M")


def _figure(figure: float | None, decimals: int) -> str:
    return "-" if figure is None else f"{figure:.{decimals}f}"


def _nodes(nodes: Iterable[str]) -> str:
    """The first node, and how many more."""
    first, *more = [*nodes] or [""]
    return _shown(first) + (f" +{len(more)}" if more else "")


def _shown(text: str, limit: int = _LONGEST) -> str:
    """Untrusted text on a terminal: printable, and not longer than fits."""
    text = "".join(char if char.isprintable() else "?" for char in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"
