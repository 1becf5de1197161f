"""The source nvml on the real pynvml and a scripted libnvidia-ml.so.1."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

import nvmlshim
from jobwatt.metrics import CATALOGUE
from jobwatt.model import (
    NS_PER_S,
    Device,
    Domain,
    Failure,
    GpuState,
    Kind,
    Reading,
    Sample,
    SourceResult,
)
from jobwatt.sources.guard import Guarded
from jobwatt.sources.nvml import NvmlSource, open_source
from jobwatt.sources.nvml_mig import profile_name
from nvmlshim import Gpu, Library, Mig, Process, Script

if TYPE_CHECKING:
    from pathlib import Path

GPM = {1: 60.0, 2: 40.0, 3: 20.0, 5: 12.5, 10: 30.0}
GONE = (nvmlshim.UNINITIALIZED, nvmlshim.DRIVER_NOT_LOADED, nvmlshim.LIB_RM_VERSION_MISMATCH)
KEPT_SAMPLES = {"jobwatt_gpu_info", "jobwatt_gpu_up", "jobwatt_driver_info"}
LOST = (nvmlshim.GPU_IS_LOST, nvmlshim.RESET_REQUIRED)


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


# -- what is read


def test_eight_gpus_are_read_in_full(rig: Rig) -> None:
    """Each GPU gives its counter in uJ, its power beside it, its state and its samples."""
    rig.script.gpus[2].processes = [Process(42, 3 << 30)]
    rig.script.write()
    result = rig.read()
    assert result.failures == ()
    assert_catalogued(result)
    for index, gpu in rig.script.gpus.items():
        energy, power = of(result, gpu.uuid), of(result, gpu.uuid, Kind.POWER)
        assert energy is not None
        assert power is not None
        assert energy.value == 1_000_000_000 * (index + 1)
        assert energy.wrap_uj == 0
        assert power.value == 400_000_000
        assert energy.max_power_uw == power.max_power_uw == 1_400_000_000
        assert (energy.device.domain, energy.device.name) == ("gpu", str(index))
    found = state(result, rig.uuid(2))
    assert (found.index, found.minor, found.slices, found.busy_permille) == (2, 2, 1, 900)
    assert found.pci_bus_id == "00000000:1A:00.0"
    assert found.memory_used_bytes == 20 << 30
    assert [(p.pid, p.memory_bytes) for p in found.processes or ()] == [(42, 3 << 30)]
    assert state(result, rig.uuid(3)).processes == ()
    labels = ("5", rig.uuid(5))
    expected = {
        "power_watts": 400, "power_limit_watts": 700, "utilization_ratio": 0.9, "memory_busy_ratio": 0.4,
        "temperature_celsius": 55, "sm_clock_hertz": 1.98e9, "memory_clock_hertz": 2.619e9, "up": 1,
        "memory_total_bytes": 80 << 30, "processes": 0,
    }  # fmt: skip
    assert {name: samples(result, f"gpu_{name}")[labels] for name in expected} == expected
    assert samples(result, "gpu_throttle_seconds_total")[*labels, "sw_power_cap"] == 2
    assert samples(result, "gpu_ecc_errors_total")[*labels, "uncorrected"] == 1
    assert samples(result, "gpu_remapped_rows")[*labels, "corrected"] == 2
    assert samples(result, "driver_info") == {("570.86.15", "12.8"): 1}


def test_values_carry_the_moment_of_their_own_call(script: Script) -> None:
    """A reading's time lies between the calls around it; a moving counter is right for that time."""
    gpu = script.gpus[0]
    gpu.set_power(350_000)
    script.write()
    with nvmlshim.loaded(script):
        source = open_source()
        times, off_uj = [nvmlshim.boottime_ns()], []
        for _ in range(9):
            reading = of(source.read(full=False), gpu.uuid)
            assert reading is not None
            times += [reading.t_ns, nvmlshim.boottime_ns()]
            off_uj.append(abs(reading.value - gpu.energy_at(reading.t_ns) * 1000))
            time.sleep(0.01)
        source.close()
    assert all(earlier < later for earlier, later in pairwise(times))
    # Within the counter's step of 1 mJ and 1 ms between call and clock at 350 W. The middle one: a busy
    # machine may well let a process wait between the two.
    assert sorted(off_uj)[4] <= 1000 + 350_000


def test_a_quick_read_asks_only_for_energy_and_use(rig: Rig) -> None:
    """full=False costs two calls a GPU, and still shows the page what was known."""
    shown = rig.read().samples
    rig.library.reset()
    result = rig.read(full=False)
    assert rig.library.counts() == {
        "nvmlDeviceGetTotalEnergyConsumption": 8,
        "nvmlDeviceGetUtilizationRates": 8,
    }
    assert {r.kind for r in result.readings} == {Kind.ENERGY}
    assert result.samples == shown


