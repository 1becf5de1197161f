"""
NVIDIA GPUs through NVML: energy, power, use, memory, processes, health and XID events.

One object for all GPUs of the node, one thread at a time. An error in any call stays with that
call or that GPU; a lost GPU comes back by itself, and so does a driver that was reloaded.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobwatt.model import NS_PER_S, Failure, Sample, SourceResult
from jobwatt.sources.nvml_calls import (
    GPU_NOT_FOUND,
    INVALID_ARGUMENT,
    NAME,
    NOT_FOUND,
    VERSION_MISMATCH,
    BackOff,
    Calls,
    DriverGoneError,
    GpuLostError,
    close_library,
    open_library,
    reason,
    unload_library,
)
from jobwatt.sources.nvml_events import Events
from jobwatt.sources.nvml_gpu import SPREAD, Cadence, Gpu, Part

if TYPE_CHECKING:
    from collections.abc import Callable

_PROC = Path("/proc")
_EVERY_NS = 10 * NS_PER_S
_GENTLY_NS = 5 * NS_PER_S


def boottime_ns() -> int:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Blind:
    """An index whose GPU has not told its UUID yet, and why."""

    back_off: BackOff = field(default_factory=BackOff)
    failures: list[Failure] = field(default_factory=list)


class NvmlSource:
    """
    The source ``nvml``.

    Args:
        procfs: where the kernel tells whether the driver is loaded, for the message.
        process_every_ns: process lists are taken at most this often.
        slow_every_ns: likewise throttling, ECC, limits and the MIG partition.
        gentle_every_ns: likewise temperature, clocks and GPM of whole GPUs, one GPU after the
            other. Each call waits for the driver; temperature and clocks are only shown, and a GPM
            figure is the average since the one before, so a longer window loses nothing. GPM of
            MIG instances is taken at each full read: their idle time is counted from it.
        clock: CLOCK_BOOTTIME in ns.
    """

    name = NAME

    def __init__(
        self,
        *,
        procfs: Path = _PROC,
        process_every_ns: int = _EVERY_NS,
        slow_every_ns: int = _EVERY_NS,
        gentle_every_ns: int = _GENTLY_NS,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        self._procfs, self._clock = procfs, clock
        self._cadence = Cadence(process_every_ns, slow_every_ns, gentle_every_ns)
        self._lock = threading.Lock()
        self._api: Any = None
        self._gpus: dict[str, Gpu] = {}  # by UUID, ever seen
        self._blind: dict[int, _Blind] = {}  # by index: those that have not told their UUID yet
        self._events: Events
        self._driver: list[Sample] = []
        self._opening: list[Failure] = []
        self._back_off = BackOff()
        self._closed_why: Failure | None = None
        self._released = False
        self._order: list[Gpu] = []

    # -- the source

    def read(self, *, full: bool) -> SourceResult:
        """Read now; ``full`` adds everything but energy and use. Never raises."""
        with self._lock:
            now_ns = self._clock()
            if self._released:
                return self._without_driver(lost=False)
            if self._api is None and not self._back_off.due(now_ns):
                return self._without_driver(lost=True)
            try:
                if self._api is None:
                    self._open(now_ns)
                result = self._read(now_ns, full=full)
            except DriverGoneError as err:
                self._lose_driver(err, now_ns)
                return self._without_driver(lost=True)
            self._back_off.succeed()
            return result

    def close(self) -> None:
        """Let go of the driver; the next read opens it again."""
        with self._lock:
            self._close()
            self._back_off.succeed()

    def release(self) -> None:
        """
        Let go of the driver until ``resume``, so that an operator can reset or repartition GPUs.
        Waits for a read that is under way: not for use inside a signal handler.
        """
        with self._lock:
            self._close()
            self._released = True
            message = "the GPUs are released for an operator and not measured; resume when done"
            self._closed_why = Failure(NAME, "released", message)

    def resume(self) -> None:
        """Take the driver again at the next read."""
        with self._lock:
            self._released = False
            self._closed_why = None
            self._back_off.succeed()

    # -- the driver

    def _open(self, now_ns: int) -> None:
        api = self._api = open_library(self._procfs)
        self._events = Events(api)
        try:
            count = api.nvmlDeviceGetCount()
        except api.NVMLError as err:
            raise DriverGoneError(err.value) from err
        if not count:
            message = "the driver sees no GPU: see dmesg and nvidia-smi -L"
            raise DriverGoneError(GPU_NOT_FOUND, message)
        self._driver, self._opening = _driver_info(api)
        self._blind = {index: _Blind() for index in range(count)}
        self._adopt(now_ns)
        for gpu in self._gpus.values():
            if not gpu.up:
                gpu.lose(GPU_NOT_FOUND, now_ns)
        self._closed_why = None

    def _lose_driver(self, err: DriverGoneError, now_ns: int) -> None:
        api = self._api
        self._close()
        if err.code == VERSION_MISMATCH and api is not None:
            unload_library(api)
        self._back_off.fail(now_ns)
        word = "no_gpu" if err.code == GPU_NOT_FOUND else reason(err.code)
        self._closed_why = Failure(NAME, word, str(err))

    def _close(self) -> None:
        if self._api is None:
            return
        for gpu in self._gpus.values():
            gpu.detach()
        self._events.close()
        close_library(self._api)
        self._api = None

    def _without_driver(self, *, lost: bool) -> SourceResult:
        parts = [gpu.blank(lost=lost) for gpu in self._gpus.values()]
        why = () if self._closed_why is None else (self._closed_why,)
        return SourceResult(
            gpus=tuple(state for part in parts for state in part.states),
            samples=tuple(sample for part in parts for sample in part.samples),
            failures=why,
        )

    # -- the GPUs

    def _adopt(self, now_ns: int) -> None:
        """Get to know the GPUs that have an index and no UUID yet."""
        for index in [i for i, blind in self._blind.items() if blind.back_off.due(now_ns)]:
            blind = self._blind[index]
            calls = Calls(self._api, "", f"GPU {index}")
            handle = calls.ask("nvmlDeviceGetHandleByIndex", index)
            uuid = calls.text("nvmlDeviceGetUUID", handle) if handle is not None else None
            if uuid:
                del self._blind[index]
                self._attach(uuid, handle, index, now_ns)
            else:
                blind.failures = calls.take_failures()
                blind.back_off.fail(now_ns)

    def _attach(self, uuid: str, handle: Any, index: int, now_ns: int) -> None:
        gpu = self._gpus.setdefault(uuid, Gpu(uuid, index, self._cadence, self._clock))
        # One GPU's list at a time, or all of them would fall into the same read.
        offset_ns = self._cadence.process_every_ns * (index % SPREAD) // SPREAD
        try:
            gpu.attach(self._api, handle, index, offset_ns)
        except GpuLostError as err:
            gpu.lose(err.code, now_ns)
        self._order = sorted(self._gpus.values(), key=lambda known: known.facts.index)
        self._events.renew()

    def _revive(self, gpu: Gpu, now_ns: int) -> None:
        uuid = gpu.facts.uuid
        calls = Calls(self._api, uuid, uuid)
        name = "nvmlDeviceGetHandleByUUID"
        try:
            handle = calls.ask(name, uuid, absent=(NOT_FOUND, INVALID_ARGUMENT))
        except GpuLostError as err:
            gpu.lose(err.code, now_ns)
            return
        if handle is None:
            gpu.back_off.fail(now_ns)
        else:
            self._attach(uuid, handle, gpu.facts.index, now_ns)

    def _read(self, now_ns: int, *, full: bool) -> SourceResult:
        if self._blind:
            self._adopt(now_ns)
        parts = [self._read_gpu(gpu, now_ns, full=full) for gpu in self._order]
        events: list[Sample] = []
        failures, self._opening = self._opening, []
        if full:
            up = [gpu.facts for gpu in self._order if gpu.up]
            events, failed = self._events.read(up, now_ns)
            failures += failed
        failures += [failure for blind in self._blind.values() for failure in blind.failures]
        return SourceResult(
            readings=tuple(reading for part in parts for reading in part.readings),
            gpus=tuple(state for part in parts for state in part.states),
            samples=(*self._driver, *(sample for part in parts for sample in part.samples)),
            events=tuple(events),
            failures=(*failures, *(failure for part in parts for failure in part.failures)),
        )

    def _read_gpu(self, gpu: Gpu, now_ns: int, *, full: bool) -> Part:
        if not gpu.up and gpu.back_off.due(now_ns):
            self._revive(gpu, now_ns)
        if not gpu.up:
            return gpu.blank()
        try:
            return gpu.read(now_ns, full=full)
        except GpuLostError as err:
            gpu.lose(err.code, now_ns)
            self._events.renew()
            return gpu.blank()


def _driver_info(api: Any) -> tuple[list[Sample], list[Failure]]:
    calls = Calls(api, "", "NVIDIA driver")
    version = calls.text("nvmlSystemGetDriverVersion")
    cuda = calls.ask("nvmlSystemGetCudaDriverVersion_v2")
    cuda_text = "" if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
    if version is None:
        return [], calls.take_failures()
    return [Sample("jobwatt_driver_info", (version, cuda_text), 1)], calls.take_failures()


def open_source(
    *, procfs: Path = _PROC, process_every_ns: int = _EVERY_NS, slow_every_ns: int = _EVERY_NS
) -> NvmlSource:
    """
    The source, whether there is a driver or not: without one each read says so in a failure, and
    the driver is tried again after 1, 2, 4 ... 60 s.
    """
    return NvmlSource(procfs=procfs, process_every_ns=process_every_ns, slow_every_ns=slow_every_ns)
