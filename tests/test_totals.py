"""The running account piece by piece: powers, ages, names, and what comes late or comes again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobwatt.model import NS_PER_S, Device, Domain, GpuState, Kind, Reading, Sample
from jobwatt.totals import DeviceTotals, Fed, Mark, rebooted
from test_pipeline import fresh, job_with, page
from world import PACKAGE, WATT, World

S = NS_PER_S
CPU_POWER = ("jobwatt_node_power_watts", ("cpu",))
OWN_POWER = ("jobwatt_job_power_watts", ("7", "u7", "a", "p"))


def lived(seconds=2, **more):
    """A node with one job that has been watched for some seconds, and its account."""
    world, pipeline = World(**more), fresh()
    world.start("7", gpus=[0] if world.gpus else [])
    pipeline.push(world.snapshot())
    for _ in range(seconds):
        world.run(1, {"7": 1})
        pipeline.push(world.snapshot())
    return world, pipeline


@pytest.mark.parametrize(
    ("was", "now", "power_uw"),
    [
        (Mark(), (5 * WATT, 2 * S), None),
        (Mark(5 * WATT, 2 * S), (8 * WATT, 4 * S), 3 * WATT // 2),
        (Mark(5 * WATT, 2 * S), (5 * WATT, 2 * S + S // 2), 0),
        (Mark(5 * WATT, 2 * S, 7), (8 * WATT, 2 * S), None),
        (Mark(5 * WATT, 2 * S, 7), (8 * WATT, 1 * S), None),
    ],
)
def test_power_is_known_between_two_moments(was, now, power_uw):
    """Energy over time since the mark; None before the first, and where no time has passed."""
    assert was.moved(*now) == Mark(*now, power_uw)


def test_power_is_told_between_full_samples():
    """An extra sample at a job's event leaves every power as it was; the next full one takes it in."""
    world, pipeline = lived()
    world.run(0.25, {}, {PACKAGE.id: 900})
    shown = page(pipeline, world.snapshot())
    pipeline.push(world.snapshot(full=False))
    after = page(pipeline, world.snapshot(full=False))
    assert after[CPU_POWER] == shown[CPU_POWER] == "100.000000"
    assert after[OWN_POWER] == shown[OWN_POWER]
    was = pipeline.totals.jobs["n1/7"].mark.energy_uj
    world.run(0.25)
    job = pipeline.push(world.snapshot()).jobs["n1/7"]
    assert page(pipeline, world.snapshot())[CPU_POWER] == "500.000000"
    assert job.mark == Mark(
        sum(job.energy_uj.values()), world.t_ns, 2 * (sum(job.energy_uj.values()) - was)
    )


def test_powers_add_up():
    """Those of jobs, system and unallocated are the node's."""
    _, pipeline = lived()
    totals = pipeline.totals
    marks = [job.mark for job in totals.jobs.values()] + [*totals.owner_marks.values()]
    assert sum(m.power_uw for m in marks) == sum(m.power_uw for m in totals.node_marks.values())
    assert totals.owner_marks["unallocated"].power_uw == 100 * WATT  # the other GPU


def test_power_of_what_is_silent_is_not_zero():
    """A component of which nothing was read has no power, an extra sample or a first one takes none away."""
    world, pipeline = lived(gpus=1)
    gpu = ("jobwatt_node_power_watts", ("gpu",))
    world.lost.add(world.gpus[0])
    world.run(0.5)
    pipeline.push(world.snapshot(full=False))
    assert page(pipeline, world.snapshot())[gpu] == "100.000000"
    world.run(0.5)
    pipeline.push(world.snapshot())
    shown = page(pipeline, world.snapshot())
    assert gpu not in shown
    assert shown[CPU_POWER] == "100.000000"


def test_power_of_a_job_counts_from_its_beginning():
    """Half a second after its start a job has the power of that half second, as its account begins with it."""
    world, pipeline = World(gpus=1), fresh()
    pipeline.push(world.snapshot())
    world.run(0.5)
    began_ns = world.t_ns
    world.start("7", gpus=[0])
    world.start("8", known_at=False)  # somewhere in the interval: half of it
    world.run(0.5, {"7": 0.5}, {"GPU-0": 300})
    jobs = pipeline.push(world.snapshot()).jobs
    assert (jobs["n1/7"].seen_ns, jobs["n1/8"].seen_ns) == (began_ns, began_ns)
    assert jobs["n1/7"].mark.power_uw == sum(jobs["n1/7"].energy_uj.values()) * 2