def test_slow_things_are_asked_at_their_own_pace(rig: Rig) -> None:
    """In a minute of full reads lists and health are taken at most each 10 s, and shown always."""
    slow = (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetMigMode",
    )
    rig.read()
    rig.library.reset()
    for _ in range(60):
        result = rig.read()
        assert len(samples(result, "gpu_processes")) == 8
        assert len(samples(result, "gpu_power_limit_watts")) == 8
    counts = rig.library.counts()
    for name in slow:
        assert 8 * 5 <= counts[name] <= 8 * 6, name
    assert counts["nvmlDeviceGetFieldValues"] == 8 * 60 + 8 * 6  # power each time, health each 10 s


def test_gentle_things_are_asked_of_one_gpu_after_the_other(rig: Rig) -> None:
    """In 40 s each GPU is asked for its temperature each 5 s, and no read asks more than two."""
    for gpu in rig.script.gpus.values():
        gpu.gpm = dict(GPM)
    rig.script.write()
    rig.read()
    for _ in range(12):
        rig.read()  # each GPU has its own turn by now
    names = ("nvmlDeviceGetTemperatureV", "nvmlGpmSampleGet", "nvmlGpmMetricsGet")
    total = dict.fromkeys(names, 0)
    for _ in range(40):
        rig.library.reset()
        result = rig.read()
        assert len(samples(result, "gpu_temperature_celsius")) == 8
        assert len(samples(result, "gpu_sm_active_ratio")) == 8
        for name in names:
            assert rig.library.calls(name) <= 2
            total[name] += rig.library.calls(name)
    assert set(total.values()) == {8 * 8}


def test_mig_activity_is_taken_at_each_full_read(rig: Rig) -> None:
    """Idle time of an instance is counted from it."""
    mig_gpu(rig.script.gpus[1], *two_instances())
    rig.script.write()
    rig.read()
    for _ in range(6):
        rig.library.reset()
        rig.read()
        assert rig.library.calls("nvmlGpmMigSampleGet") == 2


def test_process_lists_of_many_gpus_are_spread(rig: Rig) -> None:
    """After the first read no read takes the lists of more than two of eight GPUs."""
    rig.read()
    for _ in range(40):
        rig.library.reset()
        rig.read()
        assert rig.library.calls("nvmlDeviceGetComputeRunningProcesses_v3") <= 2


def test_mps_clients_and_sm_shares(rig: Rig) -> None:
    """MPS clients are listed beside compute processes; a process without a sample used nothing."""
    rig.script.gpus[0].processes = [Process(7, sm=30), Process(8, sm=60, mps=True), Process(9)]
    rig.script.gpus[1].processes = [Process(5)]
    rig.script.write()
    result = rig.read()
    shares = {p.pid: p.sm_permille for p in state(result, rig.uuid(0)).processes or ()}
    assert shares == {7: 300, 8: 600, 9: 0}
    assert [p.sm_permille for p in state(result, rig.uuid(1)).processes or ()] == [0]
    assert result.failures == ()


def test_shares_are_unknown_where_the_driver_does_not_tell(rig: Rig) -> None:
    """Without process utilisation a share is None, never 0."""
    rig.script.gpus[0].processes = [Process(7, sm=30)]
    rig.script.fail("nvmlDeviceGetProcessUtilization", nvmlshim.NOT_SUPPORTED)
    (process,) = state(rig.read(), rig.uuid(0)).processes or ()
    assert process.sm_permille is None


def test_gpm_is_the_activity_between_two_reads(rig: Rig) -> None:
    """The first read opens the window, the next gives ratios; reads within 100 ms give the last."""
    rig.script.gpus[0].gpm = dict(GPM)
    rig.script.write()
    assert state(rig.read(), rig.uuid(0)).sm_permille is None
    result = rig.read()
    assert state(result, rig.uuid(0)).sm_permille == 400
    assert state(result, rig.uuid(1)).sm_permille is None
    labels = ("0", rig.uuid(0))
    assert samples(result, "gpu_sm_active_ratio") == {labels: 0.4}
    assert samples(result, "gpu_tensor_active_ratio") == {labels: 0.125}
    rig.library.reset()
    assert state(rig.read(after=0.05), rig.uuid(0)).sm_permille == 400
    assert rig.library.calls("nvmlGpmSampleGet") == 0


def test_gpm_windows_are_long_enough_for_the_library(script: Script) -> None:
    """In real time, with a library that refuses windows under 100 ms, figures still come."""
    script.gpm_min_ms = 100
    script.gpus[0].gpm = dict(GPM)
    script.write()
    with nvmlshim.loaded(script):
        source = open_source()
        for _ in range(6):
            result = source.read(full=True)
            time.sleep(0.03)
        source.close()
    assert state(result, script.gpus[0].uuid).sm_permille == 400


def test_gpm_held_by_another_is_left_alone(rig: Rig) -> None:
    """A profiler that holds the counters costs the figures, no failure and no further call."""
    rig.script.gpus[0].gpm = dict(GPM)
    rig.script.fail("nvmlGpmSampleGet", nvmlshim.IN_USE, 0)
    assert rig.read().failures == ()
    rig.library.reset()
    assert rig.read().failures == ()
    assert rig.library.calls("nvmlGpmSampleGet") == 0


