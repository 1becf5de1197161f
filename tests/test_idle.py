"""Idle power: learnt where it is certain that a device rests, kept in a file where it was calibrated."""

from __future__ import annotations

import json

import pytest

from jobwatt.idle import CALIBRATED, LEARNT, WINDOW_NS, Idle, Window, load, observed, save
from jobwatt.interval import JobEntry, Settlement
from jobwatt.meter import Metered
from jobwatt.model import (
    NS_PER_S,
    Delta,
    Device,
    Domain,
    GpuProcess,
    GpuState,
    Job,
    JobMeta,
    JobUsage,
    Snapshot,
    Step,
)

S = NS_PER_S
WATT = 10**6
CPU = Device(Domain.CPU, "cpu", "rapl")
GPU = Device(Domain.GPU, "GPU-0", "nvml")
CORE = Device(Domain.CPU, "core", "rapl", summed=False)


def rested(idle, watts, seconds, *, device=CPU, step=Step.NORMAL, gpus=(), jobs=()):
    """One interval more."""
    snapshot = Snapshot("boot", 0.0, 0, gpus=gpus)
    entries = {job.usage.key: JobEntry(job, 0, 0, 0, {}, {}, ended=False) for job in jobs}
    delta = Delta(device, watts * WATT * seconds, seconds * S, step)
    return observed(idle, Settlement(jobs=entries), Metered((delta,), (), {}), snapshot, snapshot)


def holder(*gpus, gpus_by="hook"):
    return Job(JobUsage("n/1"), JobMeta(gpus=dict.fromkeys(gpus, 1), gpus_by=gpus_by))


def test_a_minute_of_rest_teaches():
    """The mean over each whole minute, the newest is believed; wraps do not matter."""
    idle = rested(Idle(), 80, 30)
    assert idle.windows == {"cpu": Window(80 * 30 * WATT, 30 * S)}
    idle = rested(idle, 120, 29, step=Step.WRAPPED)
    assert idle.power_uw() == {}
    idle = rested(idle, 100, 1)
    assert idle.learnt == {"cpu": (80 * 30 + 120 * 29 + 100) * WATT // 60}
    assert rested(idle, 90, 59).learnt == idle.learnt
    assert rested(rested(idle, 90, 59), 90, 1).learnt == {"cpu": 90 * WATT}
    assert WINDOW_NS == 60 * S


@pytest.mark.parametrize(
    "broken",
    [{"step": Step.GAP}, {"step": Step.RESET}, {"jobs": [holder()]}, {"device": CORE}],
    ids=["a gap", "a reset", "a job", "another device"],
)
def test_rest_is_one_stretch(broken):
    """Half a minute before and half a minute after something else are no minute; what is not added up teaches nothing."""
    idle = rested(rested(Idle(), 100, 59), 100, 60, **broken)
    assert (idle.learnt, idle.windows) == ({}, {})
    assert rested(idle, 100, 59).learnt == {}


def test_nothing_is_learnt_of_the_first_sample():
    """There is no interval before it."""
    learnt = Idle(learnt={"cpu": 1})
    metered = Metered((Delta(CPU, 1, WINDOW_NS, Step.NORMAL),), (), {})
    now = Snapshot("boot", 0.0, 0)
    assert observed(learnt, Settlement(), metered, None, now) == learnt


def gpu(busy_permille=None, processes=None, **more):
    return GpuState(**{"uuid": "GPU-0", "index": 0, **more}, busy_permille=busy_permille, processes=processes)  # fmt: skip


def instance(name, **more):
    return gpu(uuid=name, parent="GPU-0", **{"processes": (), **more})


PARENT = gpu(700, (GpuProcess(1),), mig_enabled=True)


@pytest.mark.parametrize(
    ("states", "jobs", "rests"),
    [
        ([gpu(0)], [], True),
        ([gpu(0, ())], [], True),
        ([gpu(None, ())], [], True),
        ([gpu(None)], [], False),
        ([gpu(5)], [], False),
        ([gpu(700, ())], [], False),  # what keeps it busy is in another container
        ([gpu(0, (GpuProcess(1),))], [], False),
        ([], [], False),
        ([gpu(0, uuid="GPU-1")], [], False),
        ([gpu(0)], [holder("GPU-0")], False),
        ([gpu(0)], [holder("GPU-1")], True),
        ([gpu(0)], [holder(gpus_by="")], False),
        ([gpu(0), gpu(9, uuid="GPU-1")], [], True),
        ([PARENT, instance("MIG-a"), instance("MIG-b")], [], True),
        ([PARENT, instance("MIG-a"), instance("MIG-b")], [holder("MIG-b")], False),
        ([PARENT, instance("MIG-a"), instance("MIG-b", processes=None)], [], False),
        ([PARENT], [], False),
    ],
)
def test_when_a_gpu_rests(states, jobs, rests):
    """Nobody holds it or any of its instances, nothing runs there, and all of that is known."""
    idle = rested(Idle(), 50, 60, device=GPU, gpus=tuple(states), jobs=jobs)
    assert idle.learnt == ({"GPU-0": 50 * WATT} if rests else {})


def test_a_calibrated_figure_beats_a_learnt_one():
    """And is said to be calibrated."""
    idle = Idle(calibrated={"a": 1}, learnt={"a": 2, "b": 3})
    assert idle.power_uw() == {"a": 1, "b": 3}
    assert (idle.origin("a"), idle.origin("b")) == (CALIBRATED, LEARNT)


def test_a_calibration_comes_back(tmp_path):
    """Mean power over what was measured; what was not measured is not there; nobody's link is written through."""
    path, victim = tmp_path / "idle.json", tmp_path / "victim"
    assert load(path) == {}
    victim.write_text("mine")
    path.with_suffix(".tmp").symlink_to(victim)
    for power in (7, 5):  # again, over the former one
        measured = {"a": Window(3 * power * WATT, 3 * S), "b": Window(0, 2 * S), "c": Window()}
        save(path, measured, 1_764_000_000)
        assert load(path) == {"a": power * WATT, "b": 0}
    assert victim.read_text() == "mine"
    assert {one.name for one in tmp_path.iterdir()} == {"idle.json", "victim"}
    text = path.read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "version": 1,
        "measured_at": 1_764_000_000,
        "devices": {"a": {"power_uw": 5 * WATT, "seconds": 3}, "b": {"power_uw": 0, "seconds": 2}},
    }


@pytest.mark.parametrize("power_uw", [0, 10**12 - 1])
def test_powers_that_can_be(tmp_path, power_uw):
    """From nothing to just below a megawatt."""
    path = tmp_path / "idle.json"
    path.write_text(json.dumps({"devices": {"a": {"power_uw": power_uw}}}))
    assert load(path) == {"a": power_uw}


@pytest.mark.parametrize(
    "plain",
    [
        *({"devices": {"a": {"power_uw": odd}}} for odd in (-1, 10**12, 1.5, "5", None, [])),
        {"devices": {"a": 5}},
        {"devices": {"a": {}}},
        {"devices": [1]},
        {},
        [],
    ],
)
def test_what_is_no_calibration(tmp_path, plain):
    """Refused with the file's name and the way out."""
    path = tmp_path / "idle.json"
    path.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"idle\.json: not a calibration .*jobwatt calibrate"):
        load(path)
