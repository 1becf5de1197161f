"""The demo's simulated cluster: the same for everybody, and its own account agrees with the pipeline's."""

from __future__ import annotations

import itertools
import socket
import statistics
import subprocess
import time
import urllib.request
from collections import Counter
from dataclasses import fields, replace

import pytest

from jobwatt.demo.sim import history
from jobwatt.demo.sim.account import Account, play
from jobwatt.demo.sim.cluster import NODES, Cluster
from jobwatt.demo.sim.fleet import FLEET
from jobwatt.demo.sim.live import Live
from jobwatt.demo.sim.names import LABS, USERS
from jobwatt.demo.sim.requests import Kind
from jobwatt.demo.sim.scheduler import Scheduler
from jobwatt.demo.sim.standing import CHAINS
from jobwatt.demo.sim.workload import submissions
from jobwatt.ledger import Ledger
from jobwatt.model import Domain

HOUR, DAY, WEEK = 3600, 86_400, 7 * 86_400
BEGAN = 1_790_000_160  # a multiple of 240 s, on a Monday
SEED = 7


# --- people ----------------------------------------------------------------------------------------


def test_users_are_many_unique_and_printable():
    """Ninety-nine users of five labs, with names that Slurm and a mail address can take."""
    names = [user.name for user in USERS]
    assert len(set(names)) == len(names) == 99
    assert all(name.isascii() and name.isalpha() and name.islower() for name in names)
    assert Counter(user.lab for user in USERS) == LABS
    assert sum(LABS.values()) == 99
    assert len(LABS) == 5


# --- determinism -----------------------------------------------------------------------------------


def seen(cluster):
    """All nodes without what a snapshot tells only once."""
    return [replace(cluster.snapshot(node), ended=(), events=()) for node in NODES]


def test_who_looks_when_changes_nothing():
    """Any steps of advance() and any snapshots between them lead to the same nodes and the same truth."""
    at_once, in_steps = Cluster(SEED, BEGAN), Cluster(SEED, BEGAN)
    at_once.advance(BEGAN + 5 * HOUR + 17)
    now_s, step_s = BEGAN, 1
    while now_s < at_once.now_s:
        now_s, step_s = min(now_s + step_s, at_once.now_s), step_s * 7 % 1013
        in_steps.advance(now_s)
        in_steps.snapshot(NODES[step_s % 12])
    assert seen(in_steps) == seen(at_once)
    assert in_steps.truth() == at_once.truth()


def test_seeds_differ():
    """Another seed is another cluster."""
    assert seen(Cluster(SEED, BEGAN)) != seen(Cluster(SEED + 1, BEGAN))


def test_when_live_begins_changes_one_user_and_one_gpu_only():
    """Jobs of everybody else, and their numbers, do not depend on when somebody begins to look."""

    def others(live_s):
        scheduler = Scheduler(SEED, BEGAN, live_s)
        scheduler.advance(BEGAN + 2 * DAY)
        mine = {"debug-nccl", "unet-mri"}
        return {i: r.parts for i, r in scheduler.running.items() if r.request.name not in mine}

    assert others(BEGAN + DAY) == others(BEGAN + WEEK)


# --- what is handed out ----------------------------------------------------------------------------


def test_nothing_is_handed_out_twice():
    """A unit and a CPU have one holder, memory is enough, and a job's GPUs are of its partition."""
    scheduler = Scheduler(SEED, BEGAN, BEGAN + WEEK)
    for at_s in range(BEGAN, BEGAN + WEEK, 1900):
        scheduler.advance(at_s)
        units, cpus, memory = Counter(), Counter(), Counter()
        for run in scheduler.running.values():
            for part in run.parts:
                units.update((part.node, unit) for unit in part.units)
                cpus.update((part.node, cpu) for cpu in part.cpus)
                memory[part.node] += run.request.memory
                assert len(part.units) == run.request.gpus
                assert FLEET[part.node].partition == run.request.partition
        assert max(units.values()) == max(cpus.values()) == 1
        assert all(used <= FLEET[node].host.memory for node, used in memory.items())