def test_without_a_counter_power_stands_alone(rig: Rig) -> None:
    """A GPU without an energy counter gives power in every read, the quick one too."""
    rig.script.gpus[4].energy_mj = None
    rig.script.write()
    for full in (True, False):
        result = rig.read(full=full)
        assert of(result, rig.uuid(4)) is None
        assert of(result, rig.uuid(4), Kind.POWER) is not None
        assert result.failures == ()


def test_average_power_is_preferred(rig: Rig) -> None:
    """Power is the average over a second where the driver gives it, else its general figure."""
    rig.script.gpus[0].power_average_mw = 333_000
    rig.script.gpus[1].field_errors = {185: nvmlshim.NOT_SUPPORTED}
    rig.script.gpus[1].power_average_mw = 333_000
    rig.script.write()
    result = rig.read()
    values = [of(result, rig.uuid(i), Kind.POWER) for i in (0, 1)]
    assert [r and r.value for r in values] == [333_000_000, 400_000_000]


def test_each_field_value_has_its_own_outcome(rig: Rig) -> None:
    """A field that fails is missing and said, one that is unsupported is missing; the rest stay."""
    rig.script.gpus[0].field_errors = {269: nvmlshim.UNKNOWN, 142: nvmlshim.NOT_SUPPORTED}
    rig.script.write()
    result = rig.read()
    labels = ("0", rig.uuid(0))
    throttle = samples(result, "gpu_throttle_seconds_total")
    assert (*labels, "sw_power_cap") in throttle
    assert (*labels, "sw_thermal") not in throttle
    assert (*labels, "corrected") not in samples(result, "gpu_remapped_rows")
    assert [(f.device, f.reason) for f in result.failures] == [(rig.uuid(0), "nvml_error")]
    assert "field 269" in result.failures[0].message


def test_unsupported_calls_are_asked_once(rig: Rig) -> None:
    """NOT_SUPPORTED is remembered per GPU until the driver is opened again, and is no failure."""
    rig.script.fail("nvmlDeviceGetUtilizationRates", nvmlshim.NOT_SUPPORTED, 0)
    assert rig.read().failures == ()
    rig.library.reset()
    result = rig.read()
    assert state(result, rig.uuid(0)).busy_permille is None
    assert rig.library.calls("nvmlDeviceGetUtilizationRates") == 7
    rig.script.mend()
    rig.source.close()
    assert state(rig.read(), rig.uuid(0)).busy_permille == 900


def test_older_drivers_are_asked_by_their_older_calls(rig: Rig) -> None:
    """Where a newer function is missing, the older one gives the same figure."""
    for name in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"):
        rig.script.fail(name, nvmlshim.FUNCTION_NOT_FOUND)
    rig.script.gpus[0].reasons = 0x4
    rig.script.write()
    result = rig.read()
    assert len(samples(result, "gpu_temperature_celsius")) == 8
    throttled = samples(result, "gpu_throttled")
    assert throttled["0", rig.uuid(0), "sw_power_cap"] == 1
    assert throttled["1", rig.uuid(1), "sw_power_cap"] == 0


def test_xid_events_are_given_once(rig: Rig) -> None:
    """Each XID event is one increment in one read."""
    assert rig.read().events == ()
    rig.script.gpus[3].xids = [(1, 79), (2, 48), (3, 48)]
    rig.script.write()
    assert rig.read(full=False).events == ()
    labels = ("3", rig.uuid(3))
    increments = [
        Sample("jobwatt_gpu_xid_events_total", (*labels, xid), 1) for xid in ("79", "48", "48")
    ]
    assert list(rig.read().events) == increments
    assert rig.read().events == ()


def test_undecodable_names_are_shown_safely(rig: Rig) -> None:
    """Bytes that are no UTF-8 and control characters do not reach the page or stop the read."""
    rig.script.gpus[0].name = "NVIDIA \udcff\udcfe\x1b[31mX"
    rig.script.write()
    result = rig.read()
    assert result.failures == ()
    assert state(result, rig.uuid(0)).model == "NVIDIA \ufffd\ufffd[31mX"


# -- MIG


def test_mig_instances_have_their_parent(rig: Rig) -> None:
    """Instances carry parent, slices, profile, memory and processes of their own."""
    mig_gpu(rig.script.gpus[1], *two_instances())
    rig.script.write()
    rig.read()
    result = rig.read()
    assert result.failures == ()
    assert_catalogued(result)
    whole, big, small = (state(result, u) for u in (rig.uuid(1), "MIG-big", "MIG-small"))
    assert (whole.mig_enabled, whole.slices, whole.busy_permille, whole.sm_permille) == (
        True,
        7,
        None,
        None,
    )
    assert (big.parent, big.index, big.minor, big.slices) == (rig.uuid(1), 1, 1, 4)
    assert (big.mig_profile, big.mig_device, small.mig_device) == ("4g.40gb", 0, 1)
    assert (big.memory_total_bytes, small.memory_total_bytes) == (40 << 30, 20 << 30)
    assert [p.pid for p in big.processes or ()] == [11]
    assert small.processes == ()
    assert (big.sm_permille, big.busy_permille) == (1000, 600)  # 130 % is clamped
    assert (small.sm_permille, small.busy_permille) == (400, 0)
    assert of(result, rig.uuid(1)) is not None
    assert not [r for r in result.readings if r.device.id.startswith("MIG-")]
    info = [key for key in samples(result, "gpu_info") if key[1] == "MIG-small"]
    assert [key[5:] for key in info] == [("2g.20gb", rig.uuid(1))]


