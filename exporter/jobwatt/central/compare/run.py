"""`jobwatt compare`: a job's energy beside what other tools say of it, and why they differ."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobwatt.alerts.promapi import Access, Prometheus

from . import carbontracker, codecarbon, greenalgorithms, sacct, view
from .figures import CompareError, Ours, Reason, Span, Theirs
from .job import History
from .reasons import Around, reasons

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

_MOST_SPANS = 50  # of a job's runs: each asks Prometheus 12 times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags to its parser."""
    add = parser.add_argument
    add("--job", required=True, metavar="JOBID", help="the job; 1234_5 is a task of an array")
    add(
        "--url",
        "--prometheus",
        dest="url",
        default="http://127.0.0.1:9090",
        metavar="URL",
        help="the Prometheus that scrapes jobwatt (default http://127.0.0.1:9090)",
    )
    add("--prometheus.user", dest="user", default="", metavar="NAME", help="for basic auth")
    for name, text in (
        ("password-file", "file with that user's password"),
        ("bearer-token-file", "file with a bearer token"),
        ("ca-file", "certificates that the server's is checked against"),
    ):
        dest = name.replace("-", "_")
        add(f"--prometheus.{name}", dest=dest, type=Path, metavar="FILE", help=text)
    add("--days", type=_positive, default=30.0, metavar="N", help="how far back to look (30)")
    add(
        "--match", default="", metavar="LABELS", help="""more labels of its series: 'cluster="a"'"""
    )
    add("--codecarbon", type=Path, metavar="FILE", help="CodeCarbon's emissions.csv")
    add("--carbontracker", type=Path, metavar="DIR", help="Carbontracker's log_dir")
    add(
        "--green-algorithms",
        action="store_true",
        help="the Green Algorithms formula, from Slurm's accounting (runs sacct)",
    )
    add("--sacct", type=Path, metavar="FILE", help="what `sacct -P` printed, instead of running it")
    for name, default, text in (
        ("core-tdp", greenalgorithms.CORE_W, "W of TDP per core"),
        ("gpu-tdp", None, "W of TDP per GPU; default by the type in gres/gpu:TYPE"),
        ("pue", greenalgorithms.PUE, "power usage effectiveness"),
    ):
        said = f"{text}, for Green Algorithms{f' ({default:g})' if default else ''}"
        add(f"--{name}", type=_positive, default=default, metavar="X", help=said)
    add("--json", action="store_true", help="for scripts: joules, seconds and grams")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError
    return value


def run(args: argparse.Namespace) -> int:
    """Ask, read, compare and print."""
    access = Access(args.user, args.password_file, args.bearer_token_file, args.ca_file)
    prometheus = Prometheus(args.url, access)
    history = History(prometheus, time.time(), args.days * 86_400, args.match)
    ours = history.job(args.job)
    compared = [(theirs, _reasons(history, ours, theirs)) for theirs in _others(args, ours)]
    show = view.as_json if args.json else view.as_text
    sys.stdout.write(show(ours, compared))
    return 0


def _others(args: argparse.Namespace, ours: Ours) -> Iterator[Theirs]:
    if args.codecarbon is not None:
        runs, bad = codecarbon.read(args.codecarbon)
        yield codecarbon.theirs(runs, ours.span, bad)
    if args.carbontracker is not None:
        yield carbontracker.theirs(carbontracker.read(args.carbontracker), ours.span)
    if args.green_algorithms or args.sacct is not None:
        job = sacct.ask(args.job) if args.sacct is None else sacct.read(args.sacct, args.job)
        assumed = greenalgorithms.Assumed(args.core_tdp, args.gpu_tdp, args.pue)
        yield greenalgorithms.theirs(job, assumed)


def _reasons(history: History, ours: Ours, theirs: Theirs) -> list[Reason]:
    """What was measured meanwhile is asked only of a tool that measures."""
    if theirs.covers == "model":
        return reasons(ours, theirs, Around({}, {}, None))
    spans = theirs.spans if len(theirs.spans) <= _MOST_SPANS else ()
    each = [_around(history, ours, span) for span in spans or (ours.span,)]
    held = [around.held_j for around in each]
    whole = Around(
        _sum([around.node_j for around in each]),
        _sum([around.job_j for around in each]),
        None if None in held else sum(joules for joules in held if joules is not None),
    )
    return reasons(ours, replace(theirs, spans=spans), whole)


def _around(history: History, ours: Ours, span: Span) -> Around:
    nodes = history.node_j(ours.instances, span)
    return Around(nodes, history.job_j(ours, span), history.gpus_j(ours, span))


def _sum(joules: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By component; one that is unknown in a span is unknown."""
    known = set.intersection(*(set(one) for one in joules))
    return {part: sum(one[part] for one in joules) for part in known}


__all__ = ["CompareError", "add_arguments", "run"]