def test_a_job_that_comes_again_has_no_former_power():
    """Ended, requeued, and seen by an extra sample: its power is not that of its former life."""
    world, pipeline = lived()
    job = world.jobs["7"]
    world.end("7")
    world.run(1)
    pipeline.push(world.snapshot(ended=(job_with(job, end_ns=world.t_ns, end_s=1),)))
    world.start("7")
    world.run(0.1)
    totals = pipeline.push(world.snapshot(full=False))
    assert (totals.jobs["n1/7"].ended_ns, totals.jobs["n1/7"].ended_s) == (0, 0)
    assert totals.jobs["n1/7"].mark.power_uw is None


@pytest.mark.parametrize("again", ["in the same process", "restored"])
def test_no_power_over_a_reboot(again):
    """Marks are of a moment of one boot: the first sample of the next has no power, rather than 0 W."""
    world, pipeline = lived()
    world.boot_id = "next"
    world.t_ns += 100 * S  # an uptime beyond the former boot's last
    if again == "restored":
        pipeline.totals, pipeline._last = rebooted(pipeline.totals), None
        assert {fed.t_ns for fed in pipeline.totals.fed.values()} == {0}
    pipeline.push(world.snapshot())
    shown = page(pipeline, world.snapshot())
    assert not [name for name, _ in shown if name == CPU_POWER[0]]
    assert all(mark.power_uw is None for mark in pipeline.totals.owner_marks.values())


def test_the_first_sample_charges_nothing():
    """Neither energy nor time; but the job is there, with the moment it was first known of."""
    world, pipeline = World(), fresh()
    world.start("7")
    world.start("8", known_at=False)
    began_ns = world.t_ns
    world.run(3, {"7": 3}, system=1)
    totals = pipeline.push(world.snapshot())
    assert (totals.busy_ns, totals.residual_uj, totals.node) == (0, 0, {})
    job = totals.jobs["n1/7"]
    assert (job.energy_uj, job.cpu_ns, job.measured_ns, job.ended_ns, job.ended_s) == (
        {},
        0,
        0,
        0,
        0,
    )
    assert (job.seen_ns, totals.jobs["n1/8"].seen_ns) == (began_ns, world.t_ns)


# --- sources ---------------------------------------------------------------------------------------


def test_a_component_is_fed_while_all_of_it_is_known():
    """A second in which one of two GPUs began again is no second of the GPUs'; others go on; no meter, no OTHER."""
    world, pipeline = lived(1)
    world.reset(world.gpus[0])
    world.run(1)
    totals = pipeline.push(world.snapshot())
    assert {key: fed.ns for key, fed in totals.fed.items()} == {
        (Domain.CPU, "rapl"): 2 * S,
        (Domain.DRAM, "rapl"): 2 * S,
        (Domain.GPU, "nvml"): S,
    }


def test_a_component_is_as_old_as_its_oldest_reading():
    """Of the devices that are added up; a meter that does not count, and a part of another device, make nothing older."""
    world, pipeline = World(gpus=0), fresh()
    meter, other = (Device(Domain.NODE, name, name) for name in ("wattmeter", "bmc"))
    core = Device(Domain.CPU, "core", "rapl", summed=False)
    second = Device(Domain.CPU, "intel-rapl:1", "rapl")

    def push():
        t_ns = world.t_ns
        world.run(1)
        late = [
            Reading(second, Kind.ENERGY, t_ns, t_ns + 5),
            Reading(core, Kind.ENERGY, t_ns, t_ns + 1),
            Reading(meter, Kind.ENERGY, t_ns, t_ns + 3),
            Reading(other, Kind.ENERGY, t_ns, t_ns + 2),
        ]
        now = world.snapshot()
        return pipeline.push(replace(now, readings=(*now.readings, *late))), t_ns

    push()
    totals, t_ns = push()
    assert {key: fed.t_ns - t_ns for key, fed in totals.fed.items()} == {
        (Domain.CPU, "rapl"): 5,
        (Domain.DRAM, "rapl"): S,
        (Domain.OTHER, "wattmeter"): 3,
    }
    world.run(1)
    totals = pipeline.push(replace(world.snapshot(), readings=()))
    assert totals.fed[Domain.CPU, "rapl"] == Fed(S, t_ns + 5)