def test_mig_without_gpm_is_unknown(rig: Rig) -> None:
    """An A100's instances have no activity figure: unknown, never idle."""
    mig_gpu(rig.script.gpus[1], *two_instances(gpm=False))
    rig.script.write()
    rig.read()
    found = state(rig.read(), "MIG-big")
    assert (found.busy_permille, found.sm_permille) == (None, None)


def test_mig_is_repartitioned_under_way(rig: Rig) -> None:
    """New instances are found within the slow interval; the GPU's counter goes on."""
    gpu = rig.script.gpus[1]
    mig_gpu(gpu, *two_instances())
    rig.script.write()
    before = of(rig.read(), gpu.uuid)
    gpu.migs = {0: Mig("MIG-new", "7g.80gb", 0, 0, 7, 7, gpm=GPM)}
    rig.script.write()
    results = [rig.read() for _ in range(12)]
    assert any(f.device == "MIG-big" for r in results for f in r.failures)
    last = results[-1]
    assert last.failures == ()
    assert {g.uuid for g in last.gpus if g.parent} == {"MIG-new"}
    assert state(last, "MIG-new").sm_permille == 400
    assert all(of(r, u.uuid) for r in results for u in rig.script.gpus.values())
    after = of(last, gpu.uuid)
    assert before is not None
    assert after is not None
    assert after.epoch == before.epoch


def test_a_stale_instance_is_looked_up_in_the_next_read(rig: Rig) -> None:
    """A failing handle does not wait for the slow interval, and lists stay at their pace."""
    gpu = rig.script.gpus[1]
    mig_gpu(gpu, *two_instances())
    rig.script.write()
    rig.read()
    gpu.migs[1] = Mig("MIG-other", gi=5)
    rig.script.write()
    rig.read()
    result = rig.read()
    assert {g.uuid for g in result.gpus if g.parent} == {"MIG-big", "MIG-other"}
    assert result.failures == ()


def test_a_failing_instance_does_not_hasten_process_lists(rig: Rig) -> None:
    """Memory of one instance fails all the time: lists are still taken each 10 s."""
    mig_gpu(rig.script.gpus[1], *two_instances())
    rig.script.fail("nvmlDeviceGetMemoryInfo", nvmlshim.UNKNOWN, "1.0")
    rig.read()
    rig.library.reset()
    for _ in range(9):
        assert [f.device for f in rig.read().failures] == ["MIG-big"]
    assert rig.library.calls("nvmlDeviceGetComputeRunningProcesses_v3") <= 8


def test_turning_mig_on_starts_an_epoch(rig: Rig) -> None:
    """The mode change resets the GPU, and what was unsupported is asked again."""
    before = of(rig.read(), rig.uuid(1))
    mig_gpu(rig.script.gpus[1], *two_instances())
    rig.script.write()
    rig.read(after=11)
    after = of(rig.read(), rig.uuid(1))
    assert before is not None
    assert after is not None
    assert after.epoch > before.epoch
    rig.script.gpus[1].mig = False
    rig.script.write()
    rig.read(after=11)
    result = rig.read()
    assert state(result, rig.uuid(1)).busy_permille == 900
    assert len(result.gpus) == 8


@pytest.mark.parametrize(
    ("gi", "ci", "mib", "gpu_gib", "name"),
    [
        (1, 1, 4864, 39.5, "1g.5gb"), (3, 3, 19968, 39.5, "3g.20gb"), (7, 7, 40192, 39.5, "7g.40gb"),
        (1, 1, 9984, 79.6, "1g.10gb"), (2, 1, 20096, 79.6, "1c.2g.20gb"), (1, 1, 4864, None, "1g.5gb"),
    ],
)  # fmt: skip
def test_profiles_are_named_as_nvidia_smi_does(gi, ci, mib, gpu_gib, name) -> None:
    """Slices and memory give the profile's name (A100 40 GB, H100 80 GB, memory unknown)."""
    assert profile_name(gi, ci, mib, None if gpu_gib is None else int(gpu_gib * 2**30)) == name


# -- what goes wrong

