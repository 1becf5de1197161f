"""Who was there and used how much CPU time: between two snapshots made by hand, to the nanosecond."""

from __future__ import annotations

import pytest

from jobwatt.model import NS_PER_S, Job, JobMeta, JobUsage, NodeUsage, Snapshot
from jobwatt.presence import Carry, Presence, attendance

S = NS_PER_S
MS = S // 1000
TICK = 10 * MS  # of /proc/stat


def job(key, cpu_ns=0, *, root="root", counting=True, first_ns=0, **meta):
    node, _, number = key.partition("/")
    usage = JobUsage(key, root, node, cpu_ns=cpu_ns, first_ns=first_ns, counting=counting)
    return Job(usage, JobMeta(number, **meta))


def snap(t_ns, *jobs, busy=(0, 0), roots=None, ended=()):
    node = NodeUsage(dict(enumerate(busy)))
    return Snapshot("boot", 0.0, t_ns, jobs=jobs, ended=ended, roots=roots or {}, node=node)


def used(before, now, carry=None):
    found = attendance(before, now, carry or Carry())
    return {key: presence.cpu_ns for key, presence in found.present.items()}


def held(before, now):
    return {key: p.held_ns for key, p in attendance(before, now, Carry()).present.items()}


# --- how long --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "held_ns"),
    [
        (job("n/1"), job("n/1"), 1000),
        (None, job("n/1"), 500),  # somewhere in it
        (None, job("n/1", first_ns=1200), 800),
        (None, job("n/1", first_ns=1200, start_ns=1100), 900),
        (job("n/1", start_ns=10), job("n/1", start_ns=10), 1000),
        (job("n/1"), job("n/1", end_ns=1700), 700),
        (job("n/1"), job("n/1", end_ns=9000), 1000),
        (job("n/1"), job("n/1", end_ns=10), 0),
        (job("n/1"), None, 1000),
    ],
)
def test_how_long_a_job_was_there(was, now, held_ns):
    """From its prolog, or when it was first seen, to its epilog, or until it was found gone; within the interval."""
    found = held(snap(1000, *filter(None, [was])), snap(2000, *filter(None, [now])))
    assert found == {"n/1": held_ns}


@pytest.mark.parametrize(
    ("confined", "cpus_alloc", "cpus"), [(None, 0, 1), ({0, 1, 2}, 0, 3), ({0, 1, 2}, 2, 2)]
)
def test_cpus_of_a_job(confined, cpus_alloc, cpus):
    """What was reserved; else what the kernel confines it to; never fewer than one."""
    usage = JobUsage("n/1", cpus=confined and frozenset(confined))
    assert Presence(Job(usage, JobMeta(cpus_alloc=cpus_alloc)), 0, ended=False).cpus == cpus


def test_who_ended():
    """A job is as its epilog told it; a job that is still there has ended only if it did so in this interval."""
    told = job("n/1", end_ns=1700)
    straggler, former = job("n/2", end_ns=1500), job("n/3", end_ns=1000)
    before = snap(1000, job("n/1"), job("n/2"), job("n/3"), job("n/4"))
    now = snap(2000, job("n/2"), job("n/3"), ended=(told, straggler, former))
    present = attendance(before, now, Carry()).present
    assert {key: (p.ended, p.held_ns) for key, p in present.items()} == {
        "n/1": (True, 700),
        "n/2": (False, 500),
        "n/3": (False, 1000),
        "n/4": (True, 1000),
    }


@pytest.mark.parametrize(
    ("old", "new", "ended", "renamed"),
    [
        ("/7", "n1/7", (), {"/7": "n1/7"}),
        ("n1/7", "/7", (), {"n1/7": "/7"}),
        ("n1/7", "n2/7", (), {}),  # of another slurmd
        ("/7", "n1/8", (), {}),
        ("/7", "n1/7", (job("/7", end_ns=1500),), {}),
        ("/", "n1/", (), {}),  # whose ids nobody knows
    ],
)
def test_a_job_under_another_name(old, new, ended, renamed):
    """One known by its prolog only gets the name of its cgroup; not one that ended, nor another slurmd's."""
    now = snap(2000, job(new), ended=ended)
    assert attendance(snap(1000, job(old)), now, Carry()).renamed == renamed
    # both were there: two jobs
    assert attendance(snap(1000, job(old), job(new)), now, Carry()).renamed == {}


