"""The source nvml over a scripted libnvidia-ml.so.1, with a clock that is moved by hand, and what a read gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import nvmlshim
from jobwatt.metrics import CATALOGUE
from jobwatt.model import NS_PER_S, GpuState, Kind, Reading, SourceResult
from jobwatt.sources.nvml import NvmlSource
from nvmlshim import Gpu, Library, Mig, Process, Script

if TYPE_CHECKING:
    from pathlib import Path

GPM = {1: 60.0, 2: 40.0, 3: 20.0, 5: 12.5, 10: 30.0}


class Clock:
    """CLOCK_BOOTTIME under the test's control."""

    def __init__(self) -> None:
        self.now_ns = 1000 * NS_PER_S

    def __call__(self) -> int:
        return self.now_ns

    def step(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS_PER_S)


class Rig:
    """A source over a script, with a clock that is moved by hand."""

    def __init__(self, script: Script, library: Library) -> None:
        self.script, self.library, self.clock = script, library, Clock()
        self.source = NvmlSource(clock=self.clock)

    def read(self, *, full: bool = True, after: float = 1) -> SourceResult:
        self.clock.step(after)
        return self.source.read(full=full)

    def uuid(self, index: int) -> str:
        return self.script.gpus[index].uuid


@pytest.fixture
def script(tmp_path: Path) -> Script:
    made = Script.of(tmp_path / "script", 8)
    made.gpm_min_ms = 0  # the clock of the tests runs faster than the library's
    return made.write()


@pytest.fixture
def rig(script: Script):
    with nvmlshim.loaded(script) as library:
        rig = Rig(script, library)
        yield rig
        rig.source.close()
        assert library.references == 0


def of(result: SourceResult, uuid: str, kind: Kind = Kind.ENERGY) -> Reading | None:
    found = [r for r in result.readings if r.device.id == uuid and r.kind is kind]
    assert len(found) <= 1
    return found[0] if found else None


def state(result: SourceResult, uuid: str) -> GpuState:
    (found,) = [gpu for gpu in result.gpus if gpu.uuid == uuid]
    return found


def samples(result: SourceResult, metric: str) -> dict[tuple[str, ...], float]:
    found = [s for s in result.samples if s.metric == f"jobwatt_{metric}"]
    assert len({s.labels for s in found}) == len(found)
    return {s.labels: s.value for s in found}


def assert_catalogued(result: SourceResult) -> None:
    for sample in (*result.samples, *result.events):
        assert len(sample.labels) == len(CATALOGUE[sample.metric].labels), sample
    keys = [(s.metric, s.labels) for s in result.samples]
    assert len(set(keys)) == len(keys)


def mig_gpu(gpu: Gpu, *instances: Mig) -> None:
    gpu.mig = True
    gpu.migs = dict(enumerate(instances))


def two_instances(*, gpm: bool = True) -> tuple[Mig, Mig]:
    big = Mig(
        "MIG-big", "4g.40gb", 1, 0, 4, 4, memory_total_bytes=40 << 30, processes=[Process(11)]
    )
    small = Mig("MIG-small", "2g.20gb", 2, 0, 2, 2, memory_total_bytes=20 << 30)
    if gpm:
        big.gpm, small.gpm = {**GPM, 2: 130.0}, {**GPM, 1: 0.0}
    return big, small