# Every function the source calls in normal running, with the GPU (or instance) it is failed for.
CALLS: dict[str, object] = {
    "nvmlInitWithFlags": "*", "nvmlShutdown": "*", "nvmlDeviceGetCount_v2": "*",
    "nvmlSystemGetDriverVersion": "*", "nvmlSystemGetCudaDriverVersion_v2": "*",
    "nvmlEventSetCreate": "*", "nvmlEventSetWait_v2": "*", "nvmlEventSetFree": "*",
    "nvmlGpmSampleAlloc": "*", "nvmlGpmSampleFree": "*",
    "nvmlDeviceGetHandleByIndex_v2": 3, "nvmlDeviceGetUUID": 3, "nvmlDeviceGetName": 3,
    "nvmlDeviceGetMinorNumber": 3, "nvmlDeviceGetPciInfo_v3": 3, "nvmlDeviceGetMemoryInfo": 3,
    "nvmlDeviceGetPowerManagementLimitConstraints": 3, "nvmlDeviceGetEnforcedPowerLimit": 3,
    "nvmlDeviceGetTotalEnergyConsumption": 3, "nvmlDeviceGetFieldValues": 3,
    "nvmlDeviceGetUtilizationRates": 3, "nvmlDeviceGetTemperatureV": 3, "nvmlDeviceGetClockInfo": 3,
    "nvmlDeviceGetCurrentClocksEventReasons": 3, "nvmlDeviceGetComputeRunningProcesses_v3": 3,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": 3, "nvmlDeviceGetProcessUtilization": 3,
    "nvmlDeviceGetMigMode": 3, "nvmlDeviceRegisterEvents": 3, "nvmlGpmQueryDeviceSupport": 3,
    "nvmlGpmSampleGet": 3, "nvmlGpmMetricsGet": 3,
    "nvmlDeviceGetMaxMigDeviceCount": 1, "nvmlDeviceGetMigDeviceHandleByIndex": 1, "nvmlGpmMigSampleGet": 1,
    "nvmlDeviceGetGpuInstanceId": "1.0", "nvmlDeviceGetAttributes_v2": "1.0",
}  # fmt: skip
CODES = (1, 2, 3, 4, 15, 18, 19, 999)
# Refusals that are answers: GPM held by another, an empty slot; and nobody is left to hear of
# what fails while letting go.
QUIET = {("nvmlDeviceGetMigDeviceHandleByIndex", 2)} | {
    (name, code) for name in CALLS if "Gpm" in name for code in (4, 19)
}
UNHEARD = {"nvmlShutdown", "nvmlEventSetFree", "nvmlGpmSampleFree"}
ONCE = {
    "nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlSystemGetDriverVersion",
    "nvmlSystemGetCudaDriverVersion_v2", "nvmlEventSetCreate", "nvmlGpmSampleAlloc",
    "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMinorNumber",
    "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPowerManagementLimitConstraints", "nvmlDeviceRegisterEvents",
    "nvmlGpmQueryDeviceSupport", "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetAttributes_v2",
}  # fmt: skip


def is_said(function: str, code: int, when: str) -> bool:
    """Whether the source must report this error: it asks then, and the answer is a failure."""
    if code == nvmlshim.NOT_SUPPORTED or (function, code) in QUIET or function in UNHEARD:
        return False
    return when == "at start" or function not in ONCE


def busy_script(path: Path) -> Script:
    """Four GPUs that make the source use every call: 1 has MIG, 3 has GPM and processes."""
    made = Script.of(path, 4)
    made.gpm_min_ms = 0
    mig_gpu(made.gpus[1], *two_instances())
    made.gpus[3].gpm = dict(GPM)
    made.gpus[3].processes = [Process(7, sm=30)]
    return made.write()


@pytest.fixture
def busy(tmp_path: Path):
    made = busy_script(tmp_path / "script")
    with nvmlshim.loaded(made) as library:
        yield Rig(made, library)


def test_the_table_of_calls_is_complete(busy: Rig) -> None:
    """The functions failed below are the functions the source calls."""
    for _ in range(3):
        busy.read()
    busy.source.close()
    assert set(busy.library.counts()) == set(CALLS)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("function", sorted(CALLS))
@pytest.mark.parametrize("when", ["at start", "under way"])
def test_an_error_in_any_call_stays_its_own(busy: Rig, function: str, code: int, when: str) -> None:
    """
    Whatever a call returns, the other GPUs are read on, it is said, and all comes back by itself
    once the error is gone.
    """
    target = CALLS[function]
    if when == "under way":
        busy.read()
        busy.read()
    busy.script.fail(function, code, target)
    broken = [busy.read(after=11) for _ in range(3)]
    others = [g.uuid for i, g in busy.script.gpus.items() if str(i) != str(target)[0]]
    if code not in GONE and function not in {"nvmlInitWithFlags", "nvmlDeviceGetCount_v2"}:
        for result in broken:
            assert all(of(result, uuid) for uuid in others)
            assert_catalogued(result)
    failures = [f for r in broken for f in r.failures]
    if is_said(function, code, when):
        assert failures
    for failure in failures:
        assert failure.source == "nvml"
        assert failure.message
        assert "\n" not in failure.message
    busy.script.mend()
    for _ in range(3):
        result = busy.read(after=61)
    assert result.failures == ()
    kinds = {(r.device.id, r.kind) for r in result.readings}
    assert {device for device, _ in kinds} == {g.uuid for g in busy.script.gpus.values()}
    busy.source.close()


