"""
Processes with a context on a GPU or MIG instance, MPS clients included.

Listing them took 4.5 ms under the driver's global lock on one system (MangoHud PR#2104), so a
list is taken at its own slow pace and shown in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobwatt.model import GpuProcess
from jobwatt.sources.nvml_calls import NOT_FOUND

if TYPE_CHECKING:
    from jobwatt.sources.nvml_calls import Calls

_SUCCESS = 0


class Processes:
    """
    The list of one GPU or instance, at most every ``every_ns``.

    ``shares`` is False for an instance: per-process use is not supported under MIG. ``offset_ns``
    delays the second list, so that the lists of many GPUs do not all fall into one read.
    """

    __slots__ = (
        "_calls",
        "_due_ns",
        "_every_ns",
        "_offset_ns",
        "_seen_us",
        "_shares",
        "handle",
        "last",
    )

    def __init__(
        self, calls: Calls, handle: Any, every_ns: int, offset_ns: int = 0, *, shares: bool = True
    ) -> None:
        self._calls, self.handle, self._shares = calls, handle, shares
        self._every_ns, self._offset_ns = every_ns, offset_ns
        self._due_ns = self._seen_us = 0
        self.last: tuple[GpuProcess, ...] | None = None

    def read(self, now_ns: int) -> tuple[GpuProcess, ...] | None:
        """The list, taken now or before; None where it cannot be had."""
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + self._every_ns + self._offset_ns
            self._offset_ns = 0
            self.last = self._take()
        return self.last

    def _take(self) -> tuple[GpuProcess, ...] | None:
        compute = self._calls.ask("nvmlDeviceGetComputeRunningProcesses_v3", self.handle)
        clients = self._calls.ask("nvmlDeviceGetMPSComputeRunningProcesses_v3", self.handle)
        if compute is None and clients is None:
            return None
        memory = {p.pid: p.usedGpuMemory for p in [*(compute or ()), *(clients or ())]}
        used = self._used() if self._shares and memory else None
        return tuple(
            GpuProcess(pid, memory[pid], None if used is None else used.get(pid, 0))
            for pid in sorted(memory)
        )

    def _used(self) -> dict[int, int] | None:
        """
        Permille of SM time by pid since the last list; a pid without a sample used nothing.

        The driver keeps a sample for each period in which a process ran, so the mean is over the
        distinct periods, not over a process's own samples.
        """
        name = "nvmlDeviceGetProcessUtilization"
        # NOT_FOUND says that nothing ran; success with no samples says the same.
        absent = (NOT_FOUND, _SUCCESS)
        samples = self._calls.ask(name, self.handle, self._seen_us, absent=absent, empty=())
        if samples is None:
            return None
        times = {s.timeStamp for s in samples}
        self._seen_us = max(times, default=self._seen_us)
        sums: dict[int, int] = {}
        for sample in samples:
            sums[sample.pid] = sums.get(sample.pid, 0) + sample.smUtil
        return {pid: min(total * 10 // len(times), 1000) for pid, total in sums.items()}
