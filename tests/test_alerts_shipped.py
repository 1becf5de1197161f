"""The shipped rules and Alertmanager's shipped configuration, as a replay takes them."""

from __future__ import annotations

import pytest
import yaml

from jobwatt.alerts import files, inline, site
from jobwatt.alerts import rules as site_rules
from jobwatt.alerts.simulate import Timing
from jobwatt.metrics import CATALOGUE, Type
from replaykit import promtool, same

VALUES = {
    "component": ("cpu", "gpu"),
    "reason": ("hw_thermal",),
    "source": ("nvml",),
    "step": ("gap",),
    "kind": ("uncorrected",),
    "cause": ("uncorrected",),
    "state": ("FAILED",),
    "exit_code": ("1:0",),
}
PER_MINUTE = {
    "idle_seconds": 60,
    "allocated_seconds": 60,
    "utilization_seconds": 30,
    "cpu_seconds": 90,
    "joules": 6000,
}
GAUGES = {
    "limit_time_seconds": 20_000,
    "cpus": 64,
    "memory_limit_bytes": 2**38,
    "memory_total_bytes": 2**39,
    "bytes": 2**34,
}


def cluster():
    """Every metric of the catalogue over 200 minutes: a node with three jobs, of which one has failed."""
    yield 'up{cluster="c1",instance="n1",job="jobwatt"}|1x200'
    for metric in CATALOGUE.values():
        for job in (1, 2, 3) if "jobid" in metric.labels else (0,):
            if (
                metric.name in {"jobwatt_job_end_time_seconds", "jobwatt_job_exit_info"}
                and job != 3
            ):
                continue
            known = {
                "cluster": "c1",
                "instance": "n1",
                "jobid": job,
                "user": f"u{job}",
                "account": "a",
                "partition": "p",
            }
            known |= {"gpu": job, "uuid": f"GPU-{job}", "mig_profile": ""}
            labels = {name: known.get(name, VALUES.get(name, ("x",))[0]) for name in metric.labels}
            pairs = ",".join(
                f'{name}="{text}"'
                for name, text in {"cluster": "c1", "instance": "n1", **labels}.items()
            )
            yield f"{metric.name}{{{pairs}}}|{behaviour(metric, job)}"


def behaviour(metric, job):
    name = metric.name
    if name == "jobwatt_snapshot_timestamp_seconds":
        return "0+60x200"
    if name.endswith(("start_time_seconds", "end_time_seconds")):
        return "0x200" if "start" in name else "100x200"
    if "_idle_" in name and job == 2:
        return "0x200"
    if metric.type is Type.COUNTER:
        return f"0+{next((rate for part, rate in PER_MINUTE.items() if part in name), 0)}x200"
    return f"{next((value for part, value in GAUGES.items() if name.endswith(part)), 1)}x200"


@pytest.fixture(scope="module")
def shipped():
    return site_rules.texts(site.read(files.root() / "site.toml"))


@pytest.mark.prometheus
@pytest.mark.slow
def test_the_shipped_series_are_what_they_stand_for(tmp_path, shipped):
    """Each recorded series of the shipped files equals its expansion; most of them have something to say."""
    found = inline.read(shipped)
    order = [
        "jobwatt-site",
        "jobwatt-jobs",
        "jobwatt-aggregates",
        "jobwatt-usage",
        "jobwatt-weeks",
    ]
    series = "\n".join(cluster())
    assert not same(shipped, found.records, tmp_path, series, order=order)
    test = yaml.safe_load((tmp_path / "test.yaml").read_text())
    for check, name in zip(test["tests"][0]["promql_expr_test"], found.records, strict=True):
        check["expr"] = name
    empty = len(found.records) - promtool(test, tmp_path).count("got:")
    print(f"{empty} of {len(found.records)} recorded series are empty here")
    assert empty < len(found.records) / 4


def test_shipped_user_alerts_need_raw_metrics_of_the_catalogue_only(shipped):
    """What a replay asks for, every exporter exports."""
    found = inline.read(shipped)
    exprs = [alert.expr for alert in found.user_alerts()]
    assert len(exprs) >= 10
    assert inline.metrics(found, exprs) <= set(CATALOGUE)
    assert not inline.metrics(found, exprs, "jobwatt:")


def test_the_replay_does_what_alertmanager_is_told(shipped):
    """Its timing and its order of precedence are those of alertmanager.yml."""
    config = yaml.safe_load(files.alertmanager()["alertmanager.yml"])
    route = next(one for one in config["route"]["routes"] if one["receiver"] == "users")
    timing = Timing()
    assert inline.seconds(route["group_wait"]) == timing.group_wait_s
    assert inline.seconds(route["group_interval"]) == timing.group_interval_s
    assert inline.seconds(route["repeat_interval"]) == timing.repeat_interval_s
    assert tuple(route["group_by"]) == timing.group_by
    order = [alert.name for alert in inline.read(shipped).user_alerts()]
    told = {}
    for rule in config["inhibit_rules"]:
        source = rule["source_matchers"][0].split('"')[1]
        if source in order:
            assert tuple(rule["equal"]) == timing.inhibit_equal
            told[source] = set(rule["target_matchers"][0].split('"')[1].split("|"))
    of_jobs = [name for name in order if name != "JobwattShortFailingJobs"]
    assert told == {name: set(of_jobs[at + 1 :]) for at, name in enumerate(of_jobs[:-1])}