@pytest.mark.parametrize("code", LOST)
def test_a_lost_gpu_comes_back_in_a_new_epoch(rig: Rig, code: int) -> None:
    """Lost: no reading, gpu_up 0, what it is stays known, tried at growing intervals, then back."""
    gpu = rig.script.gpus[3]
    before = of(rig.read(), gpu.uuid)
    rig.script.fail("*", code, 3)
    result = rig.read()
    assert of(result, gpu.uuid) is None
    assert [(f.reason, f.device) for f in result.failures] == [("gpu_is_lost", gpu.uuid)]
    assert samples(result, "gpu_up")["3", gpu.uuid] == 0
    assert sum(samples(result, "gpu_up").values()) == 7
    found = state(result, gpu.uuid)
    assert (found.minor, found.busy_permille, found.memory_used_bytes, found.processes) == (
        3,
        None,
        None,
        None,
    )
    assert len([r for r in result.readings if r.kind is Kind.ENERGY]) == 7
    rig.library.reset()
    for _ in range(60):
        rig.read()
    assert 3 <= rig.library.calls("nvmlDeviceGetHandleByUUID") <= 7  # 1, 2, 4, 8, 16, 32 s
    gpu.energy_mj = 17
    rig.script.mend()
    after = of(rig.read(after=60), gpu.uuid)
    assert before is not None
    assert after is not None
    assert (after.value, after.epoch > before.epoch) == (17_000, True)
    assert samples(rig.read(), "gpu_up")["3", gpu.uuid] == 1


def test_a_counter_that_began_again_starts_an_epoch(rig: Rig) -> None:
    """A counter lower than before is another epoch, of that GPU alone."""
    first = rig.read()
    rig.script.gpus[2].energy_mj = 5
    rig.script.write()
    second = rig.read()
    changed = [
        uuid
        for uuid in (g.uuid for g in rig.script.gpus.values())
        if of(first, uuid).epoch != of(second, uuid).epoch  # type: ignore[union-attr]
    ]
    assert changed == [rig.uuid(2)]


def test_a_counter_that_fails_at_times_never_turns_into_power(rig: Rig) -> None:
    """While a counter that exists does not answer, the GPU gives nothing rather than power alone."""
    rig.read()
    rig.script.fail("nvmlDeviceGetTotalEnergyConsumption", nvmlshim.UNKNOWN, 0)
    result = rig.read()
    assert not [r for r in result.readings if r.device.id == rig.uuid(0)]
    rig.script.mend()
    assert of(rig.read(), rig.uuid(0)) is not None


def test_a_counter_that_never_answers_is_given_up(rig: Rig) -> None:
    """After ten refusals in a row the GPU is measured by its power, in a new epoch."""
    rig.script.fail("nvmlDeviceGetTotalEnergyConsumption", nvmlshim.UNKNOWN, 0)
    for _ in range(11):
        result = rig.read()
    power = of(result, rig.uuid(0), Kind.POWER)
    assert power is not None
    assert power.epoch == 1
    assert result.failures == ()


def test_the_driver_is_reloaded(rig: Rig) -> None:
    """No driver: one failure, GPUs down. It returns: all GPUs read, each in a new epoch."""
    before = rig.read()
    rig.script.unload()
    result = rig.read()
    assert result.readings == ()
    assert [f.reason for f in result.failures] == ["driver_not_loaded"]
    assert set(samples(result, "gpu_up").values()) == {0}
    assert len(result.gpus) == 8
    for gpu in rig.script.gpus.values():
        gpu.energy_mj = 9_000_000  # higher than before: only the epoch tells
    rig.script.write()
    after = rig.read(after=60)
    assert after.failures == ()
    for gpu in rig.script.gpus.values():
        old, new = of(before, gpu.uuid), of(after, gpu.uuid)
        assert old is not None
        assert new is not None
        assert new.epoch > old.epoch


def test_a_driver_that_stays_away_is_tried_at_growing_intervals(rig: Rig) -> None:
    """Nine tries in five minutes, not three hundred."""
    rig.read()
    rig.script.unload()
    rig.library.reset()
    for _ in range(300):
        assert [f.reason for f in rig.read().failures] == ["driver_not_loaded"]
    assert 5 <= rig.library.calls("nvmlInitWithFlags") <= 11


def test_gpus_are_known_by_uuid_when_their_index_changes(rig: Rig) -> None:
    """After a reload a GPU is the same device under another index; one that is gone is down."""
    rig.read()
    gone, moved = rig.script.gpus.pop(0), rig.script.gpus[7]
    rig.script.gpus = dict(enumerate(rig.script.gpus.values()))
    rig.script.unload()
    rig.read()
    rig.script.write()
    result = rig.read(after=60)
    found = of(result, moved.uuid)
    assert found is not None
    assert found.device.name == "6"
    assert [(f.reason, f.device) for f in result.failures] == [("gpu_is_lost", gone.uuid)]
    assert samples(result, "gpu_up")["0", gone.uuid] == 0


