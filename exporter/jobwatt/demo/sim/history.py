"""
The past of some nodes, as OpenMetrics text for ``promtool tsdb create-blocks-from openmetrics``.

Each node's snapshots go through a pipeline of its own; its ledger is written at the end, so that the
past can be continued later, or lived on from (live.py). Several of these may run at once, each with
nodes of its own: ``python -m jobwatt.demo.sim.history --help``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...encoder import escaped
from ...exposition import families
from ...ledger import Ledger
from .account import Account, play
from .cluster import NODES, Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TextIO

    from ...exposition import View
    from ...jobview import Values
    from ...metrics import Metric

# What neither rules nor dashboards look back at; live it is there as on any node.
LEFT_OUT = frozenset(
    {
        "jobwatt_sample_seconds", "jobwatt_samples_total", "jobwatt_source_read_seconds", "jobwatt_gpu_processes",
        "jobwatt_gpu_memory_busy_ratio", "jobwatt_gpu_memory_clock_hertz", "jobwatt_gpu_throttled", "jobwatt_steps_total",
        "jobwatt_driver_info", "jobwatt_ledger_up",
    }
)  # fmt: skip
# Of these a series begins in the text when it is no longer 0: almost all of them never are.
FROM_FIRST_EVENT = frozenset(
    {"jobwatt_gpu_throttle_seconds_total", "jobwatt_gpu_ecc_errors_total", "jobwatt_gpu_remapped_rows"}
)  # fmt: skip
_BUFFER_BYTES = 8 << 20
_PROGRESS_S = 4 * 3600


class Writer:
    """One node's lines. What stands before a value is made once per series."""

    def __init__(self, out: TextIO, node: str, label: str, left_out: frozenset[str]) -> None:
        self._out, self._left_out = out, left_out
        self._own = f'cluster="{escaped(label)}",instance="{escaped(node)}",job="jobwatt"'
        self._starts: dict[str, dict[Values, str]] = {}

    def write(self, view: View) -> None:
        """All of a page, at its snapshot's time."""
        end = f" {int(view.snapshot.wall_s)}\n"
        lines = [f"up{{{self._own}}} 1{end}"]
        for metric, rows in families(view):
            if metric.name in self._left_out:
                continue
            starts = self._starts.setdefault(metric.name, {})
            never = metric.name in FROM_FIRST_EVENT
            for values, text in rows.items():
                if never and text == "0":
                    continue
                start = starts.get(values)
                if start is None:
                    start = starts[values] = self._start(metric, values)
                lines.append(start + text + end)
        self._out.write("".join(lines))

    def _start(self, metric: Metric, values: Values) -> str:
        pairs = "".join(
            f'{name}="{escaped(value)}",' for name, value in zip(metric.labels, values, strict=True)
        )
        return f"{metric.name}{{{pairs}{self._own}}} "


def write(  # noqa: PLR0913  (each is an argument of the command line, too)
    out: Path,
    ledgers: Path,
    *,
    seed: int,
    began_s: int,
    from_s: int,
    to_s: int,
    nodes: Sequence[str],
    fine_from_s: int,
    fine_step_s: int = 60,
    coarse_step_s: int = 120,
    label: str = "demo",
    live_s: int | None = None,
    left_out: frozenset[str] = LEFT_OUT,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """
    Write what ``nodes`` would have exported from ``from_s`` to ``to_s``, and their ledgers.

    Goes on where ``ledgers/NODE.db`` ends, if it is there: ``from_s`` is then what was ``to_s``. Steps
    are multiples of their length since 1970, and divisors of 240 (behaviour.BLOCK_S). The last page is at
    ``to_s``, for the ledgers end with it: ValueError unless it is a multiple of the fine step, and where
    it lies before ``fine_from_s``, of the coarse step.

    Args:
        fine_from_s: from here on a page every ``fine_step_s``, before every ``coarse_step_s``.
        live_s: see Cluster; the same for all parts of a history.
        left_out: metrics that are not written.
        progress: told now and then what part is done, 0 to 1.
    """
    steps = list(_steps(from_s, to_s, fine_from_s, fine_step_s, coarse_step_s))
    if steps[-1:] != [to_s]:
        raise ValueError(f"the end {to_s} is no multiple of the step that holds there")
    cluster = Cluster(seed, began_s, live_s)
    cluster.advance(from_s)
    accounts = [Account(cluster, node, Ledger(None), coarse_step_s) for node in nodes]
    kept = {node: Ledger(ledgers / f"{node}.db") for node in nodes}
    if not [account for account in accounts if _restored(account, kept, cluster)]:
        steps.insert(0, from_s)
    with out.open("w", encoding="utf-8", buffering=_BUFFER_BYTES) as text:
        writers = {node: Writer(text, node, label, left_out) for node in nodes}
        _write_pages(cluster, accounts, writers, kept, steps, progress)
        text.write("# EOF\n")
    for ledger in kept.values():
        ledger.close()
    progress(1.0)


def _write_pages(
    cluster: Cluster,
    accounts: Sequence[Account],
    writers: Mapping[str, Writer],
    kept: Mapping[str, Ledger],
    steps: Sequence[int],
    progress: Callable[[float], None],
) -> None:
    """A page of each account at each step; the last step goes into the kept ledgers."""
    began_s = told_s = steps[0]
    for at_s in steps:
        play(cluster, accounts, at_s)
        for account in accounts:
            if at_s == steps[-1]:  # only now to disk
                account.pipeline.ledger = kept[account.node]
            writers[account.node].write(account.push())
        if at_s - told_s >= _PROGRESS_S:
            told_s = at_s
            progress((at_s - began_s) / (steps[-1] - began_s))


def _restored(account: Account, kept: dict[str, Ledger], cluster: Cluster) -> bool:
    """Whether the account goes on from a ledger; in any case what ended before now is old news."""
    account.pipeline.ledger = kept[account.node]
    account.pipeline.restore(cluster.boot_id)
    account.pipeline.ledger = Ledger(None)
    cluster.snapshot(account.node)
    return bool(account.pipeline.totals.node)


def _steps(from_s: int, to_s: int, fine_from_s: int, fine_s: int, coarse_s: int) -> Iterator[int]:
    """Moments after ``from_s``."""
    at_s = from_s
    while True:
        step_s = fine_s if at_s >= fine_from_s else coarse_s
        at_s = (at_s // step_s + 1) * step_s
        if at_s > to_s:
            return
        yield at_s


def _tell(part: float) -> None:
    sys.stderr.write(f"progress {part:.2f}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> None:
    """As a child process: prints ``progress 0.43`` to stderr."""
    parser = argparse.ArgumentParser(prog="python -m jobwatt.demo.sim.history", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("ledgers", type=Path)
    for name in ("seed", "began-s", "from-s", "to-s", "fine-from-s"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--nodes", default=",".join(NODES), help="names with commas between them")
    parser.add_argument("--fine-step-s", type=int, default=60)
    parser.add_argument("--coarse-step-s", type=int, default=120)
    parser.add_argument("--live-s", type=int, help="Unix time at which live begins")
    parser.add_argument("--label", default="demo", help="label cluster of every series")
    given = vars(parser.parse_args(argv))
    given["nodes"] = given["nodes"].split(",")
    write(**given, progress=_tell)


if __name__ == "__main__":
    main()