def test_fleet():
    """72 GPUs on twelve nodes; MIG instances add up to their GPU's slices."""
    assert len(NODES) == 12
    assert sum(spec.gpus for spec in FLEET.values()) == 72
    slices = Counter()
    for unit in FLEET["gpu11"].units:
        if unit.slot is not None:
            slices[unit.gpu] += unit.slices
    assert slices == {2: 7, 3: 7}


def allocated(seed):
    """Share of the GPUs held, every half hour of a week; jobs that started; longest queue."""
    scheduler = Scheduler(seed, BEGAN, BEGAN + WEEK)
    shares, queues = [], []
    for at_s in range(BEGAN, BEGAN + WEEK, 1800):
        scheduler.advance(at_s)
        parts = [part for run in scheduler.running.values() for part in run.parts]
        held = {(p.node, FLEET[p.node].units[unit].gpu) for p in parts for unit in p.units}
        shares.append(len(held) / 72)
        queues.append(len(scheduler.queue))
    begun = [e.run for log in scheduler.log.values() for e in log if e.begins and not e.part.rank]
    return shares, begun, queues


def test_a_week_is_like_a_real_one():
    """Allocation, numbers, states and run times are near the published ones (data/ORIGINS.md)."""
    shares, begun, queues = allocated(SEED)
    assert 0.50 < statistics.mean(shares) < 0.78
    assert max(queues) > 5
    assert 60 < len(begun) / 7 < 150
    states = Counter(run.state for run in begun)
    assert 0.40 < states["COMPLETED"] / len(begun) < 0.65
    assert 0.15 < (states["FAILED"] + states["OUT_OF_MEMORY"]) / len(begun) < 0.45
    assert 0.04 < states["CANCELLED"] / len(begun) < 0.25
    assert 0 < states["TIMEOUT"] < 0.1 * len(begun)
    assert 60 < statistics.median(run.end_s - run.start_s for run in begun) < 1200
    assert {run.request.kind for run in begun} == set(Kind)
    assert any(len(run.parts) > 1 for run in begun)
    assert len({run.request.user.name for run in begun}) > 60


def test_submissions_follow_the_week():
    """About 55 a day over the year, arrays counted once; fewer on weekends and at night."""
    days = [
        [one for one in submissions(SEED, day) if one.task == 0] for day in range(20_000, 20_364)
    ]
    weekend = [len(day) for number, day in enumerate(days, 20_000) if (number + 3) % 7 >= 5]
    assert 45 < statistics.mean(map(len, days)) < 65
    assert statistics.mean(weekend) < 0.6 * statistics.mean(map(len, days))
    night = sum(one.submit_s % DAY < 6 * HOUR for day in days for one in day)
    assert night < 0.1 * sum(map(len, days))


def test_tasks_of_an_array_are_alike():
    """A sweep's tasks have one array id, ids of their own, and nearly the same length."""
    scheduler = Scheduler(SEED, BEGAN, BEGAN + WEEK)
    scheduler.advance(BEGAN + WEEK)
    tasks = {}
    for log in scheduler.log.values():
        for event in log:
            if event.begins and event.run.request.kind is Kind.SWEEP:
                tasks.setdefault(event.run.array_job_id, []).append(event.run)
    whole = [runs for runs in tasks.values() if len(runs) > 12]
    assert whole
    for runs in whole:
        assert len({run.jobid for run in runs}) == len(runs)
        lengths = [run.end_s - run.start_s for run in runs if run.state == "COMPLETED"]
        assert max(lengths) < 1.15 * min(lengths) + 2


# --- what alerts tell of ---------------------------------------------------------------------------


