"""From snapshots to totals: conservation whatever happens, over restarts too."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jobwatt.exposition import View, families
from jobwatt.idle import Idle
from jobwatt.ledger import Ledger
from jobwatt.model import NS_PER_S, Domain, GpuState, JobMeta, Step
from jobwatt.pipeline import Pipeline
from world import DRAM, PACKAGE, WATT, World

REGULAR = int(2.5 * NS_PER_S)
LINGER = 600 * NS_PER_S


def fresh(path=None):
    pipeline = Pipeline(Ledger(path), REGULAR, LINGER)
    pipeline.restore("boot")
    return pipeline


def killed(ledger):
    """What kill -9 leaves: files as they are, the lock gone with the process."""
    ledger._db.close()
    os.close(ledger._lock)


def charged(totals):
    """Energy by domain over jobs, system and unallocated."""
    sums = {}
    for job in totals.jobs.values():
        for domain, uj in job.energy_uj.items():
            sums[domain] = sums.get(domain, 0) + uj
    for (_, domain), uj in totals.owners.items():
        sums[domain] = sums.get(domain, 0) + uj
    return sums


def page(pipeline, snapshot):
    view = View(pipeline.totals, snapshot, Idle(), ledger_fault="")
    return {
        (metric.name, labels): text
        for metric, rows in families(view)
        for labels, text in rows.items()
    }


def test_a_job_pays_for_its_gpu_and_its_cpu():
    """One busy job on a node of two GPUs: its own GPU, and dynamic CPU energy by CPU time."""
    world, pipeline = World(), fresh()
    world.start("7", gpus=[0])
    pipeline.push(world.snapshot())
    world.util["GPU-0"] = 900
    world.run(1, {"7": 3.0}, system=1.0)
    totals = pipeline.push(world.snapshot())
    job = totals.jobs["n1/7"]
    assert job.energy_uj[Domain.GPU] == 100 * WATT
    assert job.energy_uj[Domain.CPU] == 75 * WATT  # 3 of 4 busy CPU seconds, idle power unknown
    assert totals.owners["unallocated", Domain.GPU] == 100 * WATT
    assert job.gpus["GPU-0"].idle_ns == 0
    assert job.gpus["GPU-0"].held_ns == NS_PER_S
    assert charged(totals) == totals.node


def test_idle_is_counted_and_unknown_is_not_idle():
    """No kernel running is idle; no figure is unknown; a bridged gap is unknown."""
    world, pipeline = World(gpus=1), fresh()
    world.start("7", gpus=[0])
    pipeline.push(world.snapshot())
    for util, seconds in ((0, 2.5), (500, 1), (None, 1), (0, 10)):
        world.util["GPU-0"] = util
        world.run(seconds)
        totals = pipeline.push(world.snapshot())
    gpu = totals.jobs["n1/7"].gpus["GPU-0"]
    assert (gpu.idle_ns, gpu.idle_uj, gpu.unknown_ns) == (REGULAR, 250 * WATT, 11 * NS_PER_S)
    assert (gpu.held_ns, gpu.used_ns) == (REGULAR + 12 * NS_PER_S, NS_PER_S // 2)
    assert gpu.energy_uj == 1450 * WATT


def test_short_job_between_two_samples_is_closed_from_its_root():
    """A job whose cgroup was never seen gets the CPU time that its Slurm root shows beyond the others."""
    world, pipeline = World(), fresh()
    world.start("1")
    pipeline.push(world.snapshot())
    world.start("2", cpus=4)
    short = world.jobs["2"]
    world.run(0.2, {"1": 0.1, "2": 0.3})
    world.end("2")
    meta = JobMeta(jobid="2", cpus_alloc=4, start_ns=world.t_ns - NS_PER_S // 5, end_ns=world.t_ns)
    totals = pipeline.push(world.snapshot(ended=(type(short)(short.usage, meta),)))
    assert totals.jobs["n1/2"].cpu_ns == 300_000_000
    assert totals.jobs["n1/2"].energy_uj[Domain.CPU] == 15 * WATT  # 3 of 4 parts of 20 J
    assert totals.jobs["n1/2"].ended_ns == world.t_ns


def test_a_job_whose_counter_is_gone_is_closed_from_its_root():
    """
    A job that is still there (between cgroup and epilog, or with one hierarchy left) but no longer
    counted gets what its root shows beyond the others.
    """
    world, pipeline = World(), fresh()
    world.start("1")
    world.start("2")
    pipeline.push(world.snapshot())
    world.run(1, {"1": 0.25, "2": 0.75})
    now = world.snapshot()
    stale = replace(now.jobs[1], usage=replace(now.jobs[1].usage, cpu_ns=0, counting=False))
    totals = pipeline.push(replace(now, jobs=(now.jobs[0], stale)))
    assert totals.jobs["n1/2"].cpu_ns == 750_000_000
    assert totals.jobs["n1/1"].cpu_ns == 250_000_000
    assert not totals.jobs["n1/2"].ended_ns


def test_job_that_was_there_before_us_is_not_charged_its_past():
    """The first sample charges nothing, however much CPU time the job already has."""
    world, pipeline = World(), fresh()
    world.start("7", known_at=False)
    world.run(1000, {"7": 900})
    pipeline.push(world.snapshot())
    world.run(1, {"7": 1})
    totals = pipeline.push(world.snapshot())
    assert totals.jobs["n1/7"].cpu_ns == NS_PER_S


def test_requeued_job_goes_on():
    """A second incarnation under the same id begins its counter again; totals go on."""
    world, pipeline = World(), fresh()
    world.start("7")
    pipeline.push(world.snapshot())
    world.run(1, {"7": 1})
    pipeline.push(world.snapshot())
    world.cpu["7"] = 0
    world.run(1, {"7": 0.5})
    assert pipeline.push(world.snapshot()).jobs["n1/7"].cpu_ns == 1_500_000_000


def test_finished_job_lingers_then_goes():
    """Final totals stay for the linger time, and are then dropped."""
    world, pipeline = World(), fresh()
    world.start("7")
    pipeline.push(world.snapshot())
    world.run(1, {"7": 1})
    pipeline.push(world.snapshot())
    world.end("7")
    for _ in range(3):
        world.run(1)
        totals = pipeline.push(world.snapshot())
    assert totals.jobs["n1/7"].ended_s == 1002
    assert totals.jobs["n1/7"].measured_ns == 2 * NS_PER_S
    world.run(598)
    assert "n1/7" in pipeline.push(world.snapshot()).jobs
    world.run(1)
    assert "n1/7" not in pipeline.push(world.snapshot()).jobs


def test_idle_power_is_learnt_only_at_rest():
    """A minute without jobs teaches idle power; then a reservation is paid without use."""
    world, pipeline = World(), fresh()
    for _ in range(62):
        pipeline.push(world.snapshot())
        world.run(1)
    assert pipeline.idle.power_uw()["intel-rapl:0"] == 100 * WATT
    world.start("7", cpus=2)
    pipeline.push(world.snapshot())
    world.run(1, {}, {"intel-rapl:0": 180}, system=1)
    totals = pipeline.push(world.snapshot())
    assert totals.jobs["n1/7"].energy_uj[Domain.CPU] == 25 * WATT  # 2 of 8 CPUs of 100 W
    assert charged(totals) == totals.node


def test_reboot_begins_again_unless_stopped_in_good_order(tmp_path):
    """After a power cut counters begin at zero; after a clean stop they go on, without jobs."""
    for clean in (False, True):
        world, path = World(), tmp_path / f"{clean}.db"
        pipeline = fresh(path)
        world.start("7")
        for _ in range(3):
            pipeline.push(world.snapshot())
            world.run(1)
        if clean:
            pipeline.ledger.close()
        else:
            killed(pipeline.ledger)
        again = Pipeline(Ledger(path), REGULAR, LINGER)
        again.restore("another boot")
        assert again.totals.jobs == {}
        assert (again.totals.node == pipeline.totals.node) is clean


class Machine(RuleBasedStateMachine):
    """Jobs come and go, counters wrap and reset, GPUs are lost, the daemon is killed at any moment."""

    @initialize(gpus=st.integers(0, 3), wrap=st.sampled_from([2000 * WATT, 262_143_328_850]))
    def begin(self, gpus, wrap):
        self.dir = tempfile.TemporaryDirectory()
        self.path = Path(self.dir.name) / "ledger.db"
        self.world = World(gpus=gpus, wrap_uj=wrap)
        self.pipeline = fresh(self.path)
        self.pipeline.push(self.world.snapshot())
        self.seen = {}
        self.lost = dict.fromkeys(self.world.truth, 0)
        self.number = 0
        self.snap = self.world.snapshot()

    @rule(
        gpu=st.lists(st.integers(0, 2), max_size=2, unique=True),
        cpus=st.integers(1, 8),
        known=st.booleans(),
    )
    def start(self, gpu, cpus, known):
        self.number += 1
        self.world.start(
            str(self.number), [g for g in gpu if g < len(self.world.gpus)], cpus, known_at=known
        )

    @rule(which=st.integers(0, 9))
    def end(self, which):
        if self.world.jobs:
            self.world.end(sorted(self.world.jobs)[which % len(self.world.jobs)])

    @rule(
        seconds=st.floats(0.001, 2.4),
        share=st.floats(0, 1),
        watts=st.integers(0, 400),
        util=st.sampled_from([None, 0, 700]),
    )
    def run(self, seconds, share, watts, util):
        use = dict.fromkeys(self.world.jobs, share * seconds)
        self.world.util = dict.fromkeys(self.world.util, util)
        self.world.run(seconds, use, {d.id: watts for d in self.world.truth}, system=0.1 * seconds)
        self._push()

    @rule(which=st.integers(0, 2))
    def reset(self, which):
        """Only a GPU's counter begins again within a boot (driver reload, GPU reset)."""
        if which < len(self.world.gpus):
            self.world.reset(self.world.gpus[which])

    @rule(which=st.integers(0, 2), lost=st.booleans())
    def lose(self, which, lost):
        if which < len(self.world.gpus):
            (self.world.lost.add if lost else self.world.lost.discard)(self.world.gpus[which])

    @rule()
    def kill(self):
        killed(self.pipeline.ledger)
        self.pipeline = fresh(self.path)

    def _push(self):
        self.snap = self.world.snapshot()
        self.pipeline.push(self.snap)

    @invariant()
    def conserved(self):
        """Jobs + system + unallocated = node, in every domain, on integers."""
        if hasattr(self, "pipeline"):
            assert charged(self.pipeline.totals) == self.pipeline.totals.node

    @invariant()
    def node_is_its_devices(self):
        """The node's account is the sum of its devices', whatever was split how."""
        if hasattr(self, "pipeline"):
            by_domain = {}
            for device in self.pipeline.totals.devices.values():
                if device.device.summed:
                    by_domain[device.device.domain] = (
                        by_domain.get(device.device.domain, 0) + device.energy_uj
                    )
            assert {d: uj for d, uj in by_domain.items() if uj} == {
                d: uj for d, uj in self.pipeline.totals.node.items() if uj
            }

    @invariant()
    def never_more_than_the_truth_never_backwards(self):
        """No counter on the page goes backwards, and no device counts more than it used."""
        if not hasattr(self, "pipeline"):
            return
        now = page(self.pipeline, self.snap)
        for series, text in now.items():
            if series[0].endswith("_total"):
                assert float(text) >= self.seen.get(series, 0.0), series
                self.seen[series] = float(text)
        for device, truth in self.world.truth.items():
            counted = self.pipeline.totals.devices.get(device.id)
            assert counted is None or counted.energy_uj <= truth

    def teardown(self):
        if hasattr(self, "pipeline"):
            self.pipeline.ledger.close()
            self.dir.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 2), st.integers(0, 500)), min_size=1, max_size=30), st.data()
)
def test_kills_lose_nothing_while_counters_bridge(steps, data):
    """Killed between any two samples: every joule of every device is there, once."""
    with tempfile.TemporaryDirectory() as directory:
        path, world = Path(directory) / "l.db", World(gpus=1, wrap_uj=262_143_328_850)
        pipeline = fresh(path)
        pipeline.push(world.snapshot())
        for seconds, watts in steps:
            world.run(seconds, {}, {d.id: watts for d in world.truth})
            if data.draw(st.booleans()):
                pipeline.ledger.close()
                pipeline = fresh(path)
            pipeline.push(world.snapshot())
        pipeline.ledger.close()
        assert {d: pipeline.totals.devices[d.id].energy_uj for d in world.truth} == world.truth


