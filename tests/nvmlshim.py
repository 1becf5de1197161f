"""
A libnvidia-ml.so.1 whose GPUs follow a script, for tests and demonstrations.

``build()`` compiles tests/shim/nvml once for each state of its source. A daemon is run on it with
``env(script)``; the process itself uses it inside ``loaded(script)``. ``Script`` holds GPUs and
errors and is put in force by ``write()``. The format is described in tests/shim/nvml/nvml.c.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parent / "shim" / "nvml"
GIB = 1 << 30

SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION = 0, 1, 2, 3, 4
NOT_FOUND, DRIVER_NOT_LOADED, TIMEOUT, FUNCTION_NOT_FOUND = 6, 9, 10, 13
GPU_IS_LOST, RESET_REQUIRED, LIB_RM_VERSION_MISMATCH, IN_USE, UNKNOWN = 15, 16, 18, 19, 999


def boottime_ns() -> int:
    """CLOCK_BOOTTIME, the clock of the script."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def build(version: int = 1) -> Path:
    """Compile the library if need be; returns the directory to put in LD_LIBRARY_PATH."""
    text = b"".join((SOURCE / name).read_bytes() for name in ("nvml.h", "nvml.c"))
    digest = hashlib.sha256(text).hexdigest()[:16]
    where = Path(tempfile.gettempdir()) / f"jobwatt-nvml-{os.getuid()}-{digest}-{version}"
    library = where / "libnvidia-ml.so.1"
    if library.exists():
        return where
    where.mkdir(mode=0o700, exist_ok=True)
    part = where / f"part.{os.getpid()}"
    argv = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    argv += [f"-DSHIM_VERSION={version}", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*argv, "-o", part, SOURCE / "nvml.c", "-lpthread"], check=True)
    part.rename(library)
    return where


def env(script: Script | Path, counts: Path | None = None) -> dict[str, str]:
    """Environment of a process that is to see the script's GPUs (its own environment kept)."""
    path = script.path if isinstance(script, Script) else script
    given = {"LD_LIBRARY_PATH": str(build()), "JOBWATT_NVML_SCRIPT": str(path)}
    if counts is not None:
        given["JOBWATT_NVML_COUNTS"] = str(counts)
    return os.environ | given


@dataclass
class Process:
    """A process on a GPU. ``sm``: per cent in the driver's sample, -1: none; ``mps``: a client."""

    pid: int
    memory_bytes: int = GIB
    sm: int = -1
    mps: bool = False

    def line(self) -> str:
        return f"process {self.pid} {self.memory_bytes} {self.sm} {'M' if self.mps else 'C'}"


@dataclass
class Mig:
    """A MIG instance in a slot of its GPU."""

    uuid: str
    profile: str = "1g.10gb"
    gi: int = 1
    ci: int = 0
    gi_slices: int = 1
    ci_slices: int = 1
    memory_used_bytes: int = GIB
    memory_total_bytes: int = 10 * GIB
    gpm: dict[int, float] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    named: bool = True  # newer drivers end the instance's name with its profile

    def lines(self, model: str) -> list[str]:
        name = f"{model} MIG {self.profile}" if self.named else model
        out = [f"uuid {self.uuid}", f"name {name}", f"gi {self.gi}", f"ci {self.ci}"]
        out += [f"slices {self.gi_slices} {self.ci_slices}"]
        out += [f"attributes_mb {self.memory_total_bytes >> 20}"]
        out += [f"memory {self.memory_used_bytes} {self.memory_total_bytes}"]
        out += [f"gpm {key} {value}" for key, value in self.gpm.items()]
        return out + [process.line() for process in self.processes]


@dataclass
class Gpu:
    """
    A GPU. Its energy counter stands at ``energy_mj`` (None: it has none), or, with ``live_ns``
    set, moves with ``power_mw`` from that moment on (see ``set_power``).
    """

    uuid: str
    minor: int = 0
    bus: int = 0
    name: str = "NVIDIA H100 80GB HBM3"
    energy_mj: int | None = 1_000_000
    live_ns: int | None = None
    power_mw: int = 400_000
    power_average_mw: int | None = None
    limit_mw: int = 700_000
    max_limit_mw: int = 700_000
    util: int = 90
    util_memory: int = 40
    memory_used_bytes: int = 20 * GIB
    memory_total_bytes: int = 80 * GIB
    temperature: int = 55
    sm_mhz: int = 1980
    mem_mhz: int = 2619
    reasons: int = 0
    fields: dict[int, int] = field(default_factory=dict)
    field_errors: dict[int, int] = field(default_factory=dict)
    gpm: dict[int, float] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    xids: list[tuple[int, int]] = field(default_factory=list)
    mig: bool = False
    max_mig: int = 7
    migs: dict[int, Mig] = field(default_factory=dict)

    def energy_at(self, t_ns: int) -> int:
        """The counter at CLOCK_BOOTTIME ``t_ns``, in mJ: the truth to compare with."""
        assert self.energy_mj is not None
        if self.live_ns is None:
            return self.energy_mj
        return self.energy_mj + (t_ns - self.live_ns) * self.power_mw // 10**9

    def set_power(self, power_mw: int, t_ns: int | None = None) -> None:
        """From now on the counter moves with this power (call ``Script.write`` afterwards)."""
        now = boottime_ns() if t_ns is None else t_ns
        self.energy_mj, self.live_ns, self.power_mw = self.energy_at(now), now, power_mw

    def lines(self) -> list[str]:
        out = [f"uuid {self.uuid}", f"name {self.name}", f"minor {self.minor}"]
        out += [f"pci 0 {self.bus:x} 0", self._energy_line(), f"power {self.power_mw}"]
        if self.power_average_mw is not None:
            out.append(f"power_average {self.power_average_mw}")
        out += [f"limit {self.limit_mw}", f"max_limit {self.max_limit_mw}"]
        out += [f"util {self.util} {self.util_memory}"]
        out += [f"memory {self.memory_used_bytes} {self.memory_total_bytes}"]
        out += [f"temperature {self.temperature}", f"clocks {self.sm_mhz} {self.mem_mhz}"]
        out += [f"reasons {self.reasons}", f"mig {int(self.mig)}", f"max_mig {self.max_mig}"]
        out += [f"field {key} {value}" for key, value in self.fields.items()]
        out += [f"field_error {key} {code}" for key, code in self.field_errors.items()]
        out += [f"gpm {key} {value}" for key, value in self.gpm.items()]
        out += [process.line() for process in self.processes]
        return out + [f"xid {serial} {xid}" for serial, xid in self.xids]

    def _energy_line(self) -> str:
        if self.energy_mj is None:
            return "energy none"
        if self.live_ns is None:
            return f"energy {self.energy_mj}"
        return f"energy_live {self.energy_mj} {self.live_ns}"