def test_counter_and_power_are_compared_over_the_same_time():
    """Where one of the two was not plain, neither counts in the comparison; the counter counts in the account."""
    world, pipeline = World(gpus=0), fresh()
    epochs = {Kind.ENERGY: 0, Kind.POWER: 0}

    def push():
        world.run(1)
        readings = (
            Reading(PACKAGE, Kind.ENERGY, world.truth[PACKAGE], world.t_ns, epoch=epochs[Kind.ENERGY]),
            Reading(PACKAGE, Kind.POWER, 90 * WATT, world.t_ns, epoch=epochs[Kind.POWER]),
        )  # fmt: skip
        return pipeline.push(replace(world.snapshot(), readings=readings)).devices[PACKAGE.id]

    push()
    assert push() == DeviceTotals(PACKAGE, 100 * WATT, 100 * WATT, 90 * WATT)
    for kind, counted in ((Kind.POWER, 200), (Kind.ENERGY, 200)):
        epochs[kind] += 1
        assert push() == DeviceTotals(PACKAGE, counted * WATT, 100 * WATT, 90 * WATT)
    assert push() == DeviceTotals(PACKAGE, 300 * WATT, 200 * WATT, 180 * WATT)


def test_events_are_added_up():
    """Increments of a source, by metric and labels."""
    world, pipeline = World(), fresh()
    one = Sample("jobwatt_gpu_xid_errors_total", ("0", "GPU-0", "79"), 1)
    pipeline.push(world.snapshot(events=(one, replace(one, value=2))))
    world.run(1)
    totals = pipeline.push(world.snapshot(events=(one,)))
    assert totals.counters == {(one.metric, one.labels): 4}


# --- jobs ------------------------------------------------------------------------------------------


def test_what_comes_late_is_added_to_the_account():
    """More is known of a job that has ended; of a job without an account it makes none."""
    world, pipeline = lived()
    job = world.jobs["7"]
    world.end("7")
    world.run(1)
    pipeline.push(world.snapshot())
    world.run(1)
    late = job_with(job, state="FAILED", exit_code="1:0")
    stranger = job_with(late, usage={"key": "n1/9"}, jobid="9")
    totals = pipeline.push(world.snapshot(late=(late, stranger)))
    assert totals.jobs.keys() == {"n1/7"}
    assert totals.jobs["n1/7"].job.meta.state == "FAILED"


def test_names_that_were_known_stay():
    """Not told any more, they are those of before; told otherwise, they are the new ones."""
    world, pipeline = lived()
    world.jobs["7"] = job_with(world.jobs["7"], user="", uid=None, account="new", qos="")
    world.run(1)
    meta = pipeline.push(world.snapshot()).jobs["n1/7"].job.meta
    assert (meta.user, meta.account, meta.partition, meta.qos) == ("u7", "new", "p", "")


def test_an_account_is_not_moved_onto_another():
    """A job known by its prolog alone takes the name of a cgroup that has an account: both keep what is theirs."""
    world, pipeline = lived(gpus=1)
    job = world.jobs.pop("7")
    world.run(1)
    pipeline.push(world.snapshot())  # the account n1/7 lingers
    hooked = {"key": "/7", "node": "", "root": "", "cpu_ns": None, "counting": False}
    for _ in range(2):
        world.run(1)
        pipeline.push(replace(world.snapshot(), jobs=(job_with(job, usage=hooked),)))
    world.jobs["7"] = job
    world.run(1, {"7": 1})
    totals = pipeline.push(world.snapshot())
    assert totals.jobs["/7"].energy_uj[Domain.GPU] == 200 * WATT
    charged = sum(account.energy_uj.get(Domain.GPU, 0) for account in totals.jobs.values())
    assert charged + totals.owners["unallocated", Domain.GPU] == totals.node[Domain.GPU]


def test_two_parts_of_a_job_end_together():
    """Of two slurmd on a host each has a part of the job: the part that ended stays as long as the other is there."""
    world, pipeline = lived()
    part = job_with(world.jobs["7"], usage={"key": "n2/7", "node": "n2"})
    for second in range(3):
        world.run(1)
        jobs = (*world.snapshot().jobs, part) if second == 0 else world.snapshot().jobs
        pipeline.push(replace(world.snapshot(), jobs=jobs))
    for _ in range(2):
        world.run(601)
        totals = pipeline.push(world.snapshot())
    assert totals.jobs.keys() == {"n1/7", "n2/7"}
    world.end("7")
    for _ in range(3):
        world.run(601)
        totals = pipeline.push(world.snapshot())
    assert not totals.jobs


def test_a_gpu_keeps_its_name_while_a_row_names_it():
    """GPUs that are gone are still called what they were, as far as there is anything to call so."""
    world, pipeline = lived(gpus=1)
    odd = GpuState("MIG-1", 3)
    shown = world.snapshot()
    totals = pipeline.push(replace(shown, gpus=(*shown.gpus, odd)))
    assert totals.gpu_index == {"GPU-0": "0", "MIG-1": "3"}
    totals = pipeline.push(replace(shown, gpus=(replace(odd, uuid="MIG-2"),)))
    assert totals.gpu_index == {"GPU-0": "0", "MIG-2": "3"}
