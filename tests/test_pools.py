"""What everybody claims of a device: CPUs, sockets, memory, GPUs and their instances, and what waits for a silent one."""

from __future__ import annotations

import pytest

from jobwatt.attribute import UNALLOCATED, Claim
from jobwatt.model import (
    NS_PER_S,
    Delta,
    Device,
    Domain,
    GpuState,
    Job,
    JobMeta,
    JobUsage,
    NodeUsage,
    Snapshot,
    Step,
)
from jobwatt.pools import Pools, Waiting, gpu_states, holders
from jobwatt.presence import Attendance, Carry, Presence

S = NS_PER_S
HOUR = 3600 * S
REGULAR = 5 * S // 2
GIB = 1 << 30
CPU = Device(Domain.CPU, "cpu", "rapl")
SOCKET = Device(Domain.CPU, "socket1", "rapl", cpus=frozenset({4, 5, 6, 7}))
DRAM = Device(Domain.DRAM, "dram", "rapl")
GPU = Device(Domain.GPU, "GPU-0", "nvml")


def present(cpu_ns=0, held_ns=S, *, own=None, limit=None, **meta):
    usage = JobUsage("n/1", cpus=own and frozenset(own), mem_limit_bytes=limit)
    return Presence(Job(usage, JobMeta(**meta)), held_ns, ended=False, cpu_ns=cpu_ns)


def made(jobs, *, dt_ns=S, cpus=8, busy=None, mem=0, gpus=(), sm_use=None, debt_ns=0, **more):
    """Pools of an interval with these jobs; each CPU was busy for ``busy`` ns."""
    node = NodeUsage(dict.fromkeys(range(cpus), 0), mem)
    now = Snapshot("boot", 0.0, dt_ns, gpus=tuple(gpus), sm_use=sm_use or {}, node=node)
    by_cpu = dict.fromkeys(range(cpus), 0) | (busy or {})
    attendance = Attendance(dt_ns, jobs, by_cpu, {}, Carry(debt_ns))
    states = gpu_states(Snapshot("boot", 0.0, 0), now)
    given = {"idle_uw": {}, "waiting": {}, **more}
    return Pools(now, attendance, states=states, holders=holders(jobs, states), regular_ns=REGULAR, **given)  # fmt: skip


def claims(device, jobs, **more):
    """Capacity, busy and {owner: (reserved, used)} of a device's pool."""
    dt_ns = more.get("dt_ns", S)
    pool = made(jobs, **more).of(Delta(device, 5, dt_ns, Step.NORMAL))
    return pool.capacity, pool.busy, {c.owner: (c.reserved, c.used) for c in pool.claims}


# --- CPUs and memory -------------------------------------------------------------------------------


def test_a_pool_is_of_its_device():
    """Energy and time as measured, idle power where it is known."""
    pools = made({}, idle_uw={"cpu": 7})
    pool = pools.of(Delta(CPU, 5, 3 * S, Step.GAP))
    assert (pool.domain, pool.device, pool.energy_uj, pool.dt_ns) == (Domain.CPU, "cpu", 5, 3 * S)
    assert (pool.idle_uw, pools.of(Delta(DRAM, 5, S, Step.NORMAL)).idle_uw) == (7, 0)


