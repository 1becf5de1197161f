"""The page as bytes: the same as prometheus_client's, whatever labels hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_parse
from prometheus_client.parser import text_string_to_metric_families as parse

from jobwatt.encoder import Encoder, JobwattCollector
from jobwatt.exposition import View, families
from jobwatt.idle import Idle
from jobwatt.interval import GpuUse
from jobwatt.metrics import CATALOGUE, Metric, Type
from jobwatt.model import Domain, Job, JobMeta, JobUsage, Snapshot
from jobwatt.totals import JobTotals, Totals

disable_created_metrics()
COUNTER = Metric("x_joules_total", Type.COUNTER, "Energy.", ("a", "b"))
GAUGE = Metric("y_watts", Type.GAUGE, "Power.", ("a",))
rows = st.dictionaries(st.tuples(st.text(), st.text()), st.integers(0, 2**40).map(str), max_size=8)


def samples(found):
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in found
        for s in family.samples
    }


@given(rows)
def test_labels_come_back_as_they_went(counters):
    """Any text in a label survives a Prometheus parser, in both formats."""
    page = [(COUNTER, counters)]
    expected = {
        ("x_joules_total", (("a", a), ("b", b))): float(v) for (a, b), v in counters.items()
    }
    assert samples(parse(Encoder().encode(page, openmetrics=False).decode())) == expected
    assert samples(openmetrics_parse(Encoder().encode(page, openmetrics=True).decode())) == expected


@given(rows)
def test_openmetrics_is_prometheus_clients(counters):
    """Our encoder says what prometheus_client's says, sample by sample."""
    page = [(COUNTER, counters), (GAUGE, {("v",): "1.5"})]
    registry = CollectorRegistry()
    registry.register(JobwattCollector(lambda: page))
    theirs = openmetrics_parse(openmetrics_text(registry).decode())
    ours = openmetrics_parse(Encoder().encode(page, openmetrics=True).decode())
    assert [(f.name, f.type, f.documentation) for f in ours] == [
        ("x_joules", "counter", "Energy."), ("y_watts", "gauge", "Power.")]  # fmt: skip
    ours = openmetrics_parse(Encoder().encode(page, openmetrics=True).decode())
    assert samples(ours) == samples(theirs)


def view(*jobs, **more):
    totals = Totals(jobs={job.job.usage.key: job for job in jobs}, **more)
    return View(totals, Snapshot("b", 1000.5, 50), Idle(), node="n", version="1")


def job(key, jobid, uj, *, ended=0, user="alice", gpus=None):
    meta = JobMeta(
        jobid,
        user,
        1,
        "ltci",
        "p",
        start_s=900,
        gpus=dict.fromkeys(gpus or {}, 1),
        resolved_by="hook",
    )
    return JobTotals(
        Job(JobUsage(key), meta),
        1,
        {Domain.CPU: uj},
        gpus=gpus or {},
        ended_ns=ended,
        ended_s=ended,
    )


def value(page, name, **labels):
    for metric, found in page:
        for values, text in found.items():
            if (
                metric.name == name
                and labels.items() <= dict(zip(metric.labels, values, strict=True)).items()
            ):
                return text
    return None


def test_one_series_per_job_id():
    """Parts of a job under two slurmd are one series; it ends when the last part does."""
    page = families(view(job("n1/7", "7", 1_500_000, ended=5), job("n2/7", "7", 2)))
    assert value(page, "jobwatt_job_energy_joules_total", jobid="7") == "1.500002"
    assert value(page, "jobwatt_job_end_time_seconds", jobid="7") is None
    assert value(page, "jobwatt_jobs") == "1"


def test_a_job_nobody_has_named_is_shown_by_its_key():
    """Energy of a job that is not resolved yet is on the page, under the key of its cgroup."""
    page = families(view(job("s0123456789ABC", "", 3, user="")))
    assert (
        value(page, "jobwatt_job_energy_joules_total", jobid="s0123456789ABC", user="")
        == "0.000003"
    )


def test_absent_is_absent():
    """What nobody measured has no series: no GPU rows, no limit, no wall."""
    names = {metric.name for metric, _ in families(view(job("n/7", "7", 3)))}
    assert not {
        name
        for name in names
        if "gpu" in name or "wall" in name or "limit" in name or "dram" in name
    }


def test_a_finished_job_keeps_counters_and_loses_gauges():
    """After the end: final totals and the end time, no power, no memory."""
    gpus = {"GPU-1": GpuUse(5, 6, 7, 8, 9, 10)}
    page = families(view(job("n/7", "7", 3, ended=950, gpus=gpus)))
    assert value(page, "jobwatt_job_gpu_idle_energy_joules_total", uuid="GPU-1") == "0.000008"
    assert value(page, "jobwatt_job_gpu_allocated_seconds_total", uuid="GPU-1") == "0.000000006"
    assert value(page, "jobwatt_job_gpu_utilization_seconds_total", uuid="GPU-1") == "0.000000010"
    assert value(page, "jobwatt_job_end_time_seconds") == "950"
    assert value(page, "jobwatt_job_power_watts") is None


def test_how_a_job_ended_is_told_once_it_has_ended():
    """A requeued job that runs again has not ended, whatever is remembered of it."""
    ended = job("n/7", "7", 3, ended=950)
    meta = replace(ended.job.meta, state="FAILED", exit_code="3:0")
    ended = replace(ended, job=replace(ended.job, meta=meta))
    page = families(view(ended))
    assert value(page, "jobwatt_job_exit_info", state="FAILED", exit_code="3:0") == "1"
    assert value(families(view(replace(ended, ended_ns=0))), "jobwatt_job_exit_info") is None


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_catalogue_follows_the_conventions(metric):
    """Names have base units, counters end in _total, help ends in a full stop, `job` is no label."""
    assert metric.name.startswith("jobwatt_")
    assert metric.name.endswith("_total") is (metric.type is Type.COUNTER)
    assert metric.help.endswith(".")
    assert not {"job", "instance", "le", "quantile"} & set(metric.labels)