def test_a_restart_after_a_reset_bridges_the_gap(tmp_path):
    """Epochs are counted per process: a cursor of epoch 1 is not mistaken for another counter's."""
    world, pipeline = World(gpus=1), fresh(tmp_path / "l.db")
    pipeline.push(world.snapshot())
    world.reset(world.gpus[0])
    world.run(1)
    pipeline.push(world.snapshot())
    killed(pipeline.ledger)
    world.epoch[world.gpus[0]] = 0  # a new process counts from 0
    pipeline = fresh(tmp_path / "l.db")
    world.run(1)
    assert pipeline.push(world.snapshot()).devices["GPU-0"].energy_uj == 100 * WATT


def test_steps_are_counted():
    """What was not plain is a metric: a wrap, a gap, a reset."""
    world, pipeline = World(gpus=1, wrap_uj=150 * WATT), fresh()
    pipeline.push(world.snapshot())
    world.run(1)
    pipeline.push(world.snapshot())
    world.run(1)
    pipeline.push(world.snapshot())
    world.reset(world.gpus[0])
    world.run(1)
    pipeline.push(world.snapshot())
    counters = pipeline.totals.counters
    assert counters["jobwatt_steps_total", ("rapl", str(Step.WRAPPED))] == 4
    assert counters["jobwatt_steps_total", ("nvml", str(Step.RESET))] == 1
    assert pipeline.totals.devices[PACKAGE.id].energy_uj == 300 * WATT
    assert pipeline.totals.devices[DRAM.id].energy_uj == 300 * WATT