def test_released_gpus_are_let_go_of(rig: Rig) -> None:
    """Released: nobody holds the driver and nothing is called. Resumed: all is read again."""
    before = of(rig.read(), rig.uuid(0))
    rig.source.release()
    assert rig.library.references == 0
    rig.library.reset()
    for full in (True, False):
        result = rig.read(full=full)
        assert [f.reason for f in result.failures] == ["released"]
        assert result.readings == ()
        assert samples(result, "gpu_up") == {}
    assert rig.library.counts() == {}
    rig.source.resume()
    after = of(rig.read(), rig.uuid(0))
    assert before is not None
    assert after is not None
    assert after.epoch > before.epoch


def test_closing_gives_everything_back(busy: Rig) -> None:
    """As many GPM samples and event sets are freed as were made, over losses and reloads too."""
    for _ in range(3):
        busy.read()
    busy.script.fail("*", nvmlshim.GPU_IS_LOST, 3)
    busy.read()
    busy.script.mend()
    busy.read(after=60)
    busy.source.release()
    busy.source.resume()
    busy.read()
    busy.source.close()
    busy.source.close()
    counts = busy.library.counts()
    assert counts["nvmlGpmSampleAlloc"] == counts["nvmlGpmSampleFree"]
    assert counts["nvmlEventSetCreate"] == counts["nvmlEventSetFree"]
    assert busy.library.references == 0


def test_a_node_without_gpus_says_so(rig: Rig) -> None:
    """A driver with no GPU is one failure that names the mend."""
    rig.script.gpus.clear()
    rig.script.write()
    (failure,) = rig.read().failures
    assert failure.reason == "no_gpu"
    assert "nvidia-smi -L" in failure.message


def run(code: str, library_dir: Path, script: Path, *argv: str) -> str:
    """Run a program that uses whatever libnvidia-ml.so.1 is in ``library_dir``."""
    environment = nvmlshim.env(script) | {
        "LD_LIBRARY_PATH": str(library_dir),
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("loaded", "says"), [(True, "user libraries"), (False, "no NVIDIA driver")]
)
def test_a_missing_library_is_told_from_a_missing_driver(
    tmp_path: Path, loaded: bool, says: str
) -> None:
    """The message names the mend: the user libraries where the module is loaded."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    if loaded:
        (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
        (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: 570.86.15\n")
    code = """
import sys
from pathlib import Path
from jobwatt.sources.nvml import open_source
source = open_source(procfs=Path(sys.argv[1]))
for full in (True, False):
    (failure,) = source.read(full=full).failures
    print(failure.reason, failure.message)
source.close()
"""
    lines = run(code, tmp_path, tmp_path / "none", str(tmp_path / "proc")).splitlines()
    assert len(set(lines)) == 1
    assert lines[0].startswith("no_library ")
    assert says in lines[0]


def test_an_upgraded_driver_gets_its_own_library(tmp_path: Path) -> None:
    """
    The module is upgraded under the running process: the old library refuses it, and after the
    back-off the new file is loaded in its place.
    """
    library = tmp_path / "libnvidia-ml.so.1"
    library.symlink_to(nvmlshim.build(1) / library.name)
    script = tmp_path / "script"
    code = """
