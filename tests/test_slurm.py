"""
The main job, on a real Slurm: who ran what on which GPUs, and what it used.

What the page says of each job is held against sacct, and against what scontrol said while it ran.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

import shortjobs
from daemon import wait
from realnode import WATTS, RealNode
from slurm import scenario
from slurm.records import numbers
from slurmcluster import Cluster, missing_uml, native_mode, run_in_uml

pytestmark = pytest.mark.slurm


def info(page, jobid):
    """The labels of jobwatt_job_info for one job; exactly one series."""
    found = page.find("jobwatt_job_info", jobid=str(jobid))
    assert len(found) == 1, (jobid, found)
    return dict(next(iter(found)))


def raw_ids(cluster, jobid, count=1):
    rows = cluster.sacct(
        jobid,
        ["JobIDRaw", "User", "Account", "Partition", "State", "ExitCode", "Start", "End"],
        at_least=count,
    )
    return {int(row["JobIDRaw"]): row for row in rows}


def unix(text):
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def held(cluster, recorder, jobid):
    """GPU indexes that Slurm gave the job, on all nodes: scontrol's while it ran, else its prologs'."""
    layout = recorder.seen(jobid).gpus
    if layout:
        return {index for indexes in layout.values() for index in indexes}
    told = [env.get("SLURM_JOB_GPUS", "") for env in cluster.hook_env("prolog", jobid)]
    return {int(index) for text in told for index in numbers(text)}


def expected_rows(cluster, jobs):
    """sacct's rows of every finished job of the panel, by raw job id."""
    parts = {"array": 4, "hetero": 2}
    rows = {}
    for label, jobid in jobs.items():
        rows |= raw_ids(cluster, jobid, parts.get(label, 1))
    return rows


def check_identity(page, rows):
    """User, account, partition and end are sacct's, for every job."""
    for jobid, row in rows.items():
        labels = info(page, jobid)
        assert (labels["user"], labels["account"], labels["partition"]) == (
            row["User"], row["Account"], row["Partition"]), row  # fmt: skip
        end = page.value("jobwatt_job_end_time_seconds", jobid=str(jobid))
        assert abs(end - unix(row["End"])) <= 3, (row, end)


def ending(page, jobid):
    """State and exit code as the page tells them; None before it does."""
    found = [dict(pairs) for pairs in page.find("jobwatt_job_exit_info", jobid=str(jobid))]
    assert len(found) <= 1, found
    return (found[0]["state"], found[0]["exit_code"]) if found else None


def unended(page, rows):
    """Jobs that sacct says have ended, and the page not yet, or not when."""
    ends = {
        dict(pairs)["jobid"]: float(text)
        for pairs, text in page.find("jobwatt_job_end_time_seconds").items()
    }
    return {
        jobid: (row["End"], ends.get(str(jobid)))
        for jobid, row in rows.items()
        if abs(ends.get(str(jobid), 0) - unix(row["End"])) > 3
    }


def gpus_on_page(page, jobid):
    return page.labels("jobwatt_job_gpu_allocated_seconds_total", "uuid", jobid=str(jobid))


def finish(node):
    """Power off and wait: the last page, which is exact."""
    truth = node.power_off()
    page = node.daemon.samples(3)
    for zone in ("intel-rapl:0", "intel-rapl:0:1"):
        assert page.micro("jobwatt_rapl_energy_joules_total", path=zone) == truth[zone]
    for gpu in node.script.gpus.values():
        assert page.micro("jobwatt_gpu_energy_joules_total", uuid=gpu.uuid) == truth[gpu.uuid]
    measured = (
        truth["intel-rapl:0"]
        + truth["intel-rapl:0:1"]
        + sum(truth[g.uuid] for g in node.script.gpus.values())
    )
    assert page.micro("jobwatt_node_energy_joules_total") == measured
    return page


@pytest.mark.parametrize("mode", ["cgv1", "linuxproc"])
def test_panel_with_hooks(mode, tmp_path):
    """Every kind of job is its user's, its account's and on its GPUs, and every joule is there."""
    if native_mode() != "cgv1" and mode == "cgv1":
        pytest.skip("this kernel has no cgroup v1; the panel runs on v2 under User Mode Linux")
    with (
        Cluster(mode=mode) as cluster,
        RealNode(tmp_path, cluster, prometheus=mode == "cgv1") as node,
    ):
        node.hooks()
        with cluster.recorder() as recorder:
            jobs = scenario.run(cluster)
            cluster.wait_empty()
        rows = expected_rows(cluster, jobs)
        node.daemon.until(
            lambda page: not unended(page, rows), why=lambda page: unended(page, rows)
        )
        page = finish(node)
        check_identity(page, rows)
        for jobid, row in rows.items():
            assert gpus_on_page(page, jobid) == node.uuids(held(cluster, recorder, jobid)), row
            assert info(page, jobid)["resolved_by"] == "hook"
        for label in {"failed", "crashed", "oom"} & jobs.keys():
            assert ending(page, jobs[label])[1] == rows[jobs[label]]["ExitCode"], label
        assert info(page, jobs["array"])["array_job_id"] in {str(jobs["array"]), ""}
        assert page.value("jobwatt_controller_calls_total") <= 2 * len(rows) + 8
        assert all(run.status == 0 for run in cluster.hook_runs())
        if mode == "cgv1":
            check_prometheus(node, rows)


