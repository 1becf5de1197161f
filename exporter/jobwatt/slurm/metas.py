"""From what the sources say of a job to its ``JobMeta``: names, and GPUs by UUID."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from jobwatt.model import Failure, JobMeta
from jobwatt.slurm.entries import NEVER, choose_gpus
from jobwatt.slurm.facts import UserNames, merge
from jobwatt.slurm.gpus import gpu_holdings
from jobwatt.slurm.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobwatt.model import GpuState
    from jobwatt.slurm.entries import Entry

log = logging.getLogger(__name__)

UNREADABLE = (ValueError, RecursionError, OverflowError)
MAX_SHOWN = 8


class Metas:
    """
    Makes the ``meta`` of entries and keeps what cannot be understood.

    Attributes:
        unknown: job key -> what is wrong with its words now.
    """

    def __init__(self, numbering: str) -> None:
        self.unknown: dict[str, Failure] = {}
        self._numbering, self._names = numbering, UserNames()
        self._inventory: Sequence[GpuState] = ()
        self._shape: tuple[object, ...] = ()

    def take_inventory(self, inventory: Sequence[GpuState], entries: Iterable[Entry]) -> None:
        """What indexes count from now on; entries are made anew where that has changed."""
        if not inventory and self._inventory:
            return  # a driver that hangs for a moment takes no GPU from anybody
        shape = tuple((gpu.uuid, gpu.index, gpu.minor, gpu.mig_enabled) for gpu in inventory)
        if shape != self._shape:
            for entry in entries:
                entry.fresh = False
        self._shape, self._inventory = shape, inventory

    def get(self, entry: Entry) -> JobMeta:
        """What is known of the job now. Never raises."""
        if entry.fresh:
            return entry.meta
        try:
            return self._renew(entry)
        except UNREADABLE as err:
            self.unreadable(entry, err)
            entry.meta, entry.fresh = JobMeta(jobid=entry.jobid, uid=entry.uid), True
            return entry.meta

    def _renew(self, entry: Entry) -> JobMeta:
        told = [one.uid for one in (entry.hook, entry.answer) if one is not None]
        kernel = entry.usage.uid if entry.usage is not None else None
        uid = kernel if kernel is not None else next((one for one in told if one is not None), None)
        user = self._names.get(uid) if uid is not None else ""
        memory = entry.memory
        before = memory.facts if memory is not None else None
        meta = merge(entry.hook, entry.answer, entry.environ, user, uid, before)
        entry.fresh = bool(meta.user) or uid is None
        spec, by, known = choose_gpus(entry)
        start_ns = memory.start_ns if memory is not None else 0
        entry.meta = replace(
            meta,
            jobid=entry.jobid,
            gpus=known if known is not None else self._holdings(entry, spec, by),
            gpus_by=by,
            start_ns=entry.prolog.t_ns if entry.prolog else start_ns,
            end_ns=entry.end_ns,
            end_s=entry.end_s,
            state=entry.ending[0],
            exit_code=entry.ending[1],
        )
        return entry.meta

    def _holdings(self, entry: Entry, spec: str, by: str) -> dict[str, int]:
        held = gpu_holdings(spec, self._inventory, numbering=self._numbering)
        if held.unknown and self._inventory:
            failure = Failure(
                "resolve",
                "unknown_gpu",
                f"job {entry.jobid}: GPU {_some(held.unknown)} (said by {by}) is none of this "
                f"node's {len(self._inventory)}; mend: slurm.gpu-numbering must match gres.conf",
            )
            if entry.key not in self.unknown:
                log.warning("%s", failure.message)
            self.unknown[entry.key] = failure
        else:
            self.unknown.pop(entry.key, None)
        return dict(held.slices)

    def unreadable(self, entry: Entry, err: Exception) -> None:
        """One job's words that nothing here can read stay that job's trouble."""
        entry.environ, entry.reads = None, NEVER
        what = f"job {entry.jobid or entry.key}: {type(err).__name__}: {err}"
        message = clean(f"{what}; its GPUs and account are unknown; mend: report this", 400)
        if entry.key not in self.unknown:
            log.warning("%s", message)
        self.unknown[entry.key] = Failure("resolve", "unreadable", message)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "")
