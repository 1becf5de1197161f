"""
One whole GPU: its energy, its use, and its MIG instances.

Power is NVML's average over the last second (field 185, else nvmlDeviceGetPowerUsage, which is the
same average on Ampere and later, and the momentary value on GA100 and older): sampled each second
and integrated it misses nothing between two samples, where momentary values of a periodic load
alias. The energy counter counts mJ since the driver was loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobwatt.model import Device, Domain, Failure, GpuState, Kind, Reading, Sample
from jobwatt.sources.nvml_calls import (
    GPU_IS_LOST,
    NAME,
    BackOff,
    Calls,
    DriverGoneError,
    GpuLostError,
    explain,
)
from jobwatt.sources.nvml_facts import Facts, read_facts
from jobwatt.sources.nvml_gpm import SAMPLES, SM, Gpm, permille
from jobwatt.sources.nvml_health import read_health
from jobwatt.sources.nvml_mig import MEMORY_CALL, Partition
from jobwatt.sources.nvml_processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable

_ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
_ENERGY_PATIENCE = 10  # reads in a row without an answer, then the counter counts as not there
SPREAD = 8  # GPUs of a common node: what is asked seldom is asked of one after the other
_POWER_AVERAGE = 185  # NVML_FI_DEV_POWER_AVERAGE
_TEMPERATURE_GPU, _CLOCK_SM, _CLOCK_MEM = 0, 1, 2  # nvmlTemperatureSensors_t, nvmlClockType_t


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often the slow things are asked for."""

    process_every_ns: int
    slow_every_ns: int
    gentle_every_ns: int