def test_cpus():
    """CPUs reserved over the time held, CPU time used; of all CPUs over all the time."""
    jobs = {"a": present(30, cpus_alloc=3), "b": present(40, S // 2, cpus_alloc=2)}
    expected = {"a": (3 * S, 30), "b": (S, 40)}
    assert claims(CPU, jobs, busy={0: 60, 5: 30}) == (8 * S, 90, expected)


def test_a_socket_is_claimed_by_those_confined_to_it():
    """By the CPUs that are theirs there, and the same part of their time; where anybody is free, by the node's."""
    jobs = {"a": present(90, own={3, 4, 5}), "b": present(40, S // 2, own={6})}
    expected = {"a": (2 * S, 60), "b": (S // 2, 40)}
    assert claims(SOCKET, jobs, busy={0: 7, 4: 60, 7: 50}) == (4 * S, 110, expected)
    jobs["c"] = present(1)
    assert claims(SOCKET, jobs)[0] == 8 * S
    assert claims(CPU, {"a": present(90, own={3, 4, 5})})[0] == 8 * S


@pytest.mark.parametrize(
    ("job", "mem", "cpus", "reserved"),
    [
        (present(mem_alloc_bytes=3 * GIB), 8 * GIB, 8, 3 * GIB),
        (present(mem_alloc_bytes=3 * GIB, limit=2 * GIB), 8 * GIB, 8, 3 * GIB),
        (present(limit=2 * GIB), 8 * GIB, 8, 2 * GIB),
        (present(limit=9 * GIB), 8 * GIB, 8, 8 * GIB),
        (present(limit=9 * GIB), 0, 8, 9 * GIB),
        (present(cpus_alloc=2), 8 * GIB, 8, 2 * GIB),
        (present(cpus_alloc=2), 8 * GIB, 0, 16 * GIB),
    ],
)
def test_memory(job, mem, cpus, reserved):
    """What was reserved, else the limit, else the CPUs' share; no more than there is."""
    job.held_ns, job.cpu_ns = 3, 11
    found = claims(DRAM, {"a": job}, mem=mem, cpus=cpus, busy={0: 20})
    assert found == (mem * S, 20, {"a": (reserved * 3, 11)})


def test_what_ticks_owe_was_not_busy():
    """Of a debt each socket bears the part that it was busy."""
    jobs = {"a": present(own={4})}
    busy = {0: 300, 4: 100}
    assert claims(CPU, jobs, busy=busy, debt_ns=40)[1] == 360
    assert claims(SOCKET, jobs, busy=busy, debt_ns=40)[1] == 90
    assert claims(CPU, jobs, debt_ns=40)[1] == 0


# --- GPUs ------------------------------------------------------------------------------------------

WHOLE = GpuState("GPU-0", 0)
SLICED = GpuState("GPU-0", 0, slices=7, mig_enabled=True)


def instance(name, **more):
    return GpuState(name, 0, parent="GPU-0", **more)


OTHER = instance("MIG-c", sm_permille=900)


def holding(held_ns=S, **gpus):
    return present(held_ns=held_ns, gpus={name.replace("_", "-"): n for name, n in gpus.items()})


def test_a_sole_holder_pays_all():
    """Its use is not compared with anybody's; a GPU of which nothing is known has one slice."""
    assert claims(GPU, {"a": holding(S // 2, GPU_0=1)}, gpus=[WHOLE]) == (
        S,
        None,
        {"a": (S // 2, S // 2)},
    )
    assert claims(GPU, {"a": holding(GPU_0=1)})[0] == S
    assert claims(GPU, {"a": holding(GPU_1=1)}, gpus=[WHOLE]) == (S, None, {})


@pytest.mark.parametrize(
    ("sm_use", "used"),
    [
        ({}, (None, None)),
        ({"GPU-0": {"a": 300}}, (300 * S, 0)),
        ({"GPU-0": {"a": 300, "b": 100}}, (300 * S, 100 * S // 2)),
    ],
)
def test_a_gpu_that_two_share(sm_use, used):
    """By what their processes did, over the time each held it; unknown where nobody said."""
    jobs = {"a": holding(GPU_0=1), "b": holding(S // 2, GPU_0=1)}
    expected = {"a": (S, used[0]), "b": (S // 2, used[1])}
    assert claims(GPU, jobs, gpus=[WHOLE], sm_use=sm_use) == (S, None, expected)


@pytest.mark.parametrize(
    ("one", "used"),
    [
        ({"sm_permille": 800, "busy_permille": 5}, (800 * 4 + 100) * S),
        ({"busy_permille": 500}, (500 * 4 + 100) * S),
        ({}, None),
    ],
)
def test_instances(one, used):
    """By slices times activity, the SMs' where it is known; one that is unknown makes the job's use unknown."""
    states = [SLICED, instance("MIG-a", **one), instance("MIG-b", sm_permille=100), OTHER]
    jobs = {"a": holding(MIG_a=4, MIG_b=1, GPU_9=1), "b": holding(MIG_c=2)}
    expected = {"a": (5 * S, used), "b": (2 * S, 2 * 900 * S)}
    assert claims(GPU, jobs, gpus=states) == (7 * S, None, expected)


def test_an_instance_that_is_gone():
    """What is not known to be of this GPU is not claimed of it."""
    states = [SLICED, instance("MIG-b", sm_permille=100), OTHER]
    jobs = {"a": holding(MIG_a=4, MIG_b=1), "b": holding(MIG_c=2)}
    expected = {"a": (S, 100 * S), "b": (2 * S, 2 * 900 * S)}
    assert claims(GPU, jobs, gpus=states) == (7 * S, None, expected)


def test_over_a_long_time_nobody_knows_the_use():
    """Then what nobody held is claimed, too, so that a late comer does not pay for it."""
    jobs = {"a": holding(S, GPU_0=1), "b": holding(2 * S, GPU_0=1)}
    found = claims(GPU, jobs, gpus=[WHOLE], dt_ns=10 * S, sm_use={"GPU-0": {"a": 1}})
    assert found == (10 * S, None, {"a": (S, None), "b": (2 * S, None), UNALLOCATED: (7 * S, None)})
    both = {name: holding(3 * S, GPU_0=1) for name in "ab"}
    found = claims(GPU, both, gpus=[WHOLE], dt_ns=3 * S)
    assert found[2][UNALLOCATED] == (0, None)
    assert UNALLOCATED not in claims(GPU, both, gpus=[WHOLE], dt_ns=REGULAR)[2]


def test_the_latest_state_of_a_gpu_counts():
    """One that is not shown any more is as it was."""
    before = Snapshot("boot", 0.0, 0, gpus=(GpuState("a", 1), GpuState("b", 1)))
    now = Snapshot("boot", 0.0, 1, gpus=(GpuState("b", 2),))
    assert {uuid: state.index for uuid, state in gpu_states(before, now).items()} == {
        "a": 1,
        "b": 2,
    }


# --- silent devices --------------------------------------------------------------------------------


def test_claims_wait_for_a_silent_device():
    """They are added up by owner with those of the interval in which it speaks again; so are the jobs behind them."""
    one, two = present(10, cpus_alloc=1), present(20, cpus_alloc=2)
    first = made({"a": one}, busy={0: 50}).keep(CPU)
    assert first == Waiting((8 * S, 50, (Claim("a", S, 10),)), {"a": one.job}, S)
    second = made({"a": one, "b": two}, busy={0: 60}, waiting={"cpu": first}).keep(CPU)
    assert second == Waiting(
        (16 * S, 110, (Claim("a", 2 * S, 20), Claim("b", 2 * S, 20))),
        {"a": one.job, "b": two.job},
        2 * S,
    )
    found = claims(CPU, {"b": two}, busy={0: 1}, waiting={"cpu": second})
    assert found == (24 * S, 111, {"a": (2 * S, 20), "b": (4 * S, 40)})


@pytest.mark.parametrize("unknown", [0, 1])
def test_use_that_is_unknown_once_is_unknown(unknown):
    """Of a shared GPU that was silent: in one of two intervals nobody said what its holders did."""
    jobs = {name: holding(GPU_0=1) for name in "ab"}
    told = [{"GPU-0": {"a": 300, "b": 500}}, {"GPU-0": {"a": 300, "b": 500}}]
    told[unknown] = {}
    waiting = {"GPU-0": made(jobs, gpus=[WHOLE], sm_use=told[0]).keep(GPU)}
    found = claims(GPU, jobs, gpus=[WHOLE], sm_use=told[1], waiting=waiting)
    assert found == (2 * S, None, {"a": (2 * S, None), "b": (2 * S, None)})


@pytest.mark.parametrize(("waited_ns", "dt_ns"), [(HOUR, HOUR + S), (HOUR + 1, S)])
def test_claims_do_not_grow_for_ever(waited_ns, dt_ns):
    """After an hour a silent device is gone for good: they begin anew."""
    before = Waiting((1, 1, ()), {}, waited_ns)
    assert made({}, waiting={"cpu": before}).keep(CPU).dt_ns == dt_ns