@dataclass
class Script:
    """What the library's driver, GPUs and errors are; ``write()`` puts it in force at once."""

    path: Path
    gpus: dict[int, Gpu] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    driver: str = "570.86.15"
    cuda: int = 12080
    rm_version: int = 0
    gpm_min_ms: int = 100
    sleep_ms: int = 0  # every call takes so long, until the script says otherwise

    @classmethod
    def of(cls, path: Path, count: int) -> Script:
        """``count`` like GPUs with fixed counters: GPU i has minor i, and 1000 (i + 1) J."""
        return cls(path, {i: plain_gpu(i) for i in range(count)}).write()

    def fail(self, function: str, code: int, target: object = "*", *times_ns: int) -> Script:
        """Let ``function`` (``*``: any) return ``code`` for a GPU (3), an instance (3.0) or all."""
        self.errors.append(" ".join(map(str, ("error", function, target, code, *times_ns))))
        return self.write()

    def mend(self) -> Script:
        """Take all errors back."""
        self.errors.clear()
        return self.write()

    def write(self) -> Script:
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("\n".join(self._lines()) + "\n", encoding="utf-8", errors="surrogateescape")
        part.rename(self.path)
        return self

    def unload(self) -> None:
        """Take the driver away: without a script every call says that none is loaded."""
        self.path.unlink()

    def _lines(self) -> Iterator[str]:
        yield from (f"driver {self.driver}", f"cuda {self.cuda}", f"gpm_min_ms {self.gpm_min_ms}")
        if self.sleep_ms:
            yield f"sleep_ms {self.sleep_ms}"
        if self.rm_version:
            yield f"rm_version {self.rm_version}"
        for index, gpu in sorted(self.gpus.items()):
            yield from (f"{index} {line}" for line in gpu.lines())
            for slot, mig in sorted(gpu.migs.items()):
                yield from (f"{index}.{slot} {line}" for line in mig.lines(gpu.name))
        yield from self.errors


def plain_gpu(index: int) -> Gpu:
    """A GPU with fixed, distinct figures."""
    uuid = f"GPU-{index:08x}-0000-4000-8000-{index:012x}"
    throttle = {74: 2_000_000_000, 269: 1_000_000_000, 270: 0, 271: 0}
    health = {3: 5, 4: 1, 142: 2, 143: 0}
    return Gpu(
        uuid,
        minor=index,
        bus=0x18 + index,
        energy_mj=1_000_000 * (index + 1),
        fields=throttle | health,
    )


class Library:
    """The library inside this process: how often it was called."""

    def __init__(self, dll: ctypes.CDLL) -> None:
        self._dll = dll
        dll.nvmlshim_call_name.restype = ctypes.c_char_p
        dll.nvmlshim_calls.restype = ctypes.c_long

    def calls(self, name: str = "") -> int:
        """Calls of one function (of all for "") since ``reset``."""
        return int(self._dll.nvmlshim_calls(name.encode()))

    def counts(self) -> dict[str, int]:
        """Calls of every function that was called since ``reset``."""
        found, i = {}, 0
        while (name := self._dll.nvmlshim_call_name(i)) is not None:
            found[name.decode()] = self.calls(name.decode())
            i += 1
        return {name: count for name, count in found.items() if count}

    def reset(self) -> None:
        self._dll.nvmlshim_reset_calls()

    @property
    def references(self) -> int:
        """nvmlInit's that no nvmlShutdown has answered yet: 0 when nobody holds the driver."""
        return int(self._dll.nvmlshim_references())


@contextmanager
def loaded(script: Script) -> Iterator[Library]:
    """
    Within it, this process's pynvml runs on the script.

    pynvml is given the library by its path, whatever it had loaded before. The second handle is
    pynvml's own to close; the first keeps the library where a plain dlopen("libnvidia-ml.so.1")
    finds it again.
    """
    path = str(build() / "libnvidia-ml.so.1")
    dll = ctypes.CDLL(path)
    _give(ctypes.CDLL(path))
    before = os.environ.get("JOBWATT_NVML_SCRIPT")
    os.environ["JOBWATT_NVML_SCRIPT"] = str(script.path)
    library = Library(dll)
    dll.nvmlshim_forget_events()
    library.reset()
    try:
        yield library
    finally:
        while library.references:
            dll.nvmlShutdown()
        _give(None)
        os.environ.pop("JOBWATT_NVML_SCRIPT")
        if before is not None:
            os.environ["JOBWATT_NVML_SCRIPT"] = before


def _give(library: ctypes.CDLL | None) -> None:
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library
