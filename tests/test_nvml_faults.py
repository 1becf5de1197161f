"""The source nvml when calls fail: each error stays its own GPU's, is said, and passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import nvmlkit
import nvmlshim
from jobwatt.model import Kind
from nvmlkit import GPM, Rig, assert_catalogued, mig_gpu, of, samples, state, two_instances
from nvmlshim import Process, Script

if TYPE_CHECKING:
    from pathlib import Path

script, rig = nvmlkit.script, nvmlkit.rig  # fixtures

GONE = (nvmlshim.UNINITIALIZED, nvmlshim.DRIVER_NOT_LOADED, nvmlshim.LIB_RM_VERSION_MISMATCH)
LOST = (nvmlshim.GPU_IS_LOST, nvmlshim.RESET_REQUIRED)


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
