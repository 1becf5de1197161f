"""A driver behind a deadline: what is known while it hangs, and what its late answer gives."""

from __future__ import annotations

import threading
import time

import nvmlkit
import nvmlshim
from jobwatt.model import Device, Domain, Failure, GpuState, Kind, Reading, Sample, SourceResult
from jobwatt.sources.guard import Guarded
from jobwatt.sources.nvml import open_source
from nvmlkit import mig_gpu, samples, two_instances
from nvmlshim import Script

script = nvmlkit.script  # a fixture

KEPT_SAMPLES = {"jobwatt_gpu_info", "jobwatt_gpu_up", "jobwatt_driver_info"}


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
