"""The loop: what one sample may do to the daemon, and what a signal may."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

import trees
from jobwatt.agent import Agent
from jobwatt.assembly import pipeline, sampler
from jobwatt.board import Board
from jobwatt.config import Config
from jobwatt.ledger import Ledger
from jobwatt.model import GpuProcess, GpuState, SourceResult
from jobwatt.slurm.find import Jobs
from world import World


class Faulty:
    """A sampler that fails at every second sample: a fault that nobody has thought of."""

    boot_id, status, sources = "boot", (), ()
    resolver = SimpleNamespace(remember=lambda jobs: None)

    def __init__(self):
        self.world, self.taken = World(), 0

    def take(self, *, full, cause):
        self.taken += 1
        self.world.run(1)
        if self.taken % 2 == 0:
            raise ValueError("a file said what no file says")
        return self.world.snapshot()


@pytest.fixture
def agent(tmp_path):
    config = Config(path_state=tmp_path)
    return Agent(config, Faulty(), pipeline(config, Ledger(None)), Board(1.0), events=None)


def test_a_failed_sample_costs_a_sample(agent, caplog):
    """Whatever a sample raises is said once, counted, and gone on from; counters bridge it."""
    with caplog.at_level(logging.ERROR):
        agent.begin()
        for _ in range(6):
            agent._sample(full=True, cause="tick")
    assert len([r for r in caplog.records if "measuring goes on" in r.message]) == 1
    totals = agent.pipeline.totals
    assert totals.counters["jobwatt_source_errors_total", ("sampler", "exception")] == 3
    assert totals.devices["intel-rapl:0"].energy_uj == 6 * 100 * 10**6


def test_signals_leave_their_work_to_the_loop(agent):
    """A handler only notes what is wanted: it may have interrupted a write to the log."""
    agent._orders.append(agent.stop)
    assert not agent.stopping
    agent._obey()
    assert agent.stopping
    assert agent._orders == []


def test_a_process_on_a_gpu_gets_its_job_when_that_is_found(tmp_path, monkeypatch):
    """A later scan than the process' own may find its job; until then it is not asked about at each sample."""
    node = trees.Node(tmp_path, cpus=4, sockets=1)
    taking = sampler(
        Config(
            path_procfs=node.proc, path_sysfs=node.sys, path_cgroupfs=node.cgroup, path_state=tmp_path,
            slurm_rpc=False, source_nvml=False,
        )
    )  # fmt: skip
    job = node.add_job(42, uid=20001, layout="v2", cpus=range(2), steps=("0",))
    gpu = GpuState("GPU-1", 0, processes=(GpuProcess(job.pids[-1], sm_permille=300),))
    nvml = SimpleNamespace(
        name="nvml", read=lambda *, full: SourceResult(gpus=(gpu,)), close=lambda: None
    )
    taking.sources, asked, key_of = (nvml,), [], taking.jobs.key_of
    monkeypatch.setattr(Jobs, "key_of", lambda _, pid: asked.append(pid) or key_of(pid))
    hidden, away = node.cgroup / job.path, tmp_path / "away"
    hidden.rename(away)  # not found yet
    for _ in range(3):
        assert taking.take(full=True, cause="tick").jobs == ()
    assert asked == [job.pids[-1]]
    away.rename(hidden)
    snapshot = taking.take(full=True, cause="tick")
    (found,) = snapshot.jobs
    assert (found.meta.gpus, found.meta.gpus_by) == ({"GPU-1": 1}, "process")
    assert snapshot.sm_use == {"GPU-1": {found.usage.key: 300}}
    assert len(asked) == 2
    taking.close()
