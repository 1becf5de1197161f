"""A page has an end, however many jobs a user starts and however often GPUs are repartitioned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.attribute import SYSTEM
from jobwatt.config import ConfigError, from_flags
from jobwatt.exposition import View, families
from jobwatt.idle import Idle
from jobwatt.interval import GpuUse
from jobwatt.jobview import Terms, jobs, within
from jobwatt.model import (
    NS_PER_S,
    Device,
    Domain,
    GpuState,
    Job,
    JobMeta,
    JobUsage,
    Snapshot,
)
from jobwatt.pageview import page_view
from jobwatt.privacy import Names
from jobwatt.totals import DeviceTotals, JobTotals, Totals, _gpu_index


def job(number, began, ended=0, uj=1):
    meta = JobMeta(str(number), "alice", 1, "ltci", "p", resolved_by="hook")
    return JobTotals(
        Job(JobUsage(f"n/{number}"), meta),
        began,
        {Domain.CPU: uj, Domain.GPU: 2 * uj},
        ended_ns=ended,
        ended_s=ended,
    )


def totals(*accounts):
    return Totals(jobs={account.job.usage.key: account for account in accounts})


def shown(accounts, limit):
    found, hidden = within(jobs(totals(*accounts), Names()), Terms(jobs=limit))
    assert len(found) + len(hidden) == len(accounts)
    return [found_job.labels[0] for found_job in found]


lives = st.lists(
    st.tuples(st.integers(1, 100), st.one_of(st.just(0), st.integers(1, 100))),
    min_size=1,
    max_size=30,
)


@given(lives, st.integers(1, 12))
def test_who_is_shown(found, limit):
    """So many at most; nobody who ended while somebody who runs is left out; of those who ended the latest."""
    accounts = [job(n, began, ended) for n, (began, ended) in enumerate(found)]
    chosen = set(shown(accounts, limit))
    assert len(chosen) == min(limit, len(accounts))
    running = {str(n) for n, (_, ended) in enumerate(found) if not ended}
    if running - chosen:
        assert chosen <= running
    ended = {str(n): ended for n, (_, ended) in enumerate(found) if ended}
    left_out = [ended[n] for n in ended.keys() - chosen]
    assert not left_out or max(left_out) <= min((ended[n] for n in ended.keys() & chosen), default=100)  # fmt: skip


@given(lives, st.integers(1, 12), st.integers(101, 200))
def test_who_is_shown_stays(found, limit, later):
    """A running job that is on the page stays there, whatever begins after it."""
    accounts = [job(n, began) for n, (began, _) in enumerate(found)]
    before = set(shown(accounts, limit))
    more = [job(1000 + n, later) for n in range(20)]
    assert before <= set(shown([*accounts, *more], limit))


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=20), st.integers(1, 20))
def test_nothing_is_lost_from_the_sum(energies, limit):
    """Jobs on the page, those left out and the system are the node, to the microjoule."""
    accounts = [job(n, 1, uj=uj) for n, uj in enumerate(energies)]
    node = {Domain.CPU: sum(energies) + 5}
    account = replace(totals(*accounts), node=node, owners={(SYSTEM, Domain.CPU): 5})
    view = View(account, Snapshot("b", 1.0, 1), Idle(), terms=Terms(jobs=limit))
    page = {metric.name: rows for metric, rows in families(view)}

    def uj(name):
        rows = page.get(name, {})
        return sum(int(text.replace(".", "")) for labels, text in rows.items() if "cpu" in labels)

    charged = (
        "jobwatt_job_energy_joules_total",
        "jobwatt_hidden_jobs_energy_joules",
        "jobwatt_system_energy_joules_total",
    )
    assert sum(map(uj, charged)) == uj("jobwatt_node_energy_joules_total")
    assert page["jobwatt_hidden_jobs"][()] == str(max(len(energies) - limit, 0))


def test_a_flood_of_short_jobs():
    """Ten thousand jobs within the linger time: the page has 512, the latest; the landing page says so."""
    accounts = [job(n, n + 1, n + 2) for n in range(10_000)]
    view = View(totals(*accounts), Snapshot("b", 1.0, 20_000), Idle())
    page = {metric.name: rows for metric, rows in families(view)}
    ids = {int(labels[0]) for labels in page["jobwatt_job_info"]}
    assert ids == set(range(10_000 - 512, 10_000))
    assert page["jobwatt_hidden_jobs"][()] == "9488"
    assert sum(len(rows) for rows in page.values()) < 512 * 20
    assert len(page_view(view).jobs) == 512
    assert "9488 more jobs are measured and not shown: limits.jobs is 512, limits.series 5000" in page_view(view).problems  # fmt: skip


def test_a_metric_has_an_end():
    """A device that tells of a sensor after another fills no page; how much is left out is a figure."""
    devices = {
        f"uuid{n}": DeviceTotals(Device(Domain.GPU, f"uuid{n}", "nvml", name=str(n)), n)
        for n in range(30)
    }
    view = View(Totals(devices=devices), Snapshot("b", 1.0, 1), Idle(), terms=Terms(series=20))
    page = {metric.name: rows for metric, rows in families(view)}
    assert len(page["jobwatt_gpu_energy_joules_total"]) == 20
    assert page["jobwatt_hidden_series"] == {("jobwatt_gpu_energy_joules_total",): "10"}


def test_nothing_is_said_where_nothing_is_hidden():
    """An ordinary page hides no series."""
    page = {metric.name for metric, _ in families(View(totals(job(1, 1)), Snapshot("b", 1.0, 1), Idle()))}  # fmt: skip
    assert "jobwatt_hidden_series" not in page
    assert "jobwatt_hidden_jobs_energy_joules" not in page


def test_repartitioned_for_years():
    """MIG instances of a thousand repartitions leave no trace but in the rows of jobs that held one."""
    held = replace(job(1, 1), gpus={"MIG-3-0": GpuUse(held_ns=NS_PER_S)})
    account = replace(totals(held), devices={"GPU-0": DeviceTotals(Device(Domain.GPU, "GPU-0", "nvml"))})  # fmt: skip
    for round_ in range(1000):
        gpus = (GpuState("GPU-0", 0), *(GpuState(f"MIG-{round_}-{n}", 0) for n in range(7)))
        account = replace(account, gpu_index=_gpu_index(account, Snapshot("b", 1.0, 1, gpus=gpus)))
    assert account.gpu_index.keys() == {"GPU-0", "MIG-3-0", *(f"MIG-999-{n}" for n in range(7))}


@pytest.mark.parametrize("text", ["0", "-1", "1e3", "", "100001", "many", "1.5", "٣"])
@pytest.mark.parametrize("flag", ["limits.jobs", "limits.series"])
def test_a_limit_that_is_none(flag, text):
    """A limit is a whole number; what is not is refused by its name."""
    with pytest.raises(ConfigError, match=rf"--{flag}: .* is no whole number from 1 to 100000"):
        from_flags({flag: text})


@given(lives, st.integers(8, 60), st.integers(1, 8))
def test_whole_jobs_fit(found, series, gpus):
    """A limit of series leaves out whole jobs: of each that is shown all of its GPUs are, and running ones come first."""
    accounts = [
        replace(job(n, began, ended), gpus={f"G{n}.{g}": GpuUse(energy_uj=7) for g in range(gpus)})
        for n, (began, ended) in enumerate(found)
    ]
    view = View(totals(*accounts), Snapshot("b", 1.0, 200), Idle(), terms=Terms(series=series))
    page = {metric.name: rows for metric, rows in families(view)}
    rows = page.get("jobwatt_job_gpu_energy_joules_total", {})
    per_job = [labels[0] for labels in rows]
    assert len(rows) <= series
    assert all(per_job.count(jobid) == gpus for jobid in per_job)
    assert "jobwatt_hidden_series" not in page
    running = {str(n) for n, (_, ended) in enumerate(found) if not ended}
    assert set(per_job) <= running or running <= set(per_job)