@dataclass(slots=True)
class Part:
    """One GPU's part of a result."""

    readings: list[Reading] = field(default_factory=list)
    states: list[GpuState] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Gpu:
    """
    A GPU by its UUID, over any number of drivers, resets and handles.

    ``up`` is False while it is lost or the driver is closed. ``read`` and ``attach`` raise
    ``GpuLostError`` and ``DriverGoneError``; all else stays inside.
    """

    def __init__(self, uuid: str, index: int, cadence: Cadence, clock: Callable[[], int]) -> None:
        self._cadence, self._clock = cadence, clock
        self.facts = Facts(None, uuid, index)
        self.up = False
        self.back_off = BackOff()
        self._lost_code = GPU_IS_LOST
        self._device = Device(Domain.GPU, uuid, NAME, name=str(index))
        self._epoch = self._energy_failures = self._slow_due_ns = 0
        self._last_mj: int | None = None
        self._calls: Calls
        self._info = Sample("jobwatt_gpu_info", (str(index), uuid, "", "", "", "", ""), 1)
        self._partition = Partition(None, cadence.process_every_ns, clock)
        self._forget()

    def _forget(self) -> None:
        self._busy: int | None = None
        self._memory: tuple[int, int] | None = None
        self._slow: list[Sample] = []
        self._gentle: list[Sample] = []
        self._gentle_due_ns = self._gentle_offset_ns = 0
        self._gpm_seen = False
        self._shown: list[Sample] = []
        self._incomplete = True
        self._slow_due_ns = 0
        self._gpm: Gpm | None = None
        self._processes: Processes | None = None

    def attach(self, api: Any, handle: Any, index: int, process_offset_ns: int = 0) -> None:
        """Take a handle of the driver just opened, or of the GPU just come back."""
        uuid = self.facts.uuid
        self._forget()
        self._partition = Partition(api, self._cadence.process_every_ns, self._clock)
        self._calls = Calls(api, uuid, f"GPU {index} ({uuid})")
        self._device = Device(Domain.GPU, uuid, NAME, name=str(index))
        self._identify(handle, index)
        self._gpm = Gpm(api, self._calls, handle, self._clock)
        every = self._cadence.process_every_ns
        self._processes = Processes(self._calls, handle, every, process_offset_ns)
        gentle = self._cadence.gentle_every_ns
        self._gentle_offset_ns = gentle * (index % SPREAD) // SPREAD
        self.up = True

    def _identify(self, handle: Any, index: int) -> None:
        before = len(self._calls.failures)
        self.facts = read_facts(self._calls, handle, self.facts.uuid, index)
        self._incomplete = len(self._calls.failures) > before
        info = (self.facts.model, self.facts.pci_bus_id, self.facts.minor_label, "", "")
        self._info = Sample("jobwatt_gpu_info", (*self.facts.labels, *info), 1)

    # -- reading

    def read(self, now_ns: int, *, full: bool) -> Part:
        """Energy and use; with ``full`` all the rest that is due."""
        part = Part()
        power_mw = self._measure(part, full=full)
        memory_busy = self._use()
        if full:
            self._look(now_ns, power_mw, memory_busy)
        part.samples = self._shown
        part.states = [self._state(), *self._partition.states()]
        part.failures = self._calls.take_failures() + self._partition.take_failures()
        self.back_off.succeed()
        return part

    def _measure(self, part: Part, *, full: bool) -> int | None:
        """
        The energy counter, and the power beside it. While a counter that exists does not answer
        there is no power either: a device must not change its kind from one read to the next.
        """
        energy_mj = self._calls.ask(_ENERGY, self.facts.handle)
        t_ns = self._clock()
        has_counter = _ENERGY not in self._calls.unsupported
        if energy_mj is not None:
            self._follow(energy_mj)
            part.readings.append(self._reading(Kind.ENERGY, energy_mj * 1000, t_ns))
        elif has_counter:
            self._doubt_counter()
        power_mw = self._power_mw() if full or not has_counter else None
        if power_mw is not None and (energy_mj is not None or not has_counter):
            part.readings.append(self._reading(Kind.POWER, power_mw * 1000, self._clock()))
        return power_mw

    def _reading(self, kind: Kind, value: int, t_ns: int) -> Reading:
        return Reading(self._device, kind, value, t_ns, 0, self.facts.max_power_uw, self._epoch)

    def _follow(self, energy_mj: int) -> None:
        if self._last_mj is not None and energy_mj < self._last_mj:
            self._epoch += 1  # reset, or the driver was reloaded unseen
        self._last_mj = energy_mj
        self._energy_failures = 0

    def _doubt_counter(self) -> None:
        self._energy_failures += 1
        if self._energy_failures >= _ENERGY_PATIENCE:
            self._calls.unsupported.add(_ENERGY)
            self.new_epoch()

    def _power_mw(self) -> int | None:
        average = self._calls.fields(self.facts.handle, (_POWER_AVERAGE,)).get(_POWER_AVERAGE)
        if average is not None or f"field {_POWER_AVERAGE}" not in self._calls.unsupported:
            return average
        return self._number("nvmlDeviceGetPowerUsage")

    def _number(self, name: str, *args: Any, key: str = "") -> int | None:
        value = self._calls.ask(name, self.facts.handle, *args, key=key)
        return None if value is None else int(value)

    def _use(self) -> int | None:
        """Share of time with a kernel running, for the state; returns that with memory busy (%)."""
        rates = None
        if not self._partition.enabled:
            rates = self._calls.ask("nvmlDeviceGetUtilizationRates", self.facts.handle)
        self._busy = None if rates is None else rates.gpu * 10
        return None if rates is None else rates.memory

    def _look(self, now_ns: int, power_mw: int | None, memory_busy: int | None) -> None:
        if now_ns >= self._slow_due_ns:
            self._slow_due_ns = now_ns + self._cadence.slow_every_ns
            self._look_slowly()
        elif self._partition.suspect:
            self._watch_partition()
        memory = self._calls.ask(MEMORY_CALL, self.facts.handle)
        self._memory = None if memory is None else (memory.used, memory.total)
        gentle = now_ns >= self._gentle_due_ns
        if gentle:
            self._look_gently(now_ns)
        shown = [self._info, self._sample("up", 1), *self._quick(power_mw, memory_busy)]
        shown += self._gentle
        if not self._partition.enabled:
            shown += self._activity(now_ns, sample=gentle or not self._gpm_seen)
        self._shown = [*shown, *self._partition.read(now_ns), *self._slow]

    def _sample(self, name: str, value: float) -> Sample:
        return Sample(f"jobwatt_gpu_{name}", self.facts.labels, value)

    def _quick(self, power_mw: int | None, memory_busy: int | None) -> list[Sample]:
        used, total = self._memory or (None, None)
        figures = (
            ("power_watts", power_mw, 1000),
            ("utilization_ratio", self._busy, 1000),
            ("memory_busy_ratio", memory_busy, 100),
            ("memory_used_bytes", used, 1),
            ("memory_total_bytes", total, 1),
        )
        return [
            self._sample(name, value / unit) for name, value, unit in figures if value is not None
        ]

    def _look_gently(self, now_ns: int) -> None:
        """Temperature and clocks; when next. The first time all at once, then GPU after GPU."""
        self._gentle_due_ns = now_ns + self._cadence.gentle_every_ns + self._gentle_offset_ns
        self._gentle_offset_ns = 0
        figures = (
            ("temperature_celsius", self._temperature()),
            ("sm_clock_hertz", self._clock_hz(_CLOCK_SM)),
            ("memory_clock_hertz", self._clock_hz(_CLOCK_MEM)),
        )
        self._gentle = [self._sample(name, value) for name, value in figures if value is not None]

    def _temperature(self) -> int | None:
        value = self._number("nvmlDeviceGetTemperatureV", _TEMPERATURE_GPU)
        if value is not None or "nvmlDeviceGetTemperatureV" not in self._calls.unsupported:
            return value
        return self._number("nvmlDeviceGetTemperature", _TEMPERATURE_GPU)  # drivers before R565

    def _clock_hz(self, clock: int) -> int | None:
        mhz = self._number("nvmlDeviceGetClockInfo", clock, key=f"clock {clock}")
        return None if mhz is None else mhz * 1_000_000

    def _activity(self, now_ns: int, *, sample: bool) -> list[Sample]:
        """GPM's figures, from a new sample or the last one's, and the processes."""
        ratios = self._gpm_ratios(sample=sample)
        samples = [
            Sample(name, self.facts.labels, ratios[key]) for key, name in SAMPLES if key in ratios
        ]
        processes = self._processes.read(now_ns) if self._processes else None
        if processes is not None:
            samples.append(self._sample("processes", len(processes)))
        return samples

    def _gpm_ratios(self, *, sample: bool) -> dict[int, float]:
        if self._gpm is None:
            return {}
        if sample:
            self._gpm_seen = bool(
                self._gpm.read()
            )  # until there is a figure, the next read samples again
        return self._gpm.ratios

    def _look_slowly(self) -> None:
        if self._incomplete:
            self._identify(self.facts.handle, self.facts.index)
        self._watch_partition()
        self._slow = read_health(self._calls, self.facts.handle, self.facts.labels)

    def _watch_partition(self) -> None:
        if not self._partition.watch(self._calls, self.facts):
            return
        # MIG turned on or off resets the GPU, and changes what it supports.
        self.new_epoch()
        self._calls.unsupported.clear()

    # -- what is shown

    def _state(self, *, known: bool = True) -> GpuState:
        used, total = self._memory if known and self._memory else (None, None)
        whole = known and not self._partition.enabled
        ratios = self._gpm.ratios if whole and self._gpm else {}
        facts = self.facts
        return GpuState(
            uuid=facts.uuid, index=facts.index, minor=facts.minor, model=facts.model,
            pci_bus_id=facts.pci_bus_id, slices=self._partition.slices, mig_enabled=self._partition.enabled,
            busy_permille=self._busy if whole else None, sm_permille=permille(ratios.get(SM)),
            memory_used_bytes=used, memory_total_bytes=total,
            processes=self._processes.last if whole and self._processes else None,
        )  # fmt: skip

    def blank(self, *, lost: bool = True) -> Part:
        """What is still true of a GPU that cannot be read: what it is, and that it is down."""
        part = Part(states=[self._state(known=False), *self._partition.states(known=False)])
        if lost:
            part.samples = [self._info, self._sample("up", 0)]
            message = f"GPU {self.facts.index} ({self.facts.uuid}): {explain(self._lost_code)}"
            part.failures = [Failure(NAME, "gpu_is_lost", message, self.facts.uuid)]
        return part

    # -- coming and going

    def new_epoch(self) -> None:
        """No energy is to be counted from the last reading to the next one."""
        self._epoch += 1
        self._last_mj, self._energy_failures = None, 0

    def lose(self, code: int, now_ns: int) -> None:
        """The GPU has stopped answering: leave it alone for a while."""
        self._lost_code = code
        self.back_off.fail(now_ns)
        self.detach()

    def detach(self) -> None:
        """Let go of handles and samples; the next reading is of another epoch."""
        if not self.up:
            return
        self.up = False
        self.new_epoch()
        try:
            self._partition.close()
            if self._gpm:
                self._gpm.close()
        except (GpuLostError, DriverGoneError):
            self._gpm = None  # nobody is left to give the samples back to
