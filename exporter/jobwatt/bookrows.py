"""
What a ledger's rows hold: the account as plain JSON types, and back. Pure.

What every commit writes is kept small: a device is described once and named by its id, and a job
of the last snapshot is named by its key where its own row tells the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .attribute import SYSTEM, UNALLOCATED
from .metrics import fits
from .model import Device, Domain, Job, Kind, Reading, Snapshot
from .presence import Carry
from .record import decode, encode
from .totals import DeviceTotals, Fed, JobTotals, Mark, Totals
from .wall import Wall


@dataclass(frozen=True, slots=True)
class Book:
    """
    Everything that is written together.

    Attributes:
        last: the last snapshot, without what plays no part in the account; None before the first.
        readings: the last reading of every counter.
        learnt: learnt idle power by device id, uW.
    """

    totals: Totals = field(default_factory=Totals)
    last: Snapshot | None = None
    readings: tuple[Reading, ...] = ()
    carry: Carry = field(default_factory=Carry)
    learnt: Mapping[str, int] = field(default_factory=dict)


_FIGURES = tuple[int, ...]
_OWNERS = {SYSTEM: SYSTEM, UNALLOCATED: UNALLOCATED}


def trimmed(snapshot: Snapshot) -> Snapshot:
    """The snapshot without what plays no part in the account."""
    return Snapshot(
        boot_id=snapshot.boot_id,
        wall_s=snapshot.wall_s,
        t_ns=snapshot.t_ns,
        gpus=tuple(replace(gpu, processes=None) if gpu.processes else gpu for gpu in snapshot.gpus),
        jobs=snapshot.jobs,
        roots=snapshot.roots,
        node=snapshot.node,
    )


dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def devices_of(book: Book) -> dict[str, Device]:
    """Every device that a row names, by id."""
    return {
        **{reading.device.id: reading.device for reading in book.readings},
        **{id_: totals.device for id_, totals in book.totals.devices.items()},
    }


def cursor_of(book: Book) -> dict[str, Any]:
    """Where the account stands: the last snapshot and the last reading of every counter."""
    last, rows = book.last, book.totals.jobs
    return {
        "last": encode(replace(last, jobs=())) if last else None,
        "jobs": [_named(job, rows) for job in last.jobs] if last else [],
        "readings": [
            (r.device.id, r.kind, r.value, r.t_ns, r.wrap_uj, r.max_power_uw, r.epoch, r.every_ns)
            for r in book.readings
        ],
        "carry": (book.carry.debt_ns, book.carry.system_rate),
        "learnt": dict(book.learnt),
    }


def _named(job: Job, rows: Mapping[str, JobTotals]) -> Any:
    row = rows.get(job.usage.key)
    return job.usage.key if row is not None and row.job is job else encode(job)


def book_of(
    totals: Any, cursor: Any, devices: Mapping[str, Device], jobs: Mapping[str, JobTotals]
) -> Book:
    """Put the rows together; LookupError, TypeError, ValueError where they do not fit."""
    present = tuple(
        jobs[job].job if isinstance(job, str) else decode(Job, job) for job in cursor["jobs"]
    )
    return Book(
        totals=_totals(totals, devices, jobs),
        last=replace(decode(Snapshot, cursor["last"]), jobs=present) if cursor["last"] else None,
        readings=tuple(
            Reading(devices[id_], Kind(kind), *decode(_FIGURES, figures))
            for id_, kind, *figures in cursor["readings"]
        ),
        carry=Carry(*decode(_FIGURES, cursor["carry"])),
        learnt=decode(Mapping[str, int], cursor["learnt"]),
    )


def plain_totals(totals: Totals) -> dict[str, Any]:
    """All of the totals but the jobs; keys that are tuples become lists."""
    return {
        "owners": [(owner, domain, uj) for (owner, domain), uj in totals.owners.items()],
        "node": totals.node,
        "node_marks": {domain: encode(mark) for domain, mark in totals.node_marks.items()},
        "owner_marks": {owner: encode(mark) for owner, mark in totals.owner_marks.items()},
        "devices": [
            (id_, device.energy_uj, device.compared_uj, device.integrated_uj)
            for id_, device in totals.devices.items()
        ],
        "counters": [
            (metric, labels, count) for (metric, labels), count in totals.counters.items()
        ],
        "gpu_index": dict(totals.gpu_index),
        "busy_ns": totals.busy_ns,
        "residual_uj": totals.residual_uj,
        "wall": encode(totals.wall),
        "fed": [(domain, source, fed.ns, fed.t_ns) for (domain, source), fed in totals.fed.items()],
    }


def _totals(plain: Any, devices: Mapping[str, Device], jobs: Mapping[str, JobTotals]) -> Totals:
    return Totals(
        jobs=jobs,
        owners={
            (_OWNERS[owner], Domain(domain)): decode(int, uj)
            for owner, domain, uj in plain["owners"]
        },
        node=decode(Mapping[Domain, int], plain["node"]),
        node_marks=decode(Mapping[Domain, Mark], plain["node_marks"]),
        owner_marks=decode(Mapping[str, Mark], plain["owner_marks"]),
        devices={
            id_: DeviceTotals(devices[id_], *decode(_FIGURES, sums))
            for id_, *sums in plain["devices"]
        },
        counters={
            (metric, values): decode(int, count)
            for metric, labels, count in plain["counters"]
            if fits(metric, values := decode(tuple[str, ...], labels))
        },
        gpu_index=decode(Mapping[str, str], plain["gpu_index"]),
        busy_ns=decode(int, plain["busy_ns"]),
        residual_uj=decode(int, plain["residual_uj"]),
        # a ledger of before these were kept has none
        wall=decode(Wall, plain.get("wall", {})),
        fed={
            (Domain(domain), decode(str, source)): Fed(*decode(_FIGURES, fed))
            for domain, source, *fed in plain.get("fed", [])
        },
    )


def job_of(plain: Any) -> JobTotals:
    """A job's own row."""
    job: JobTotals = decode(JobTotals, plain)
    return job
