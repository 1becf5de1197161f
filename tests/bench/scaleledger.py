"""
A simulated year of one node's ledger: what it holds, how long a commit takes at the beginning and at the end, and how
long a restart. Jobs go through jobwatt's own pipeline into a file; the year has as many steps as there is time for, and
in each of them come and go the jobs of that time.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from scalenodes import JOBS_A_DAY_PER_NODE, Load, Node

from jobwatt.ledger import Ledger
from jobwatt.model import GpuState

if TYPE_CHECKING:
    from jobwatt.bookrows import Book

YEAR_S = 365 * 86_400
JOBS = 1_700  # of a node a year: 20,000 jobs on 12 nodes
MANY = 100
_BEGAN_S = 1_700_000_000
_EDGE = 200  # commits at either end that are timed
_BOOT = "scale-20261126"


class _Timed(Ledger):
    """Notes how long commits take."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.took_s: list[float] = []

    def commit(self, book: Book) -> None:
        began = time.perf_counter()
        super().commit(book)
        self.took_s.append(time.perf_counter() - began)


def year(steps: int = 20_000) -> dict[str, Any]:
    """The usual number of jobs, a hundred times as many, and a node whose MIG instances are made anew each day."""
    return {
        "usual": one(JOBS, steps),
        "many": one(JOBS * MANY, steps),
        "mig": repartitioned(365),
    }


def one(jobs: int, steps: int, span_s: int = YEAR_S) -> dict[str, Any]:
    """A year, or less, at so many jobs a year."""
    load = Load(1, jobs / (JOBS_A_DAY_PER_NODE * 365))
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        path = Path(folder) / "ledger.db"
        node = Node(0, load, _BEGAN_S, path)
        node.pipeline.ledger.close()
        ledger = node.pipeline.ledger = _Timed(path)
        step_s = span_s / steps
        node.pipeline.regular_ns = int(2.5 * step_s * 1e9)
        sizes = []
        for at in range(1, steps + 1):
            node.advance(_BEGAN_S + int(at * step_s), publish=False)
            if at % max(steps // 50, 1) == 0:
                sizes.append(_bytes(path))
        return {"jobs": node.jobs_started, "steps": steps} | _figures(ledger, path, sizes)


def repartitioned(times: int) -> dict[str, Any]:
    """Eight GPUs whose 56 MIG instances get new UUIDs so many times."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        path = Path(folder) / "ledger.db"
        node = Node(0, Load(1), _BEGAN_S)
        ledger = node.pipeline.ledger = _Timed(path)
        sizes = []
        for at in range(1, times + 1):
            node.advance(_BEGAN_S + 60 * at)
            assert node.board.view is not None
            snapshot = node.board.view.snapshot
            made = tuple(
                GpuState(f"MIG-{at:05d}-{gpu}-{slot}", gpu, parent=snapshot.gpus[gpu].uuid)
                for gpu in range(8)
                for slot in range(7)
            )
            t_ns = snapshot.t_ns + 10**9
            node.pipeline.push(replace(snapshot, t_ns=t_ns, gpus=snapshot.gpus + made, ended=()))
            sizes.append(_bytes(path))
        known = len(node.pipeline.totals.gpu_index)
        return {"times": times, "gpus_known": known} | _figures(ledger, path, sizes)


def _figures(ledger: _Timed, path: Path, sizes: list[int]) -> dict[str, Any]:
    assert ledger._db is not None
    rows = {
        table: ledger._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("job", "state")
    }
    state = ledger._db.execute("SELECT sum(length(body)) FROM state").fetchone()[0]
    edge = min(_EDGE, len(ledger.took_s) // 4)
    return {
        "rows": rows,
        "state_bytes": state,
        "first_bytes": sizes[0],
        "most_bytes": max(sizes),
        "last_bytes": sizes[-1],
        "commit_ms_first": round(median(ledger.took_s[1 : edge + 1]) * 1e3, 3),
        "commit_ms_last": round(median(ledger.took_s[-edge:]) * 1e3, 3),
        "restart_ms": round(_restart_s(path) * 1e3, 1),
    }


def _bytes(path: Path) -> int:
    """Of the file and its WAL."""
    return sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*"))


def _restart_s(path: Path) -> float:
    """As after a kill: the files as they are now are opened and read."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        for one in path.parent.glob(f"{path.name}*"):
            if not one.name.endswith("-shm"):
                shutil.copy(one, folder)
        began = time.perf_counter()
        ledger = Ledger(Path(folder) / path.name)
        book = ledger.restore(_BOOT)
        took_s = time.perf_counter() - began
        assert book.last is not None, ledger.fault
        ledger.close()
    return took_s