def job_with(job, *, usage=None, **meta):
    return replace(job, usage=replace(job.usage, **(usage or {})), meta=replace(job.meta, **meta))


def test_an_old_end_told_again_does_not_end_the_new_life():
    """After a restart a requeued job's former epilog is read again: the job that runs goes on."""
    world, pipeline = World(gpus=1), fresh()
    world.start("7", gpus=[0])
    pipeline.push(world.snapshot())
    world.run(1, {"7": 1})
    old = job_with(world.jobs["7"], end_ns=world.t_ns - 700 * NS_PER_S, end_s=1, gpus={})
    totals = pipeline.push(world.snapshot(ended=(old,)))
    assert totals.jobs["n1/7"].energy_uj[Domain.GPU] == 100 * WATT
    assert not totals.jobs["n1/7"].ended_ns


def test_a_silent_gpu_is_charged_to_those_who_held_it_meanwhile():
    """NVML says nothing for a minute; who held the GPU in that minute pays, not who is there at its end."""
    world, pipeline = World(gpus=1), fresh()
    world.start("1", gpus=[0])
    pipeline.push(world.snapshot())
    world.lost.add(world.gpus[0])
    for second in range(60):
        if second == 45:
            world.end("1")
            world.start("2", gpus=[0])
        world.run(1, {}, {"GPU-0": 400})
        totals = pipeline.push(world.snapshot())
    world.lost.clear()
    world.run(1, {}, {"GPU-0": 400})
    totals = pipeline.push(world.snapshot())
    first, second = (totals.jobs[f"n1/{n}"].energy_uj[Domain.GPU] for n in "12")
    assert first + second == 61 * 400 * WATT
    assert abs(first - 45 * 400 * WATT) <= 400 * WATT
    gone = totals.jobs["n1/1"]
    assert (gone.gpus["GPU-0"].energy_uj, gone.gpus["GPU-0"].held_ns) == (first, 46 * NS_PER_S)
    assert gone.ended_ns == 1046 * NS_PER_S
    assert charged(totals) == totals.node