def check_prometheus(node, rows):
    """What Prometheus has scraped of each job is what it used, to the end, and nothing went back."""
    page = node.daemon.scrape()
    shown = {(dict(pairs)["jobid"], dict(pairs)["component"]): round(float(text) * 1e6)
             for pairs, text in page.find("jobwatt_job_energy_joules_total").items()}  # fmt: skip

    def scraped():
        return {
            (dict(labels)["jobid"], dict(labels)["component"]): round(value * 1e6)
            for labels, value in node.prometheus.query("jobwatt_job_energy_joules_total").items()
        }

    wait(lambda: all(shown[key] == value for key, value in scraped().items()), why="a last scrape")
    stored = scraped()
    assert {str(jobid) for jobid in rows} <= {jobid for jobid, _ in stored}
    for name in {series.partition("{")[0] for series in page.counters()}:
        assert set(node.prometheus.query(f"resets({name}[10m])").values()) <= {0.0}, name


def unnamed(page, rows):
    """Jobs of which the page does not say yet what sacct says."""
    shown = {dict(pairs)["jobid"]: dict(pairs) for pairs in page.find("jobwatt_job_info")}
    return {jobid: (row, shown.get(str(jobid))) for jobid, row in rows.items()
            if shown.get(str(jobid), {}).get("account") != row["Account"]}  # fmt: skip


def test_panel_without_hooks(tmp_path):
    """Without hooks the environment and slurmctld tell; who a job is comes even after its end."""
    if native_mode() != "cgv1":
        pytest.skip("this kernel has no cgroup v1")
    with Cluster() as cluster, RealNode(tmp_path, cluster) as node:
        with cluster.recorder() as recorder:
            jobs = scenario.run(cluster)
            cluster.wait_empty()
        rows = expected_rows(cluster, jobs)
        # its second part runs nothing: without hooks nobody can see it
        del rows[jobs["hetero"] + 1]
        for label in ("failed", "crashed"):  # gone at once: maybe before a new directory is watched
            del rows[jobs[label]]
        node.daemon.until(
            lambda page: not unnamed(page, rows), why=lambda page: unnamed(page, rows)
        )
        states = {jobid: row["State"].split()[0] for jobid, row in rows.items()}
        node.daemon.until(
            lambda page: {jobid: (ending(page, jobid) or ("",))[0] for jobid in rows} == states,
            why=lambda page: {jobid: (ending(page, jobid), states[jobid]) for jobid in rows},
        )
        page = finish(node)
        check_identity(page, rows)
        for jobid, row in rows.items():
            if unix(row["End"]) - unix(row["Start"]) >= 2:  # a second on the clock may be a tenth
                assert gpus_on_page(page, jobid) == node.uuids(held(cluster, recorder, jobid)), row


def test_a_lying_environment_is_overruled(tmp_path):
    """A job that changes its own environment deceives nobody for long; about its user, never."""
    lie = "export SLURM_JOB_GPUS=7 SLURM_STEP_GPUS=7 SLURM_JOB_ACCOUNT=ltci SLURM_JOB_USER=root SLURM_JOB_UID=0; exec sleep 6"
    with Cluster(mode=native_mode(), acct=False) as cluster, RealNode(tmp_path, cluster) as node:
        jobid = cluster.submit("bob", "-A", "lisn", "-p", "A100", "--gres=gpu:1", script=lie)
        cluster.wait(jobid, ["RUNNING"])
        index = {i for indexes in cluster.gpus(jobid).values() for i in indexes}
        page = node.daemon.until(
            lambda page: page.find("jobwatt_job_info", jobid=str(jobid), account="lisn")
        )
        assert gpus_on_page(page, jobid) >= node.uuids(index)
        assert {
            dict(pairs)["user"] for pairs in page.find("jobwatt_job_info", jobid=str(jobid))
        } == {"bob"}
        page = node.daemon.samples(2)
        assert set(
            page.labels("jobwatt_job_gpu_utilization_ratio", "uuid", jobid=str(jobid))
        ) == node.uuids(index)
        brief = cluster.submit(
            "bob", "-A", "lisn", "-p", "A100", "--gres=gpu:1", script=lie.replace("6", "0.4")
        )
        cluster.wait(brief, ["COMPLETED"])  # gone before slurmctld is asked: asked nevertheless
        node.daemon.until(
            lambda page: (
                [
                    labels["account"]
                    for labels in map(dict, page.find("jobwatt_job_info", jobid=str(brief)))
                ]
                == ["lisn"]
            ),
            20,
        )


