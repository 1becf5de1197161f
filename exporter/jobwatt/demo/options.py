"""What `jobwatt demo` can be told, as flags and as a frozen dataclass."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

PAGE, PROMETHEUS, ALERTMANAGER, FIRST_NODE = 3000, 9090, 9093, 9816
_PORTS = (
    ("port", PAGE, "the page: dashboards, mails and what runs where"),
    ("prometheus-port", PROMETHEUS, "Prometheus"),
    ("alertmanager-port", ALERTMANAGER, "Alertmanager"),
    ("first-node-port", FIRST_NODE, "the first of the nodes; the others follow in a row"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """
    The demo's settings.

    Attributes:
        ports: port by flag, where one was given; the others have their default, or a free one.
        days: how long a history there is when the page opens.
        ready_file: where the ports are written, as JSON, once everything runs.
    """

    listen: str
    ports: Mapping[str, int]
    cache: Path
    fresh: bool = False
    days: float = 7.0
    grafana: bool = True
    ready_file: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags to its parser."""
    parser.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="HOST",
        help="address that everything listens on (default 127.0.0.1: this machine only)",
    )
    for name, port, what in _PORTS:
        text = f"{what} (default {port}, or a free port where that is taken)"
        parser.add_argument(f"--{name}", type=int, metavar="PORT", help=text)
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where the made history and the built dashboard viewer are kept (default ~/.cache/jobwatt/demo)",
    )
    parser.add_argument("--fresh", action="store_true", help="make the history anew")
    parser.add_argument(
        "--days", type=float, default=7.0, metavar="N", help="days of history (default 7)"
    )
    parser.add_argument(
        "--no-grafana",
        dest="grafana",
        action="store_false",
        help="draw the dashboards with the project's viewer even where there is a Grafana",
    )
    parser.add_argument(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help="write the ports there, as JSON, once everything runs (for scripts)",
    )


def of(args: argparse.Namespace) -> Options:
    """Check parsed flags; ValueError, naming the flag, where one makes no sense."""
    if not 0 < args.days <= 30:
        raise ValueError(f"--days={args.days:g} is not between 0 and 30")
    ports = {}
    for name, _, _ in _PORTS:
        port = getattr(args, name.replace("-", "_"))
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"--{name}={port} is no port: 1 to 65535")
        if port is not None:
            ports[name] = port
    if args.ready_file:
        _check_place(args.ready_file)
    return Options(
        listen=args.listen,
        ports=ports,
        cache=(args.cache or default_cache()).absolute(),
        fresh=args.fresh,
        days=args.days,
        grafana=args.grafana,
        ready_file=args.ready_file,
    )


def _check_place(ready_file: Path) -> None:
    """Now, rather than after the minutes that a history takes."""
    if ready_file.is_dir():
        raise ValueError(f"--ready-file={ready_file} is a folder; name a file")
    if not os.access(ready_file.absolute().parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"--ready-file={ready_file}: no folder {ready_file.absolute().parent} that can be written; name another file"
        )


def default_cache() -> Path:
    """$XDG_CACHE_HOME/jobwatt/demo, or below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "jobwatt" / "demo"
