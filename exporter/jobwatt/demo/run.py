"""
`jobwatt demo`: a whole cluster on one machine, for as long as somebody looks at it.

Twelve simulated nodes under the real exporter, a real Prometheus with the project's rules, a real Alertmanager, a
mail server that keeps what it gets, the dashboards, and a week of history. It needs neither root nor a
network beyond what building the dashboards' viewer takes, and leaves nothing but its cache.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import cache, grafana, options, summary, tools
from .children import ChildError, Children
from .ensemble import Ensemble
from .ports import Ports
from .rundir import run_dir
from .services import Addresses, StoppedError
from .signals import stopping
from .simulation import Simulation
from .stage import Stage
from .terminal import Terminal

if TYPE_CHECKING:
    import argparse
    import threading
    from pathlib import Path

    from .options import Options

_COST_AFTER_S = 10.0
_LOOK_S = 0.5


def run(args: argparse.Namespace) -> int:
    """Run the demo with parsed flags until a signal; the exit code."""
    wanted = options.of(args)
    return main(wanted, Simulation(wanted.days))


def main(wanted: Options, simulation: Simulation) -> int:
    """Run the demo until a signal; ValueError or OSError, in one line, where it cannot go on."""
    for name in ("jobwatt", "mail.log", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal, left = Terminal(), Left()
    with stopping(left.end_at_once) as stop:
        try:
            _run(wanted, simulation, terminal, left, stop)
        except ChildError as err:
            if not stop.is_set():
                raise ValueError(str(err)) from err
        except StoppedError:
            pass
    terminal.line(f"ended; only the cache is left: {wanted.cache}")
    return 0


@dataclass(slots=True)
class Left:
    """What a second Ctrl-C has to see to."""

    children: Children | None = None
    folder: Path | None = None

    def end_at_once(self) -> None:
        """Kill and remove."""
        if self.children:
            self.children.kill()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


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
            wanted, simulation, at, ports, kept, folder, children, terminal, stop, tuple(lacking)
        )
        ensemble = Ensemble(stage)
        # what is registered last comes first
        stack.callback(ensemble.join)
        stack.callback(children.close)
        stack.callback(ensemble.stop)
        ensemble.start()
        summary.show(ensemble)
        _stay(ensemble, terminal, stop)
        terminal.line("ending")


def _addresses(wanted: Options, ports: Ports, nodes: int) -> Addresses:
    return Addresses(
        wanted.listen,
        page=ports.take("port", options.PAGE),
        prometheus=ports.take("prometheus-port", options.PROMETHEUS),
        alertmanager=ports.take("alertmanager-port", options.ALERTMANAGER),
        first_node=ports.take("first-node-port", options.FIRST_NODE, nodes),
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
            terminal.line(summary.cost(costs))
