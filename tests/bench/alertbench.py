"""
How good the mails to users are, on labelled traces: part of ``make bench-alerts``.

Every trace (traces.py) goes through jobwatt's own pipeline; its pages become past data of a real
Prometheus; `jobwatt alerts replay` says who would have been mailed, with the shipped rules and
thresholds, mails at any hour (the labels say when something is the matter, not when an office is
open) and the partition "interactive" known as such. Beside it, the rule of the Job Defense Shield
on the same pages (jobpages.Shield says what was taken for it).

A mail is right if its job was to be mailed at all; a wish is fulfilled if the mail comes in time.
What a backfill cannot have: markers of staleness. Where scrapes fail or a job ends, series stay for
Prometheus's five minutes of looking back, which real ones do not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "exporter")]

from jobpages import BEGIN, SAMPLE_S, SCRAPE_S, Shield, jobids, nodes  # noqa: E402  the path is set above
from traces import KINDS, Trace, traces  # noqa: E402

from backfill import past  # noqa: E402
from jobwatt.alerts import files, inline, replay, replayview, rules, site  # noqa: E402
from jobwatt.alerts.promapi import Prometheus  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from jobwatt.alerts.simulate import Mail

IDS = 1000  # numbers of jobs for each trace
FIGURES = {"jobwatt_job_gpu_idle_seconds_total", "jobwatt_job_gpu_idle_energy_joules_total"}


@dataclass(frozen=True)
class Verdict:
    """What became of one trace: hours after its start, and the alerts told; None: nothing."""

    trace: Trace
    told: float | None
    alerts: frozenset[str]
    shield: float | None

    @property
    def in_time(self) -> bool:
        return _in_time(self.told, self.trace)

    @property
    def right_alert(self) -> bool:
        return bool(self.alerts & self.trace.want.alerts)


def _in_time(told: float | None, trace: Trace) -> bool:
    return told is not None and trace.want.by is not None and told <= trace.want.by


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", help="kinds whose name contains this")
    parser.add_argument(
        "--mails", action="store_true", help="also the mails, as a site would see them"
    )
    args = parser.parse_args(argv)
    began = time.monotonic()
    chosen = [
        (trace, IDS * at)
        for at, trace in enumerate(traces(), 1)
        if not args.only or args.only in trace.kind
    ]
    setting = replay.Setting(inline.read(rules.texts(bench_site())))
    with tempfile.TemporaryDirectory() as folder:
        parts, shields = _pages(chosen, Path(folder), _wanted(setting))
        _say(f"{len(parts)} nodes through the pipeline: {time.monotonic() - began:.0f} s")
        with past(Path(folder) / "prometheus", _lines(parts)) as prometheus:
            _say(f"backfilled: {time.monotonic() - began:.0f} s")
            server = Prometheus(f"http://127.0.0.1:{prometheus.port}")
            span = replay.Span(BEGIN, BEGIN + 16 * 3600, 300)
            mails = replay.replay(server, setting, span)
            _say(f"replayed: {time.monotonic() - began:.0f} s")
            if args.mails:
                shown = tuple(replay.view(server, mails, setting.pue))
                report = replayview.Report(
                    span.start, span.end, span.step, setting.schedule.zone, shown
                )
                print(replayview.as_text(report))
    verdicts = list(_verdicts(chosen, mails, shields))
    print("\n".join(_report(verdicts, mails)))
    print(f"{time.monotonic() - began:.0f} s")
    return 0


def bench_site() -> site.Site:
    """The shipped site, mailing at any hour, with a partition for interactive work."""
    shipped = site.read(files.root() / "site.toml")
    any_hour = site.Schedule("UTC", (0, 1440), tuple(range(7)))
    interactive = site.Interactive(partition=("interactive",))
    return replace(shipped, schedule=any_hour, interactive=interactive)


def _wanted(setting: replay.Setting) -> frozenset[str]:
    """The metrics that the user alerts are made of."""
    alerts = setting.rules.user_alerts()
    needed = inline.metrics(setting.rules, [alert.expr for alert in alerts])
    return frozenset(needed | FIGURES | {"jobwatt_snapshot_timestamp_seconds"})


# --- pages ---------------------------------------------------------------------------------------


def _pages(
    chosen: Iterable[tuple[Trace, int]], folder: Path, wanted: frozenset[str]
) -> tuple[list[Path], dict[str, float]]:
    """One file of lines per trace; and whom the shield would have told, by job."""
    told: dict[str, float] = {}
    parts = []
    with ProcessPoolExecutor() as pool:
        jobs = [(trace.name, ids, folder, wanted) for trace, ids in chosen]
        for part, shield in pool.map(_write, jobs, chunksize=4):
            parts.append(part)
            told |= shield
    return parts, told


def _write(job: tuple[str, int, Path, frozenset[str]]) -> tuple[Path, dict[str, float]]:
    name, ids, folder, wanted = job
    trace = next(trace for trace in traces() if trace.name == name)  # its functions do not travel
    told: dict[str, float] = {}
    path = folder / f"{name}.part"
    with path.open("w", encoding="utf-8") as out:
        for node in nodes(trace, ids):
            shield = Shield()
            out.writelines(node.lines(wanted, shield))
            told = {job: min(at, told.get(job, at)) for job, at in shield.told.items()} | {
                job: at for job, at in told.items() if job not in shield.told
            }
    return path, told


def _lines(parts: Iterable[Path]) -> Iterator[str]:
    for part in parts:
        with part.open(encoding="utf-8") as lines:
            yield from lines
        part.unlink()


# --- verdicts ------------------------------------------------------------------------------------


def _verdicts(
    chosen: Iterable[tuple[Trace, int]], mails: Iterable[Mail], shield: Mapping[str, float]
) -> Iterator[Verdict]:
    by_job: dict[str, list[tuple[float, str]]] = defaultdict(list)
    by_user: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for mail in mails:
        for line in mail.told:
            jobid = line.labels.get("jobid")
            (by_job[jobid] if jobid else by_user[mail.group["user"]]).append((mail.at, line.alert))
    for trace, ids in chosen:
        begin = BEGIN + trace.start * 3600
        jobs = jobids(trace.plan, ids)
        told = [line for job in jobs for line in by_job[job]] + by_user[trace.user]
        warned = [shield[job] for job in jobs if job in shield]
        yield Verdict(
            trace,
            (min(told)[0] - begin) / 3600 if told else None,
            frozenset(alert for _, alert in told),
            (min(warned) - begin) / 3600 if warned else None,
        )


# --- the report ----------------------------------------------------------------------------------


def _report(verdicts: list[Verdict], mails: list[Mail]) -> Iterator[str]:
    jobs = sum(verdict.trace.plan.repeat for verdict in verdicts)
    yield (
        f"{len(verdicts)} traces ({jobs} jobs) of {len({v.trace.kind for v in verdicts})} kinds, sampled every"
        f" {SAMPLE_S} s, scraped every {SCRAPE_S} s; {len(mails)} mails"
    )
    yield ""
    yield f"{'kind':32}{'traces':>7}  {'wanted':>8}  {'mailed':>7}{'in time':>8}{'apt':>5}  {'median':>7}  {'shield':>7}"
    for kind in KINDS:
        of_kind = [verdict for verdict in verdicts if verdict.trace.kind == kind.name]
        if of_kind:
            yield _kind_row(kind.name, of_kind)
    yield ""
    yield from _totals(verdicts)
    yield from _by_alert(verdicts)
    yield from _misses(verdicts)


def _kind_row(name: str, verdicts: list[Verdict]) -> str:
    told = sorted(v.told for v in verdicts if v.told is not None)
    wanted = sum(v.trace.want.by is not None for v in verdicts)
    apt = str(sum(v.right_alert for v in verdicts)) if wanted else ""
    in_time = str(sum(v.in_time for v in verdicts)) if wanted else ""
    median = f"{told[len(told) // 2]:.1f} h" if told else ""
    shield = sum(v.shield is not None for v in verdicts)
    return (
        f"{name:32}{len(verdicts):>7}  {'mail' if wanted else 'no mail':>8}  {len(told):>7}{in_time:>8}{apt:>5}"
        f"  {median:>7}  {shield:>7}"
    )


def _totals(verdicts: list[Verdict]) -> Iterator[str]:
    yield f"{'':32}{'precision':>11}{'recall':>9}   right  wrong  in time  late  never"
    yield _total("jobwatt's user alerts", [(v.trace, v.told) for v in verdicts])
    yield _total("Job Defense Shield's zero rule", [(v.trace, v.shield) for v in verdicts])
    yield ""


def _total(name: str, told: list[tuple[Trace, float | None]]) -> str:
    right = sum(at is not None and trace.want.by is not None for trace, at in told)
    wrong = sum(at is not None and trace.want.by is None for trace, at in told)
    in_time = sum(_in_time(at, trace) for trace, at in told)
    wanted = sum(trace.want.by is not None for trace, _ in told)
    return (
        f"{name:32}{_share(right, right + wrong):>11}{_share(in_time, wanted):>9}   {right:>5}{wrong:>7}"
        f"{in_time:>9}{right - in_time:>6}{wanted - right:>7}"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def _by_alert(verdicts: list[Verdict]) -> Iterator[str]:
    """
    An alert's precision: of the traces told of it, those that wanted it. Its recall: of the traces of
    which it is the first thing to say, those told of it.
    """
    names = sorted({name for v in verdicts for name in v.alerts | v.trace.want.alerts})
    yield f"{'alert':32}{'precision':>11}{'recall':>9}   traces told, and wanting it"
    for name in names:
        told = [v for v in verdicts if name in v.alerts]
        wanting = [v for v in verdicts if name in v.trace.want.alerts]
        right = [v for v in told if name in v.trace.want.alerts]
        # several alerts may be apt: a trace told of another apt one in time lacks nothing
        served = [v for v in wanting if v.in_time and v.right_alert]
        yield (
            f"{name.removeprefix('Jobwatt'):32}{_share(len(right), len(told)):>11}"
            f"{_share(len(served), len(wanting)):>9}   {len(told)}, {len(wanting)}"
        )
    yield ""


def _misses(verdicts: list[Verdict]) -> Iterator[str]:
    found = [line for v in verdicts if (line := _miss(v))]
    yield f"misses: {len(found)}" if found else "no misses"
    yield from (f"  {line}" for line in found)


def _miss(verdict: Verdict) -> str:
    """What went wrong with this one; "" where nothing did."""
    name, want, told = verdict.trace.name, verdict.trace.want, verdict.told
    alerts = ", ".join(sorted(alert.removeprefix("Jobwatt") for alert in verdict.alerts))
    if want.by is None:
        return (
            f"{name}: mailed after {told:.1f} h ({alerts}), no mail wanted"
            if told is not None
            else ""
        )
    if told is None:
        return f"{name}: never mailed, wanted within {want.by:.1f} h"
    if not verdict.in_time:
        return f"{name}: mailed after {told:.1f} h ({alerts}), wanted within {want.by:.1f} h"
    wanted = ", ".join(sorted(alert.removeprefix("Jobwatt") for alert in want.alerts))
    return "" if verdict.right_alert else f"{name}: mailed about {alerts}, apt is {wanted}"


def _say(what: str) -> None:
    print(f"bench-alerts: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
