"""What the ledger's rows hold: a whole book, there and back."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

from jobwatt.bookrows import Book, trimmed
from jobwatt.interval import GpuUse
from jobwatt.ledger import Ledger
from jobwatt.model import (
    Device,
    Domain,
    GpuProcess,
    GpuState,
    Job,
    JobMeta,
    JobUsage,
    Kind,
    NodeUsage,
    Reading,
    Sample,
    Snapshot,
)
from jobwatt.presence import Carry
from jobwatt.totals import DeviceTotals, Fed, JobTotals, Mark, Totals
from jobwatt.wall import Block, Wall


def whole():
    """A book with something in every place."""
    cpu = Device(Domain.CPU, "cpu", "rapl", cpus=frozenset({0, 3}))
    gpu = Device(Domain.GPU, "GPU-0", "nvml", name="0")
    meter = Device(Domain.NODE, "m", "bmc", includes_gpu=False)
    named = Job(
        JobUsage("n/1", "root", "n", 1, 7, 5, cpus=frozenset({1})), JobMeta("1", gpus={"GPU-0": 2})
    )
    told = Job(JobUsage("n/2"), JobMeta("2", user="told"))
    rows = {
        "n/1": JobTotals(
            named, 3, {Domain.CPU: 4, Domain.OTHER: 1}, 5, 6, {"GPU-0": GpuUse(1, 2, 3, 4, 5, 6)}, 7, 8,
            Mark(9, 10, 11), {"cpu/rapl": 12},
        ),
        "n/2": JobTotals(Job(told.usage, JobMeta("2", user="remembered")), 4),
        "n/3": JobTotals(Job(JobUsage("n/3"), JobMeta("3")), 5, mark=Mark(1, 2)),
    }  # fmt: skip
    totals = Totals(
        jobs=rows,
        owners={("system", Domain.CPU): 1, ("unallocated", Domain.GPU): 2},
        node={Domain.CPU: 6, Domain.OTHER: 7},
        node_marks={Domain.CPU: Mark(1, 2, 3), Domain.GPU: Mark(4, 5)},
        owner_marks={"system": Mark(6, 7, 8)},
        devices={"cpu": DeviceTotals(cpu, 1, 2, 3), "GPU-0": DeviceTotals(gpu, 4, 5, 6)},
        counters={("jobwatt_steps_total", ("rapl", "gap")): 3},
        gpu_index={"GPU-0": "0"},
        busy_ns=8,
        residual_uj=9,
        wall=Wall("m", "bmc", includes_gpu=False, last_ns=1, credit_uj=-2, lost=True, latest=Block(1, 2, 3)),
        fed={(Domain.CPU, "rapl"): Fed(1, 2), (Domain.OTHER, "bmc"): Fed(3)},
    )  # fmt: skip
    states = (
        GpuState("GPU-0", 0, processes=(GpuProcess(1, 2),), busy_permille=5),
        GpuState("GPU-1", 1, processes=()),
    )
    last = Snapshot(
        "boot", 1.5, 20, gpus=states, jobs=(named, told, Job(JobUsage("n/4"), JobMeta("4"))),
        roots={"root": 1}, node=NodeUsage({0: 1, 3: 2}, 3, 4),
        samples=(Sample("x", (), 1.0),), full=False,
    )  # fmt: skip
    readings = (
        Reading(cpu, Kind.ENERGY, 1, 2, 3, 4, 5, 6),
        Reading(meter, Kind.POWER, 7, 8),
    )
    return Book(totals, trimmed(last), readings, Carry(1, 2), {"cpu": 3})


def test_a_whole_book_comes_back(tmp_path):
    """Everything that was told twice is there, once: what did not change between two commits, too."""
    path = tmp_path / "ledger.db"
    book, ledger = whole(), Ledger(path)
    for _ in range(2):
        ledger.commit(book)
    ledger.close()
    ledger = Ledger(path)
    assert ledger.restore("boot") == book
    with closing(sqlite3.connect(path)) as db:
        cursor = json.loads(
            db.execute("SELECT body FROM state WHERE name = 'cursor'").fetchone()[0]
        )
    # a job whose own row tells the same is named
    assert [job if isinstance(job, str) else job["usage"]["key"] for job in cursor["jobs"]] == [
        "n/1",
        "n/2",
        "n/4",
    ]
    assert [isinstance(job, str) for job in cursor["jobs"]] == [True, False, False]
    ledger.commit(Book())
    ledger.close()
    ledger = Ledger(path)
    assert (ledger.restore("boot"), ledger.errors) == (Book(), 0)


def test_what_plays_no_part_is_not_written():
    """Of the last snapshot: no figures that are only shown, no lists of processes; that nothing ran is kept."""
    last = whole().last
    assert (last.samples, last.full) == ((), True)
    assert [gpu.processes for gpu in last.gpus] == [None, ()]
    assert (last.boot_id, last.wall_s, last.t_ns, last.roots) == ("boot", 1.5, 20, {"root": 1})