def test_slurmctld_down(tmp_path):
    """With slurmctld gone the environment names jobs; measuring never waits; once it is back, it is asked."""
    with Cluster(mode=native_mode(), acct=False, message_timeout=10) as cluster:
        jobid = cluster.submit(
            "alice", "-A", "ltci", "-p", "A100", "--gres=gpu:1", "-J", "phoenix", script="sleep 60"
        )
        cluster.wait(jobid, ["RUNNING"])
        index = {i for indexes in cluster.gpus(jobid).values() for i in indexes}
        cluster.stop_slurmctld()
        with RealNode(tmp_path, cluster) as node:
            node.daemon.until(
                lambda page: page.find("jobwatt_job_info", jobid=str(jobid), resolved_by="environ")
            )
            page = node.daemon.samples(2)
            assert gpus_on_page(page, jobid) == node.uuids(index)
            began = page.value("jobwatt_samples_total", cause="tick")
            time.sleep(7)
            page = node.daemon.scrape()
            # of 14 at 500 ms; whoever waited for slurmctld would have none for ten seconds
            assert page.value("jobwatt_samples_total", cause="tick") - began >= 7
            assert len(node.daemon.said("slurmctld not asked")) <= 2
            cluster.start_slurmctld()
            node.daemon.until(
                lambda page: page.find("jobwatt_job_info", jobid=str(jobid), resolved_by="scontrol")
            )
        cluster.cancel(jobid)


@pytest.mark.slow
def test_timeout(tmp_path):
    """A job killed at its time limit (Slurm looks every 30 s) ends on the page as it ends in sacct."""
    with Cluster(mode=native_mode()) as cluster, RealNode(tmp_path, cluster) as node:
        node.hooks()
        jobid = scenario.submit(cluster, scenario.TIMEOUT)
        cluster.wait(jobid, ["RUNNING"])
        page = node.daemon.until(
            lambda page: page.find("jobwatt_job_limit_time_seconds", jobid=str(jobid))
        )
        start = page.value("jobwatt_job_start_time_seconds", jobid=str(jobid))
        assert page.value("jobwatt_job_limit_time_seconds", jobid=str(jobid)) - start == 60
        cluster.wait(jobid, ["TIMEOUT"], timeout=150)
        cluster.wait_empty()
        rows = raw_ids(cluster, jobid)
        time.sleep(1)
        check_identity(node.daemon.samples(2), rows)


@pytest.mark.slow
def test_short_jobs(tmp_path):
    """Jobs of 0.2 to 2 s in a row get at least 98 % of their dynamic energy (`make short-jobs`: 200 of them)."""
    if native_mode() != "cgv1":
        pytest.skip("the simulator reads cgroup v1")
    result = shortjobs.measure(tmp_path, 20, hooks=True, longest=2.0)
    assert result.jobs == 20
    assert result.unresolved == 0
    assert result.booked >= 0.98, result


@pytest.mark.uml
@pytest.mark.slow
@pytest.mark.parametrize("hooks", ["hooks", "none"])
def test_panel_on_cgroup_v2(hooks):
    """On a pure cgroup v2 (User Mode Linux), with step_extern's root `sleep` in every job."""
    if reason := missing_uml():
        pytest.skip(reason)
    payload = Path(__file__).parent / "slurm" / "uml" / "exporter.py"
    status, text = run_in_uml(Path(sys.executable), 400, args=(str(payload), hooks))
    assert status == 0, text[-4000:]
    told = json.loads(text.splitlines()[-1])
    sums = {
        name: uj for name, uj in told["truth"].items() if name.startswith("GPU-") or name in WATTS
    }
    assert told["node_uj"] == sum(sums.values())
    for label, job in told["jobs"].items():
        assert len(job["info"]) == 1, (label, job)
        info, slurm = job["info"][0], job["slurm"]
        user = slurm["UserId"].partition("(")[0]
        account = slurm["Account"].replace(
            "(null)", ""
        )  # no accounting in there, no default account
        assert (info["user"], info["account"], info["partition"]) == (
            user,
            account,
            slurm["Partition"],
        ), label
        assert job["ended"], label
        assert job["gpus"] == job["held"], (label, job)
    # two threads for a second and a half, on a machine of one slow CPU that others use too
    assert told["jobs"]["no_gpu"]["cpu_s"] > 0.3
