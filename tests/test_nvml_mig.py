"""The source nvml and MIG: instances, their parents, and what changes when a GPU is partitioned anew."""

from __future__ import annotations

import pytest

import nvmlkit
import nvmlshim
from jobwatt.sources.nvml_mig import profile_name
from nvmlkit import GPM, Rig, assert_catalogued, mig_gpu, of, samples, state, two_instances
from nvmlshim import Mig

script, rig = nvmlkit.script, nvmlkit.rig  # fixtures


def test_mig_activity_is_taken_at_each_full_read(rig: Rig) -> None:
    """Idle time of an instance is counted from it."""
    mig_gpu(rig.script.gpus[1], *two_instances())
    rig.script.write()
    rig.read()
    for _ in range(6):
        rig.library.reset()
        rig.read()
        assert rig.library.calls("nvmlGpmMigSampleGet") == 2


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
