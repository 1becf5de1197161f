"""Twelve nodes and their scheduler, at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fleet import FLEET, NODES
from .hardware import Hardware, Times
from .scheduler import Scheduler
from .sensors import Sensors
from .standing import HISTORY_S
from .truth import Truth

if TYPE_CHECKING:
    from ...model import Snapshot

__all__ = ["NODES", "Cluster"]

# The nodes have been up for so long when the cluster begins: longer than any job.
_UP_S = 40 * 86_400


class Cluster:
    """
    Deterministic: the same ``seed`` and ``began_s`` give the same cluster at any time, whatever the
    steps of ``advance`` and whoever asks for which snapshots.

    Args:
        live_s: when somebody looks at it live; by default after seven days. From shortly before that on
            there is always a row of failing jobs, and most of the time a lost GPU. Nothing else depends on it.

    Attributes:
        now_s: Unix time, whole seconds.
        boot_id: of all nodes.
    """

    def __init__(self, seed: int, began_s: int, live_s: int | None = None) -> None:
        self.now_s = began_s
        self.boot_id = f"demo-{seed}-{began_s}"
        live_s = began_s + HISTORY_S if live_s is None else live_s
        self.scheduler = Scheduler(seed, began_s, live_s)
        times = Times(began_s - _UP_S, began_s, live_s)
        self._hardware = {n: Hardware(spec, seed, times) for n, spec in FLEET.items()}
        self._sensors = {n: Sensors(h, self.boot_id) for n, h in self._hardware.items()}
        for run in self.scheduler.before:
            for part in run.parts:
                self._hardware[part.node].seat(run)
        for hardware in self._hardware.values():
            hardware.warm_up()

    @property
    def next_s(self) -> int:
        """When something happens next: a submission, a start, an end."""
        return self.scheduler.next_s

    def advance(self, to_s: int) -> None:
        """Let time pass until ``to_s``; an earlier time changes nothing."""
        self.scheduler.advance(to_s)
        self.now_s = max(self.now_s, to_s)

    def touched(self, node: str) -> bool:
        """Whether a job began or ended on the node at this very second, and nobody has looked since."""
        log = self.scheduler.log[node]
        return bool(log) and log[-1].at_s == self.now_s

    def snapshot(self, node: str, *, full: bool = True) -> Snapshot:
        """The node at ``now_s``; ``ended`` are the jobs that ended since the last snapshot of it."""
        self._hardware[node].advance(self.now_s, self.scheduler.log[node])
        return self._sensors[node].read(full=full)

    def truth(self) -> Truth:
        """What all nodes have used since ``began_s``, added up apart from the pipeline."""
        total = Truth()
        for node, hardware in self._hardware.items():
            hardware.advance(self.now_s, self.scheduler.log[node])
            total.add(hardware.truth())
        return total
