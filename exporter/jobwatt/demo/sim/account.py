"""A node's account in the demo: the real pipeline, fed from the cluster at every step and every event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import __version__
from ...exposition import SourceStatus, View
from ...model import NS_PER_S
from ...pipeline import Pipeline
from .fleet import FLEET
from .hardware import DAEMONS_PERMILLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...ledger import Ledger
    from ...model import Snapshot
    from .cluster import Cluster
    from .fleet import NodeSpec

# As in assembly.gap_ns: an interval longer than two and a half regular ones is a gap.
_GAP_INTERVALS = 2.5
LINGER_NS = 600 * NS_PER_S  # as ledger.linger's default


def gap_ns(step_s: float) -> int:
    """A longer interval than this is a gap where snapshots come every ``step_s``."""
    return int(_GAP_INTERVALS * step_s * NS_PER_S)


class Account:
    """One node's pipeline and what its page is made from."""

    def __init__(self, cluster: Cluster, node: str, ledger: Ledger, step_s: float) -> None:
        self.node, self._cluster = node, cluster
        self.pipeline = Pipeline(ledger, gap_ns(step_s), LINGER_NS)
        self.pipeline.calibrate(idle_powers(FLEET[node]))

    def push(self, *, full: bool = True) -> View:
        """Take a snapshot of the node as it is now, through the pipeline."""
        snapshot = self._cluster.snapshot(self.node, full=full)
        totals = self.pipeline.push(snapshot)
        return View(
            totals=totals, snapshot=snapshot, idle=self.pipeline.idle, node=self.node, version=__version__,
            sources=sources(snapshot), ledger_fault=self.pipeline.ledger.fault, sample_s=0.002,
        )  # fmt: skip


def idle_powers(spec: NodeSpec) -> dict[str, int]:
    """What `jobwatt calibrate` would have found on the drained node: uW by device id."""
    host, daemons = spec.host, spec.host.per_cpu_uw * spec.host.cpus * DAEMONS_PERMILLE // 1000
    powers = {device.id: host.socket_idle_uw + daemons for device in spec.packages}
    powers |= {device.id: host.dram_idle_uw for device in spec.drams}
    return powers | {device.id: spec.model.idle_uw for device in spec.gpu_devices}


def sources(snapshot: Snapshot) -> tuple[SourceStatus, ...]:
    """The sources that delivered; reading takes them as long as it does on a node of eight GPUs."""
    names = sorted({reading.device.source for reading in snapshot.readings})
    return tuple(SourceStatus(name, up=True, read_s=0.001) for name in names)


def play(
    cluster: Cluster,
    accounts: Sequence[Account],
    to_s: int,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Let time pass until ``to_s``; as the daemon does, sample where a job begins or ends on the way."""
    while cluster.next_s < to_s and not stopped():
        cluster.advance(cluster.next_s)
        for account in accounts:
            if cluster.touched(account.node):
                account.push(full=False)
    cluster.advance(to_s)