def test_instances_on_one_gpu_share_it():
    """A GPU of seven slices: by slices and activity between jobs, by slices between the instances of one job."""
    world, pipeline = World(gpus=1), fresh()
    slices = {"MIG-a": 3, "MIG-b": 1, "MIG-c": 2}
    sm = {"MIG-a": 800, "MIG-b": 800, "MIG-c": 500}
    states = [GpuState("GPU-0", 0, slices=7, mig_enabled=True)]
    states += [
        GpuState(u, 0, parent="GPU-0", slices=n, sm_permille=sm[u]) for u, n in slices.items()
    ]
    for jobid, held in (("7", ("MIG-a", "MIG-b")), ("8", ("MIG-c",))):
        world.start(jobid)
        world.jobs[jobid] = job_with(world.jobs[jobid], gpus={uuid: slices[uuid] for uuid in held})
    pipeline.push(replace(world.snapshot(), gpus=states))
    world.run(1, {}, {"GPU-0": 420})
    totals = pipeline.push(replace(world.snapshot(), gpus=states))
    one, other = totals.jobs["n1/7"], totals.jobs["n1/8"]
    assert (one.energy_uj[Domain.GPU], other.energy_uj[Domain.GPU]) == (320 * WATT, 100 * WATT)
    assert {uuid: gpu.energy_uj for uuid, gpu in one.gpus.items()} == {
        "MIG-a": 240 * WATT,
        "MIG-b": 80 * WATT,
    }
    assert (one.measured_ns, one.fed_ns["gpu/nvml"]) == (NS_PER_S, NS_PER_S)


