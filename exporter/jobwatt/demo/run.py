"""
`jobwatt demo`: a whole cluster on one machine, for as long as somebody looks at it.

Twelve simulated nodes under the real exporter, a real Prometheus with the project's rules, a real Alertmanager, a
mail server that keeps what it gets, the dashboards, and a week of history. It needs neither root nor a
network beyond what building the dashboards' viewer takes, and leaves nothing but its cache.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from . import cache, grafana, options, quicken, tools
from .children import ChildError, Children
from .ensemble import Ensemble, Stage
from .lifetime import Left, StoppedError, run_dir, stopping
from .ports import Ports
from .services import Addresses
from .simulation import Simulation
from .terminal import Terminal

if TYPE_CHECKING:
    import argparse
    import threading
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .options import Options
    from .status import Cost

_COST_AFTER_S = 10.0
_LOOK_S = 0.5


def run(args: argparse.Namespace) -> int:
    """Run the demo with parsed flags until a signal; the exit code."""
    wanted = options.of(args)
    return main(wanted, Simulation(wanted.days))


def main(wanted: Options, simulation: Simulation) -> int:
    """Run the demo until a signal; ValueError or OSError, in one line, where it cannot go on."""
    terminal, left = Terminal(), Left()
    with _quiet("jobwatt", "mail.log", "asyncio"), stopping(left.end_at_once) as stop:
        try:
            _run(wanted, simulation, terminal, left, stop)
        except ChildError as err:
            if not stop.is_set():
                raise ValueError(str(err)) from err
        except StoppedError:
            pass
    terminal.line(f"ended; only the cache is left: {wanted.cache}")
    return 0


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Only warnings of these loggers meanwhile: twelve daemons would say twelve times what they do."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _run(
    wanted: Options, simulation: Simulation, terminal: Terminal, left: Left, stop: threading.Event
) -> None:
    ports = Ports(wanted.listen, wanted.ports)
    at = _addresses(wanted, ports, len(simulation.nodes))
    kept = cache.Cache(wanted.cache)
    with ExitStack() as stack:
        left.folder = folder = stack.enter_context(run_dir())
        left.children = children = Children(folder / "logs")
        lacking = _lacking()
        terminal.line(
            f"{len(simulation.nodes)} simulated GPU nodes, with everything that jobwatt is made for"
        )
        for line in (*ports.moved, *lacking):
            terminal.line(line)
        stage = Stage(
            wanted,
            simulation,
            at,
            ports,
            kept,
            folder,
            children,
            terminal,
            stop,
            left,
            tuple(lacking),
        )
        ensemble = Ensemble(stage)
        # what is registered last comes first
        stack.callback(ensemble.join)
        stack.callback(children.close)
        stack.callback(ensemble.stop)
        ensemble.start()
        _show(ensemble)
        _stay(ensemble, terminal, stop)
        terminal.line("ending")


def _addresses(wanted: Options, ports: Ports, nodes: int) -> Addresses:
    given = ports.take(
        {
            "port": (options.PAGE, 1),
            "prometheus-port": (options.PROMETHEUS, 1),
            "alertmanager-port": (options.ALERTMANAGER, 1),
            "first-node-port": (options.FIRST_NODE, nodes),
        }
    )
    return Addresses(
        wanted.listen,
        page=given["port"],
        prometheus=given["prometheus-port"],
        alertmanager=given["alertmanager-port"],
        first_node=given["first-node-port"],
        grafana=ports.near(grafana.PORT),
        smtp=ports.any(),
    )


def _lacking() -> list[str]:
    """A line for each program that is not there."""
    smtp = [] if tools.has_smtp() else [tools.NO_SMTP]
    return [*tools.missing(tools.PROMETHEUS, tools.PROMTOOL, tools.ALERTMANAGER), *smtp]


def _stay(ensemble: Ensemble, terminal: Terminal, stop: threading.Event) -> None:
    """Wait for the end; tell once what everything costs, and of each program that ends by itself."""
    ready_s, cost_told = terminal.elapsed_s, False
    while not stop.wait(_LOOK_S):
        ensemble.look()
        costs = ensemble.costs()
        if not cost_told and terminal.elapsed_s - ready_s >= _COST_AFTER_S:
            cost_told = True
            terminal.line(_cost(costs))


# --- what a person and scripts are told --------------------------------------------------------------


def _show(ensemble: Ensemble) -> None:
    """Print where everything is, and write the ready file."""
    ensemble.stage.terminal.block(_text(ensemble))
    if ensemble.stage.options.ready_file:
        _write_ready(ensemble.stage.options.ready_file, ensemble)


def _text(ensemble: Ensemble) -> str:
    """The block of URLs, and what to look at."""
    at, start = ensemble.stage.at, ensemble.site.start
    page = at.url(at.page)
    rows = [("start here", f"{page}/"), *start.links.items()]
    if "Prometheus" in start.links:
        rows.insert(1, ("mails", f"{page}/mails   (the first within two or three minutes)"))
    if start.nodes:
        urls = list(start.nodes.values())
        rows.append((f"{len(urls)} nodes", f"{urls[0]} ... {urls[-1]}"))
    lines = [f"  {name:<13} {what}\n" for name, what in rows]
    return "\n" + "".join(lines) + f"\n  {quicken.SAID}.\n  Ctrl-C ends everything.\n\n"


def _cost(costs: Sequence[Cost]) -> str:
    """Memory and CPU of everything, in a line."""
    rss, cpu = sum(one.rss_bytes for one in costs), sum(one.cpu_percent for one in costs)
    parts = ", ".join(f"{one.name} {one.rss_bytes / 1e6:.0f} MB" for one in costs)
    return f"all of it takes {rss / 1e6:.0f} MB and {cpu:.0f} % of a CPU ({parts})"


def _write_ready(path: Path, ensemble: Ensemble) -> None:
    """Write the ports as JSON, whole or not at all."""
    at = ensemble.stage.at
    found = {
        "pid": os.getpid(),
        "run_dir": str(ensemble.stage.folder),
        "page": at.page,
        "prometheus": at.prometheus,
        "alertmanager": at.alertmanager,
        "smtp": at.smtp,
        "nodes": dict(ensemble.nodes),
        "dashboards_url": ensemble.site.start.dashboards_url or at.url(at.page),
        "history": {"began_s": ensemble.meta.began_s, "until_s": ensemble.meta.until_s},
        "took_s": {"ready": round(ensemble.stage.terminal.elapsed_s, 1), **ensemble.took_s},
        "pids": {child.name: child.process.pid for child in ensemble.services},
    }
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(found, indent=1), encoding="utf-8")
    draft.replace(path)
