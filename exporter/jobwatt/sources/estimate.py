"""
An estimate of CPU and memory energy, for machines whose sensors nobody can read: virtual machines,
laptops, locked nodes. It is told as an estimate everywhere and read only while there is no sensor.

    P_cpu  = TDP * max(u, 0.1)        u: busy share of the threads; steal is not busy
    P_dram = 0.3725 W/GiB * MemTotal

Above a tenth of load this is Green Algorithms' n_c * P_c * u_c + n_mem * 0.3725 (Lannelongue et al.
2021, doi:10.1002/advs.202100707) with the measured u_c, since n_c * P_c is the TDP. The floor is
CodeCarbon's: a processor that does nothing still draws a tenth of its TDP. CodeCarbon 3.3.0's curve for
a whole machine, 0.1 + 0.9 u^3, is not used: over the eight load profiles that CodeCarbon measured with
RAPL (codecarbon/data/hardware/cpu_load_profiling, 2025: EPYC 8024P, Threadripper 1950X, Xeon E3-1240 v2,
2 E5-2620 v3), it is 18 % of TDP too low on average, this one 2 %; the mean error is 26 % of TDP
against 20 %. Computed once from these files, which are not kept here.

Energy is counted from CPU time, which misses no burst, however short, and not from a momentary load.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..model import NS_PER_S, Device, Domain, Failure, Kind, Reading, Sample, SourceResult
from .procstat import ProcStat
from .tdp import tdp_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..model import NodeUsage

_NAME = "estimate"
_UW = 1_000_000  # in a watt

# CodeCarbon 3.3.0, external/hardware.py: "Minimum power consumption is 10% of TDP".
_FLOOR_DIVISOR = 10
# CodeCarbon 3.3.0, core/cpu.py: DEFAULT_POWER_PER_CORE = 4, which it multiplies by threads.
_UW_PER_THREAD = 4 * _UW
# Green Algorithms v3.0, referenceValues.csv: memoryPower 0.3725 W/GB, whether used or not (Karyakin and
# Salem 2017, doi:10.1145/3076113.3076117). A GB of memory is 2^30 bytes, as in CodeCarbon (B_TO_GB).
_UW_PER_GIB = 372_500
# The kernel may book a CPU's time a few ticks (of 10 ms) late; what goes beyond that is no CPU time.
_LATE_NS = NS_PER_S // 10

_CPUINFO_BYTES = 1 << 22  # 512 CPUs take 1 MB
_MODEL = re.compile(rb"^model name\s*:\s*(.*)$", re.MULTILINE)
_PACKAGE = re.compile(rb"^physical id\s*:\s*(\d+)\s*$", re.MULTILINE)
_FLAGS = re.compile(rb"^flags\s*:\s*(.*)$", re.MULTILINE)

_CPU = Device(Domain.CPU, "estimate:cpu", _NAME, name="cpu")
_DRAM = Device(Domain.DRAM, "estimate:dram", _NAME, name="memory")


@dataclass(frozen=True, slots=True)
class Assumed:
    """
    What the model assumes of the machine.

    Attributes:
        cpu: the processor's name, "unknown" where the kernel does not tell (aarch64).
        tdp_uw: of all the processors, or of that part of them that a virtual machine sees.
        basis: ``setting``, ``table`` or ``per_thread``.
    """

    cpu: str
    tdp_uw: int
    basis: str


def assume(cpuinfo: bytes, threads: int, setting_uw: int | None) -> Assumed:
    """
    From /proc/cpuinfo, the number of logical CPUs and the setting ``estimate.tdp``.

    On a virtual machine (flag ``hypervisor``) a logical CPU is a thread of the host's processor and
    has its share of that processor's TDP; its sockets are invented. On a real one every socket counts
    whole, whether SMT is on or off.
    """
    match = _MODEL.search(cpuinfo)
    cpu = _shown(match[1]) if match else ""
    if setting_uw is not None:
        return Assumed(cpu or "unknown", setting_uw, "setting")
    tdp = tdp_of(cpu)
    if tdp is None:
        return Assumed(cpu or "unknown", threads * _UW_PER_THREAD, "per_thread")
    flags = _FLAGS.search(cpuinfo)
    if flags and b"hypervisor" in flags[1].split():
        return Assumed(cpu, tdp.watts * _UW * threads // tdp.threads, "table")
    sockets = len(set(_PACKAGE.findall(cpuinfo))) or 1
    return Assumed(cpu, tdp.watts * _UW * sockets, "table")


def cpu_energy(tdp_uw: int, busy_ns: int, threads: int, dt_ns: int) -> int:
    """TDP * max(u, 0.1) over ``dt_ns``, in uW ns, where u = ``busy_ns`` / (``threads`` * ``dt_ns``)."""
    return max(tdp_uw * busy_ns // threads, tdp_uw * dt_ns // _FLOOR_DIVISOR)


def dram_energy(total_bytes: int, dt_ns: int) -> int:
    """0.3725 W/GiB over ``dt_ns``, in uW ns."""
    return (_UW_PER_GIB * total_bytes * dt_ns) >> 30


class EstimateSource:
    """
    The model, fed with this machine's CPU time. ``read`` and ``close`` never raise.

    Counters begin at 0 with each process: what was assumed may have changed in between. Time that the
    machine sleeps (CLOCK_MONOTONIC stands still) draws nothing.
    """

    name = _NAME

    def __init__(self, procfs: Path, tdp_uw: int | None = None) -> None:
        self._procfs = procfs
        self._tdp_uw = tdp_uw
        self._procstat = ProcStat(procfs)
        self._assumed = Assumed("unknown", 0, "per_thread")
        self._busy: Mapping[int, int] = {}
        self._awake_ns = 0
        self._cpu = 0  # uW ns: nothing is lost by rounding
        self._dram = 0

    def read(self, *, full: bool) -> SourceResult:  # noqa: ARG002 - there is nothing to leave out
        """Both counters now, and what the model assumes."""
        usage = self._procstat.read()
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if not usage.cpu_busy_ns:
            return SourceResult(failures=(self._no("stat", "no_cpu_time"),))
        self._advance(usage, time.clock_gettime_ns(time.CLOCK_MONOTONIC))
        readings = [Reading(_CPU, Kind.ENERGY, self._cpu // NS_PER_S, now)]
        failures: tuple[Failure, ...] = ()
        if usage.mem_total_bytes:
            readings.append(Reading(_DRAM, Kind.ENERGY, self._dram // NS_PER_S, now))
        else:
            failures = (self._no("meminfo", "no_memory", _DRAM.id),)
        return SourceResult(tuple(readings), samples=(self._info(),), failures=failures)

    def close(self) -> None:
        """Let go of the files; a later ``read`` opens them again and counts on."""
        self._procstat.close()

    def _advance(self, usage: NodeUsage, awake_ns: int) -> None:
        """Add what the model says of the time since the last read."""
        busy, before = usage.cpu_busy_ns, self._busy
        if before:
            dt_ns = awake_ns - self._awake_ns
            most_ns = dt_ns + _LATE_NS
            used_ns = sum(
                min(max(ns - before[cpu], 0), most_ns) for cpu, ns in busy.items() if cpu in before
            )
            self._cpu += cpu_energy(self._assumed.tdp_uw, used_ns, len(busy), dt_ns)
            self._dram += dram_energy(usage.mem_total_bytes, dt_ns)
        if len(busy) != len(before):  # the first read, or a CPU came or went
            self._assumed = assume(self._cpuinfo(), len(busy), self._tdp_uw)
        self._busy, self._awake_ns = busy, awake_ns

    def _cpuinfo(self) -> bytes:
        try:
            with (self._procfs / "cpuinfo").open("rb") as file:
                return file.read(_CPUINFO_BYTES)
        except OSError:
            return b""

    def _info(self) -> Sample:
        tdp = f"{self._assumed.tdp_uw / _UW:g}"
        return Sample("jobwatt_estimate_info", (self._assumed.cpu, tdp, self._assumed.basis), 1)

    def _no(self, name: str, reason: str, device: str = "") -> Failure:
        path = os.fspath(self._procfs / name)
        message = f"nothing to estimate from in {path}: is --path.procfs right, and may it be read?"
        return Failure(_NAME, reason, message, device)


def open_source(procfs: Path, tdp_uw: int | None = None) -> EstimateSource:
    """The estimate of the machine whose procfs is ``procfs``; ``tdp_uw``: the setting, None by name."""
    return EstimateSource(procfs, tdp_uw)


def _shown(name: bytes) -> str:
    """A name that is fit for a label."""
    text = name[:256].decode("utf-8", errors="replace")
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())[:64]