# --- how much --------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [(0, 0), ()], ids=["two CPUs", "none known"])
@pytest.mark.parametrize(
    ("was", "now", "cpu_ns"),
    [
        (job("n/1", 50), job("n/1", 80), 30),
        (job("n/1", 50), job("n/1", 50), 0),
        (job("n/1", 50), job("n/1", 20), 20),  # began again
        (job("n/1", 9 * S), job("n/1", 2 * S), "as much as the CPUs can give"),
        (job("n/1", 9 * S), job("n/1", 2 * S + 1), 0),
        (job("n/1", None), job("n/1", 7), 7),
        (job("n/1", 7), job("n/1", None), 0),
        (None, job("n/1", 9 * S, first_ns=1), 9 * S),
        (None, job("n/1", 2 * S), "as much as the CPUs can give"),
        (None, job("n/1", 2 * S + 1), 0),
    ],
)
def test_cpu_time_since_the_last_sample(was, now, cpu_ns, busy):
    """The counter's difference; of one that began again, or whose beginning nobody saw, no more than can be."""
    if isinstance(cpu_ns, str):
        cpu_ns = 2 * S if busy else 0
    before = snap(S, *filter(None, [was]), busy=busy)
    assert used(before, snap(2 * S, now, busy=busy)) == {"n/1": cpu_ns}


def test_busy_time_of_cpus():
    """Their difference; one that steps back or has just come online counts nothing."""
    found = attendance(snap(0, busy=(5, 5, 5)), snap(S, busy=(9, 5, 3, 70)), Carry())
    assert found.busy_by_cpu == {0: 4, 1: 0, 2: 0}
    assert found.busy_ns == 4
    assert attendance(snap(S), snap(0), Carry()).dt_ns == 0


def test_a_root_tells_what_ended_jobs_used():
    """What it shows beyond the jobs still counted, by CPUs and time where several ended; each root for its own."""
    before = snap(
        0,
        job("n1/1", 10, root="slurm_n1"),
        job("n1/2", 10, root="slurm_n1"),
        job("n2/3", 10, root="other"),
        roots={"slurm_n1": 100, "other": 50},
    )
    now = snap(
        S,
        job("n1/1", 40, root="slurm_n1"),
        busy=(900, 900),
        roots={"slurm_n1": 220, "other": 57},
        ended=(job("n1/4", root="", cpus_alloc=2),),  # nobody ever saw its cgroup
    )
    assert used(before, now) == {"n1/1": 30, "n1/2": 45, "n1/4": 45, "n2/3": 7}


@pytest.mark.parametrize(("root_ns", "cpu_ns"), [(150, 23), (131, 4), (130, 3), (120, 3)])
def test_a_counter_that_is_gone_is_not_counted(root_ns, cpu_ns):
    """A job between the end of its cgroup and its epilog is closed from its root, and never pays back."""
    before = snap(0, job("n/1", 10), job("n/2", 10), roots={"root": 100})
    still = job("n/2", 13, counting=False)
    now = snap(S, job("n/1", 40), still, roots={"root": root_ns})
    assert used(before, now) == {"n/1": 30, "n/2": cpu_ns}


@pytest.mark.parametrize(("busy", "most_ns"), [((0, 0), 2 * S), ((), S)])
def test_a_new_root(busy, most_ns):
    """All that it shows is new, unless the CPUs could not have given it."""
    for shown, cpu_ns in ((most_ns, most_ns), (most_ns + 1, 0)):
        now = snap(S, roots={"root": shown}, ended=(job("n/1"),), busy=busy)
        assert used(snap(0, busy=busy), now) == {"n/1": cpu_ns}


def test_without_roots_the_node_tells():
    """What it was busy beyond the jobs still counted and the usual system."""
    before = snap(0, job("n/1", 0), job("n/2", 0))
    now = snap(2 * S, job("n/1", 100), busy=(400, 300))
    assert used(before, now, Carry(system_rate=50)) == {"n/1": 100, "n/2": 500}
    assert used(before, now, Carry(system_rate=400)) == {"n/1": 100, "n/2": 0}


@pytest.mark.parametrize(
    ("busy_ns", "jobs_ns", "carry", "after"),
    [
        (100, 40, Carry(), Carry(0, 60)),
        (100, 40, Carry(10, 0), Carry(0, 50)),
        (100, 40, Carry(0, 380), Carry(0, 360)),  # a sixteenth of the way
        (100, 100, Carry(0, 160), Carry(0, 150)),
        (100, 130, Carry(), Carry(30, 0)),
        (100, 130, Carry(5, 160), Carry(35, 150)),
        (100, 100 * MS, Carry(), Carry(2 * TICK, 0)),
    ],
)
def test_what_is_carried(busy_ns, jobs_ns, carry, after):
    """A debt of one tick per CPU at most, paid by what is busy later; the system's use, smoothed."""
    before = snap(0, job("n/1", 0))
    assert attendance(before, snap(S, job("n/1", jobs_ns), busy=(busy_ns, 0)), carry).carry == after
    # an interval that somebody was closed in, or of no length, tells nothing of the system
    closed = attendance(before, snap(S, busy=(busy_ns, 0), roots={"root": jobs_ns}), carry).carry
    assert closed.system_rate == carry.system_rate
    assert (
        attendance(before, snap(0, busy=(busy_ns, 0)), carry).carry.system_rate == carry.system_rate
    )