def test_a_late_comer_does_not_pay_for_the_gap(tmp_path):
    """The daemon was away for ten minutes and nobody held the GPU but for the last second."""
    world, pipeline = World(gpus=1), fresh(tmp_path / "l.db")
    pipeline.push(world.snapshot())
    killed(pipeline.ledger)
    world.run(599)
    world.start("7", gpus=[0])
    world.run(1)
    totals = fresh(tmp_path / "l.db").push(world.snapshot())
    assert totals.jobs["n1/7"].energy_uj[Domain.GPU] == 100 * WATT
    assert totals.owners["unallocated", Domain.GPU] == 59_900 * WATT


def test_a_counter_that_only_the_last_daemon_had_added_up_counts_nothing_again():
    """Without cgroups ended steps are kept in memory only: after a restart the figure is lower, not new."""
    world, pipeline = World(), fresh()
    world.start("7")
    world.cpu["7"] = 150 * NS_PER_S
    pipeline.push(world.snapshot())
    world.cpu["7"] = 50 * NS_PER_S
    world.run(1)
    assert pipeline.push(world.snapshot()).jobs["n1/7"].cpu_ns == 0


def test_a_root_that_was_unreadable_gives_nobody_its_lifetime():
    """A Slurm root that comes back after a sample without it is not the last second's CPU time."""
    world, pipeline = World(), fresh()
    world.start("7")
    world.run(10**6, {"7": 900_000})
    world.start("8")
    pipeline.push(replace(world.snapshot(), roots={}))
    world.run(1, {"8": 0.5})
    world.end("8")
    totals = pipeline.push(world.snapshot())
    assert totals.jobs["n1/8"].cpu_ns <= 8 * NS_PER_S


def test_coverage_knows_what_a_job_holds():
    """While a job's GPU is lost its time is not measured; another job's is."""
    world, pipeline = World(), fresh()
    world.start("1", gpus=[0])
    world.start("2", gpus=[1])
    pipeline.push(world.snapshot())
    world.lost.add(world.gpus[0])
    for _ in range(5):
        world.run(1)
        totals = pipeline.push(world.snapshot())
    assert totals.jobs["n1/1"].measured_ns == 0
    assert totals.jobs["n1/2"].measured_ns == 5 * NS_PER_S


def test_idle_power_of_a_gpu_is_not_learnt_from_what_is_unknown():
    """Neither unknown activity nor a job whose GPUs nobody has told is rest."""
    for unknown in ("activity", "holder"):
        world, pipeline = World(gpus=1), fresh()
        if unknown == "activity":
            world.util["GPU-0"] = None
        else:
            world.start("7")
            world.jobs["7"] = job_with(world.jobs["7"], gpus_by="")
        for _ in range(70):
            pipeline.push(world.snapshot())
            world.run(1, {}, {"GPU-0": 700})
        assert "GPU-0" not in pipeline.idle.power_uw(), unknown


@pytest.mark.parametrize(
    ("first", "then"), [(("/7", ""), ("n1/7", "n1")), (("n1/7", "n1"), ("/7", ""))]
)
def test_a_job_that_gets_its_cgroups_name_is_one_job(first, then):
    """Known by its prolog first, then by a cgroup or processes of another name: one account, held once."""
    world, pipeline = World(gpus=1), fresh()
    world.start("7", gpus=[0])
    by_hook = job_with(
        world.jobs["7"],
        usage={"key": first[0], "node": first[1], "root": "", "cpu_ns": None, "counting": False},
    )
    world.jobs["7"] = job_with(world.jobs["7"], usage={"key": then[0], "node": then[1]})
    pipeline.push(replace(world.snapshot(), jobs=(by_hook,)))
    world.run(1)
    pipeline.push(replace(world.snapshot(), jobs=(by_hook,)))
    world.run(1, {"7": 1})
    totals = pipeline.push(world.snapshot())
    assert set(totals.jobs) == {then[0]}
    gpu = totals.jobs[then[0]].gpus["GPU-0"]
    assert (gpu.held_ns, gpu.energy_uj) == (2 * NS_PER_S, 200 * WATT)
    assert totals.jobs[then[0]].cpu_ns == NS_PER_S
    assert charged(totals) == totals.node


def test_a_straggler_keeps_its_account():
    """A process that cannot be killed stays in its cgroup long after the epilog: its energy stays on the page."""
    world, pipeline = World(), fresh()
    world.start("7")
    pipeline.push(world.snapshot())
    world.run(1, {"7": 1})
    world.jobs["7"] = job_with(world.jobs["7"], end_ns=world.t_ns, end_s=5)
    for _ in range(700):
        totals = pipeline.push(world.snapshot())
        world.run(1, {"7": 0.1})
    assert charged(totals) == totals.node