import sys
from pathlib import Path
import nvmlshim
from jobwatt.sources.nvml import NvmlSource
path, library = Path(sys.argv[1]), Path(sys.argv[2])
now = [10**12]
source = NvmlSource(clock=lambda: now[0])
script = nvmlshim.Script.of(path, 2)
print(len(source.read(full=True).readings))
script.rm_version = 2
script.fail("*", nvmlshim.LIB_RM_VERSION_MISMATCH)
print(*(f.reason for f in source.read(full=True).failures))
script.mend()
now[0] += 10**11
print(*(f.reason for f in source.read(full=True).failures))
library.unlink()
library.symlink_to(nvmlshim.build(2) / library.name)
now[0] += 10**11
print(len(source.read(full=True).readings))
source.close()
"""
    nvmlshim.build(2)
    printed = run(code, tmp_path, script, str(script), str(library)).splitlines()
    assert printed == ["4", "lib_rm_version_mismatch", "lib_rm_version_mismatch", "4"]


def test_a_process_of_its_own_sees_the_script_through_its_environment(tmp_path: Path) -> None:
    """env() is all another process needs, and its calls are counted in a file."""
    script = Script.of(tmp_path / "script", 2)
    counts = tmp_path / "counts"
    code = "from jobwatt.sources.nvml import open_source as o; s = o(); print(len(s.read(full=True).gpus)); s.close()"
    environment = nvmlshim.env(script, counts) | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2"
    assert "nvmlDeviceGetTotalEnergyConsumption 2" in counts.read_text().splitlines()


# -- behind a deadline


class Slow:
    """A source that answers when it is told to, with what it is told to."""

    name = "slow"

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.result = SourceResult()

    def read(self, *, full: bool) -> SourceResult:
        result = self.result
        self.may.wait()
        return result

    def release(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


def wake(slow: Slow, guarded: Guarded) -> SourceResult:
    """Let the answer come, and read until the source is back."""
    slow.may.set()
    until = time.monotonic() + 60
    while (result := guarded.read(full=True)).failures:
        assert time.monotonic() < until, result.failures
        time.sleep(0.01)
    return result


def answered(guarded: Guarded) -> None:
    """Wait until the late answer is there."""
    until = time.monotonic() + 60
    while guarded._answers.empty():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_hanging_driver_keeps_its_gpus(script: Script) -> None:
    """No answer: what each GPU is stays, what it does is unknown, gpu_up is 0, no energy."""
    mig_gpu(script.gpus[1], *two_instances())
    script.write()
    with nvmlshim.loaded(script):
        guarded = Guarded(open_source(), 0.5)
        before = SourceResult(failures=(Failure("nvml", "hangs", "not asked yet"),))
        while before.failures or not before.readings:
            before = guarded.read(full=True)
        script.sleep_ms = 10**7
        script.write()
        try:
            for _ in range(2):
                hung = guarded.read(full=True)
                assert hung.readings == ()
                assert [f.reason for f in hung.failures] == ["hangs"]
                assert [(g.uuid, g.slices, g.parent) for g in hung.gpus] == [
                    (g.uuid, g.slices, g.parent) for g in before.gpus
                ]
                for gpu in hung.gpus:
                    assert (gpu.busy_permille, gpu.sm_permille, gpu.processes) == (None, None, None)
                assert samples(hung, "gpu_info") == samples(before, "gpu_info")
                assert set(samples(hung, "gpu_up").values()) == {0}
                assert {s.metric for s in hung.samples} == KEPT_SAMPLES
        finally:  # or closing would wait for ever
            script.sleep_ms = 0
            script.write()
        deadline = time.monotonic() + 60
        while (back := guarded.read(full=True)).failures and time.monotonic() < deadline:
            time.sleep(0.02)
        guarded.close()
    assert len([r for r in back.readings if r.kind is Kind.ENERGY]) == 8


def test_a_driver_that_is_slow_to_open_is_known_from_its_late_answer() -> None:
    """The first answer is late: from then on its GPUs are known, whatever the next read does."""
    slow = Slow()
    slow.result = SourceResult(gpus=(GpuState("GPU-0", 0, busy_permille=500),))
    slow.may.clear()
    guarded = Guarded(slow, 0.02)
    assert guarded.read(full=True).gpus == ()
    slow.may.set()
    answered(guarded)
    slow.may.clear()
    assert guarded.read(full=True).gpus == (GpuState("GPU-0", 0),)
    slow.may.set()
    guarded.close()


def test_events_of_a_late_answer_are_not_lost() -> None:
    """They come once, with the next result, before its own; the late readings do not come."""
    slow = Slow()
    device = Device(Domain.GPU, "GPU-0", "slow")
    late, own = (Sample("jobwatt_gpu_xid_events_total", ("0", "GPU-0", x), 1) for x in "12")
    slow.result = SourceResult((Reading(device, Kind.ENERGY, 1, 1),), events=(late,))
    slow.may.clear()
    guarded = Guarded(slow, 0.02)
    assert guarded.read(full=True).events == ()
    slow.may.set()
    answered(guarded)
    slow.result = SourceResult((Reading(device, Kind.ENERGY, 2, 2),), events=(own,))
    result = wake(slow, guarded)
    assert result.events == (late, own)
    assert [r.value for r in result.readings] == [2]
    assert guarded.read(full=True).events == (own,)
    guarded.close()


@pytest.mark.gpu
@pytest.mark.skipif(
    not os.path.exists("/proc/driver/nvidia/version"), reason="no NVIDIA driver loaded"
)
def test_a_real_gpu_is_read() -> None:
    """On real hardware: no failure, a rising counter, and power that agrees with it within 3 x."""
    code = """
import time
from jobwatt.model import Kind
from jobwatt.sources.nvml import open_source
source = open_source()
results = []
for _ in range(4):
    results.append(source.read(full=True))
    time.sleep(1)
source.close()
print([f.message for r in results for f in r.failures])
of = lambda r, kind: [x for x in r.readings if x.kind is kind][0]
first, last = of(results[0], Kind.ENERGY), of(results[-1], Kind.ENERGY)
mean_uw = (last.value - first.value) * 10**9 / (last.t_ns - first.t_ns)
print(mean_uw / of(results[-1], Kind.POWER).value)
"""
    environment = {k: v for k, v in os.environ.items() if k != "JOBWATT_NVML_SCRIPT"}
    environment["PYTHONPATH"] = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    failures, ratio = done.stdout.strip().splitlines()
    assert failures == "[]"
    assert 1 / 3 < float(ratio) < 3