def longest_idle_s(chain, at_s):
    """For how long the job that the chain runs at ``at_s`` has left a GPU idle (0: it is at work)."""
    now = max(at_s // chain.period_s - 1, 0)
    for number in (now + 1, now):
        request = chain.request(SEED, number)
        age_s = at_s - request.submit_s
        if 0 <= age_s < request.run_s:
            busy_s = {Kind.FORGOTTEN: 600, Kind.HANGING: request.run_s * request.busy_part}
            return max(age_s - busy_s.get(chain.kind, 300), 0)
    return 0


@pytest.mark.parametrize(
    ("name", "idle_s"),
    [
        ("jupyter-explore", 4 * HOUR),
        ("llm-finetune", HOUR),
        ("ddp-baseline", HOUR),
        ("video-dataloader", HOUR),
    ],
)
def test_each_habit_is_there_at_any_moment(name, idle_s):
    """Whenever somebody looks, a job of each standing habit has gone on for longer than its alert takes."""
    chains = [chain for chain in CHAINS if chain.name == name]
    for at_s in range(BEGAN, BEGAN + 4 * WEEK, 1200):
        assert max(longest_idle_s(chain, at_s) for chain in chains) > idle_s, at_s - BEGAN


def test_live_has_a_row_of_failures_and_a_lost_gpu():
    """When live begins one user has had ten short failures within the hour, and a GPU does not answer."""
    cluster = Cluster(SEED, BEGAN, BEGAN + DAY)
    cluster.advance(BEGAN + DAY - HOUR)
    cluster.snapshot("gpu10")
    cluster.advance(BEGAN + DAY)
    failed = [
        job.meta
        for job in cluster.snapshot("gpu10").ended
        if job.meta.state == "FAILED" and job.meta.end_s - job.meta.start_s < 300
    ]
    assert Counter(meta.user for meta in failed).most_common(1)[0][1] >= 10
    gpu12 = cluster.snapshot("gpu12")
    up = {s.labels[0]: s.value for s in gpu12.samples if s.metric == "jobwatt_gpu_up"}
    assert up == {"0": 1, "1": 1, "2": 1, "3": 0}
    assert [failure.reason for failure in gpu12.failures] == ["gpu_is_lost"]
    assert len([r for r in gpu12.readings if r.device.domain is Domain.GPU]) == 6


# --- the account -----------------------------------------------------------------------------------


class Day:
    """A day of all nodes through the real pipeline, every four minutes."""

    def __init__(self):
        self.cluster = Cluster(SEED, BEGAN)
        self.accounts = [Account(self.cluster, node, Ledger(None), 240) for node in NODES]
        self.jobs = {}
        for at_s in range(BEGAN, BEGAN + DAY + 1, 240):
            play(self.cluster, self.accounts, at_s)
            for account in self.accounts:
                for key, totals in account.push().totals.jobs.items():
                    self.jobs[account.node, key] = totals
        self.truth = self.cluster.truth()

    def by_user(self, what):
        total = Counter()
        for job in self.jobs.values():
            total[job.job.meta.user] += sum(what(gpu) for gpu in job.gpus.values())
        return total


@pytest.fixture(scope="module")
def day():
    return Day()


@pytest.mark.slow
def test_the_pipeline_measures_what_was_used(day):
    """Each node's energy by component is the simulation's own, to the microjoule."""
    for account in day.accounts:
        node = dict(account.pipeline.totals.node)
        for component in ("cpu", "dram", "gpu"):
            assert node.get(component, 0) == day.truth.energy_uj[account.node, component]
        if FLEET[account.node].wall is not None:
            assert sum(node.values()) == day.truth.energy_uj[account.node, "wall"]
        assert account.pipeline.totals.residual_uj == 0


@pytest.mark.slow
def test_jobs_system_and_nobody_make_the_node(day):
    """All that was ever charged, ended jobs included, is the node's energy."""
    for account in day.accounts:
        jobs = sum(
            sum(job.energy_uj.values())
            for (node, _), job in day.jobs.items()
            if node == account.node
        )
        totals = account.pipeline.totals
        assert jobs + sum(totals.owners.values()) == sum(totals.node.values())


def test_users_are_charged_what_they_used(day):
    """
    GPU seconds, idle seconds and idle energy by user are exact. So is energy, but on MIG, where what an
    instance draws is not measured: there the split of a GPU may be off by its rounding.
    """
    assert day.by_user(lambda gpu: gpu.held_ns // 10**9) == day.truth.user_gpu_s
    assert +day.by_user(lambda gpu: gpu.idle_ns // 10**9) == +day.truth.user_idle_s
    assert +day.by_user(lambda gpu: gpu.idle_uj) == +day.truth.user_idle_uj
    charged = day.by_user(lambda gpu: gpu.energy_uj)
    on_mig = {
        job.job.meta.user
        for job in day.jobs.values()
        if any(uuid.startswith("MIG-") for uuid in job.gpus)
    }
    assert on_mig
    for user, energy_uj in day.truth.user_gpu_uj.items():
        assert abs(charged[user] - energy_uj) <= (10**8 if user in on_mig else 0), user


def test_ended_jobs_are_counted_once(day):
    """Ends by account and state, a job on two nodes once; no pipeline needed to know them."""
    ended = {
        (key, job.job.meta.account, job.job.meta.state)
        for (_, key), job in day.jobs.items()
        if job.ended_ns
    }
    assert Counter((account, state) for _, account, state in ended) == +day.truth.ended


def test_idle_time_is_there_and_known(day):
    """Between a tenth and a third of the held GPU time is idle; only MIG and the dying GPU do not tell."""
    held, idle = sum(day.truth.user_gpu_s.values()), sum(day.truth.user_idle_s.values())
    assert 0.10 < idle / held < 0.35
    mig = {unit.uuid for unit in FLEET["gpu11"].units if unit.slot is not None}
    unknown = {
        uuid for job in day.jobs.values() for uuid, gpu in job.gpus.items() if gpu.unknown_ns
    }
    assert unknown
    assert unknown <= mig | {FLEET["gpu12"].uuids[3]}


def test_truths_can_be_subtracted():
    """The difference of two truths is what happened between them."""
    cluster = Cluster(SEED, BEGAN)
    cluster.advance(BEGAN + HOUR)
    first = cluster.truth()
    cluster.advance(BEGAN + 2 * HOUR)
    second = cluster.truth()
    between = second - first
    for each in fields(between):
        for key, value in getattr(between, each.name).items():
            assert value == getattr(second, each.name)[key] - getattr(first, each.name)[key] >= 0


# --- the past and the present ----------------------------------------------------------------------

PAST = {"seed": SEED, "began_s": BEGAN, "nodes": ["gpu08", "gpu11", "gpu12"]}
END = BEGAN + 6 * HOUR


def accounts(folder):
    """What the ledgers of a folder hold."""
    boot_id = Cluster(SEED, BEGAN).boot_id
    books = {}
    for path in sorted(folder.glob("*.db")):
        ledger = Ledger(path)
        books[path.name] = ledger.restore(boot_id)
        ledger.close()
    return books


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    folder = tmp_path_factory.mktemp("past")
    out, ledgers = folder / "past.om", folder / "ledgers"
    history.write(out, ledgers, from_s=BEGAN, to_s=END, fine_from_s=END - HOUR, **PAST)
    return out, ledgers


def test_a_past_in_two_pieces_is_the_past(past, tmp_path):
    """What is continued later has the same samples and ends in the same ledgers as what is made at once."""
    one, two = tmp_path / "1.om", tmp_path / "2.om"
    cut = BEGAN + 3 * HOUR
    span = {"fine_from_s": END - HOUR, **PAST}
    history.write(one, tmp_path / "ledgers", from_s=BEGAN, to_s=cut, **span)
    history.write(two, tmp_path / "ledgers", from_s=cut, to_s=END, **span)
    pieces = one.read_text().splitlines()[:-1] + two.read_text().splitlines()
    whole = past[0].read_text().splitlines()
    assert pieces[-1] == whole[-1] == "# EOF"
    assert sorted(pieces) == sorted(whole)
    again, at_once = accounts(tmp_path / "ledgers"), accounts(past[1])
    assert {n: b.totals for n, b in again.items()} == {n: b.totals for n, b in at_once.items()}


def test_a_past_ends_where_its_ledgers_end(tmp_path):
    """An end that no step reaches is refused: what ended after the last page would be in no account."""
    coarse = {"fine_from_s": END, "fine_step_s": 15, "coarse_step_s": 60, **PAST}
    with pytest.raises(ValueError, match=f"the end {BEGAN + 615} is no multiple"):
        history.write(tmp_path / "1.om", tmp_path, from_s=BEGAN, to_s=BEGAN + 615, **coarse)
    fine = {**coarse, "fine_from_s": BEGAN + 300}
    history.write(tmp_path / "2.om", tmp_path, from_s=BEGAN, to_s=BEGAN + 615, **fine)


def test_each_series_is_in_the_order_of_time(past):
    """Within a series times grow, by one or two minutes; `up` and the label `cluster` are there."""
    times = {}
    for line in past[0].read_text().splitlines()[:-1]:
        series, _, at = line.rsplit(" ", 2)
        times.setdefault(series, []).append(int(at))
    for series, at in times.items():
        assert all(a < b for a, b in itertools.pairwise(at)), series
        assert 'cluster="demo"' in series
    up = times['up{cluster="demo",instance="gpu08",job="jobwatt"}']
    assert {b - a for a, b in itertools.pairwise(up)} == {60, 120}


@pytest.mark.prometheus
def test_promtool_takes_the_past(past, tmp_path):
    """Prometheus makes blocks of the text."""
    argv = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
    done = subprocess.run(
        [*argv, "--max-block-duration=162h", str(past[0]), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir())


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


@pytest.mark.slow
def test_live_goes_on_where_the_ledgers_end(tmp_path):
    """Totals go on from the past, without a gap or a doubtful step; the kept ledgers stay as they were."""
    now_s = int(time.time()) // 240 * 240
    began_s, end_s = now_s - 3 * HOUR, now_s - 600
    ledgers = tmp_path / "ledgers"
    history.write(
        tmp_path / "past.om", ledgers, seed=SEED, began_s=began_s, from_s=began_s, to_s=end_s, nodes=NODES, fine_from_s=0
    )  # fmt: skip
    kept = (ledgers / "gpu12.db").read_bytes()
    live = Live(seed=SEED, began_s=began_s, ledgers=ledgers, interval_s=5)
    try:
        ports = live.start()
        assert list(ports) == list(NODES)
        caught_up_s = live.now_s
        while live.now_s == caught_up_s:
            time.sleep(0.05)
        page = scraped(ports["gpu05"])
        live.stop()
        truth = Cluster(SEED, began_s)
        truth.advance(int(float(page["jobwatt_snapshot_timestamp_seconds"])))
        joules = truth.truth().energy_uj["gpu05", "gpu"] / 10**6
        assert float(page['jobwatt_node_energy_joules_total{component="gpu"}']) == joules
        steps = [name for name in page if name.startswith("jobwatt_steps_total")]
        assert not [step for step in steps if "wrapped" not in step]
    finally:
        live.stop()
    assert (ledgers / "gpu12.db").read_bytes() == kept


def test_a_port_that_is_taken_is_named(tmp_path):
    """Whoever asks for ports that are not free hears which one is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        live = Live(seed=SEED, began_s=int(time.time()), ledgers=tmp_path, first_port=port)
        with pytest.raises(OSError, match=f"port {port} .*gpu01"):
            live.start()
