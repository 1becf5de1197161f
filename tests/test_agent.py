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


def test_a_process_on_a_gpu_is_asked_about_until_its_job_is_known(tmp_path, monkeypatch):
    """Its job's directory may be found by a later scan than the process itself: the GPU is the job's from then on."""
    node = trees.Node(tmp_path, cpus=4, sockets=1)
    job = node.add_job(42, uid=20001, layout="v2", cpus=range(2), steps=("0",))
    pid = job.pids[-1]
    taking = sampler(
        Config(
            path_procfs=node.proc, path_sysfs=node.sys, path_cgroupfs=node.cgroup, path_state=tmp_path,
            slurm_rpc=False, source_nvml=False,
        )
    )  # fmt: skip
    gpu = GpuState("GPU-1", 0, processes=(GpuProcess(pid, sm_permille=300),))
    nvml = SimpleNamespace(
        name="nvml", read=lambda *, full: SourceResult(gpus=(gpu,)), close=lambda: None
    )
    taking.sources = (nvml,)
    with monkeypatch.context() as unseen:
        unseen.setattr(taking.jobs, "key_of", lambda pid: None)
        (found,) = taking.take(full=True, cause="tick").jobs
        assert (found.meta.gpus, found.meta.gpus_by) == ({}, "")
    snapshot = taking.take(full=True, cause="tick")
    (found,) = snapshot.jobs
    assert (found.meta.gpus, found.meta.gpus_by) == ({"GPU-1": 1}, "process")
    assert snapshot.sm_use == {"GPU-1": {found.usage.key: 300}}
    taking.close()
