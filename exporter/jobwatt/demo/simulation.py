"""The only place of the demo's machinery that knows the simulated cluster: its nodes, its past and its present."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .children import answer
from .ports import bracketed
from .sim.fleet import NODES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLUSTER = "demo"
# Between two samples of the history. It must divide the five minutes of the rules' windows: these take
# x - x offset 5m, which over samples every 120 s is what 240 s or 360 s brought.
STEP_S = 60
# As Prometheus scrapes: what the history begins and ends on, and the step of its last FINE_S, which the rules' windows
# reach back to when the nodes live.
GRID_S, FINE_S = 15, 420

_MODULES = """
import sys, jobwatt.demo.sim.history
print(*(m.__file__ for n, m in sys.modules.items() if n.startswith("jobwatt") and m.__file__), sep="\\n")
"""
_MODULES_LIMIT_S = 30.0


def now_s() -> int:
    """The last moment on the grid."""
    return int(time.time()) // GRID_S * GRID_S


class Live(Protocol):
    """The nodes' exporters, at work."""

    def start(self) -> Mapping[str, int]:
        """Begin; the port of each node."""
        ...

    def stop(self) -> None:
        """End."""
        ...


class Simulation:
    """The cluster of ``jobwatt.demo.sim.cluster``, seen live from its day number ``days`` on."""

    seed = 7

    def __init__(self, days: float = 7.0) -> None:
        self._live_after_s = int(days * 86_400)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(NODES)

    def sources(self) -> list[Path]:
        """Files that make another history where they are changed: all code that writes it, and its data."""
        folder = Path(__file__).parent
        said = answer([sys.executable, "-c", _MODULES], _MODULES_LIMIT_S)
        if not said:
            raise ValueError(
                f"cannot tell which code makes the history: importing it failed or took over {_MODULES_LIMIT_S:.0f} s; "
                f"see what `{sys.executable} -m jobwatt.demo.sim.history --help` says"
            )
        # the last one writes out the expressions that are recorded
        names = ("simulation.py", "making.py", "recorded.py", "../alerts/inline.py")
        ours = [folder / name for name in names]
        return [*map(Path, said.splitlines()), *ours, *(folder / "sim/data").glob("*.csv")]

    def writer(
        self,
        out: Path,
        ledgers: Path,
        *,
        began_s: int,
        end_s: int,
        span: tuple[int, int],
        nodes: Sequence[str],
    ) -> list[str]:
        """
        Command line that writes what ``nodes`` showed after ``span[0]`` and until ``span[1]``, as OpenMetrics.

        ``end_s``: the last second of what is made, of which the span is a part.
        """
        return [
            sys.executable, "-m", "jobwatt.demo.sim.history", str(out), str(ledgers),
            f"--seed={self.seed}", f"--began-s={began_s}", f"--live-s={self.live_s(began_s)}", f"--from-s={span[0]}", f"--to-s={span[1]}",
            f"--fine-from-s={end_s - FINE_S}", f"--fine-step-s={GRID_S}", f"--coarse-step-s={STEP_S}",
            f"--nodes={','.join(nodes)}", f"--label={CLUSTER}",
        ]  # fmt: skip

    def live(self, *, began_s: int, ledgers: Path, host: str, first_port: int) -> Live:
        """The nodes from now on, going on where the ledgers end."""
        from .sim.live import Live as Nodes  # noqa: PLC0415  the exporter with all its parts

        return Nodes(
            seed=self.seed,
            began_s=began_s,
            live_s=self.live_s(began_s),
            ledgers=ledgers,
            host=bracketed(host),
            first_port=first_port,
        )

    def live_s(self, began_s: int) -> int:
        """When the cluster is first looked at: by then there is something to see."""
        return began_s + self._live_after_s
