"""The Slurm that the other tests stand on: it starts, does as it is told, and leaves nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from slurm import cgroups, records, registry, scenario
from slurmcluster import (
    Cluster,
    ClusterError,
    cluster,  # noqa: F401  a fixture
    leftovers,
    missing,
    missing_uml,
    native_mode,
    run_in_uml,
)

TESTS = Path(__file__).parent


def skip_without(mode: str, *, acct: bool = True) -> None:
    if reason := missing(mode, acct=acct):
        pytest.skip(reason)


class TestRecords:
    JOB = (
        "JobId=7 ArrayJobId=5 JobName={name} UserId=al-ice.x(20001) GroupId=users(100) Account=infres"
        " JobState=RUNNING NodeList=gpu[01-02] JOB_GRES=gpu:3"
        "   Nodes=gpu01 CPU_IDs=0-1 Mem=600 GRES=gpu:v100:2(IDX:0,3)"
        "   Nodes=gpu[02,05-06] CPU_IDs=0 Mem=300 GRES=gpu:a100:1(IDX:5-7) MinCPUsNode=1"
    )

    @pytest.mark.parametrize("name", ["x", 'a "b" JobState=FAILED\nUserId=bob(1) GroupId=g c', ""])
    def test_fields(self, name: str) -> None:
        """A job's name is whole and changes no other field, whatever it holds."""
        found = records.fields(self.JOB.format(name=name))
        assert found["JobName"] == name
        assert (found["JobState"], found["Account"], found["JobId"]) == ("RUNNING", "infres", "7")

    def test_layout(self) -> None:
        """Each host of a list gets the indices of its group."""
        assert records.gpu_layout(self.JOB) == {
            "gpu01": (0, 3),
            "gpu02": (5, 6, 7),
            "gpu05": (5, 6, 7),
            "gpu06": (5, 6, 7),
        }

    def test_split(self) -> None:
        """A newline in a name does not end a job."""
        text = "\n".join(self.JOB.format(name=name) for name in ("a\nb", "c"))
        assert [records.fields(job)["JobName"] for job in records.split_jobs(text)] == ["a\nb", "c"]

    def test_rows(self) -> None:
        """A newline in sacct's field does not end a row."""
        assert records.rows("1|a\nb|\n2|c|\n", ["id", "name"], "|") == [
            {"id": "1", "name": "a\nb"},
            {"id": "2", "name": "c"},
        ]


def left_in_the_end(ended: Cluster) -> list[str]:
    """What is left, but for trees of cgroups in which another process's nodes of the same names have no job just now."""
    until = time.monotonic() + 60
    while (left := leftovers(ended)) and time.monotonic() < until:
        if any("job_" in one or not one.startswith(f"{cgroups.ROOT}/") for one in left):
            break
        time.sleep(0.1)
    return left


@pytest.mark.slurm
class TestLife:
    @pytest.mark.parametrize("mode", sorted({native_mode(), "linuxproc"}))
    def test_leaves_nothing(self, mode: str) -> None:
        """Down takes running jobs, processes, cgroups and files with it, time after time."""
        skip_without(mode, acct=False)
        for _ in range(3):
            started = Cluster(mode=mode, acct=False)
            with started:
                job = started.submit(
                    "alice", "-p", "A100", "--gres=gpu:2", script="srun sleep 99 & sleep 99"
                )
                started.wait(job, ["RUNNING"])
                assert started.gpus(job) == {"gpu02": (0, 1)}
            assert left_in_the_end(started) == []

    def test_two_at_once(self) -> None:
        """The end of one cluster does not touch the jobs of another with the same node names."""
        skip_without(native_mode(), acct=False)
        with Cluster(mode=native_mode(), acct=False) as one:
            kept = one.submit("alice", script="sleep 99")
            with Cluster(mode=native_mode(), acct=False) as two:
                gone = two.submit("alice", script="sleep 99")
                one.wait(kept, ["RUNNING"])
                two.wait(gone, ["RUNNING"])
            time.sleep(0.3)
            assert one.states(kept) == ["RUNNING"]
            assert one.run("scontrol", "listpids", str(kept), "gpu01").count(str(kept)) >= 2
        assert left_in_the_end(one) == left_in_the_end(two) == []

    def test_dead_owner(self, tmp_path: Path) -> None:
        """What a killed test left is removed when the next cluster starts."""
        skip_without(native_mode(), acct=False)
        script = (
            "import sys, time; sys.path.insert(0, sys.argv[1]); from slurmcluster import *\n"
            "c = Cluster(mode=native_mode(), acct=False); c.up(); j = c.submit('bob', script='sleep 99')\n"
            "c.wait(j, ['RUNNING']); print(c.run_dir, flush=True); time.sleep(99)"
        )
        argv = [sys.executable, "-c", script, str(TESTS)]
        owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        run_dir = Path(owner.stdout.readline().strip())
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
        assert run_dir.is_dir()
        with Cluster(mode=native_mode(), acct=False) as started:
            assert not run_dir.exists()
        assert left_in_the_end(started) == []

    def test_long_directory(self, tmp_path: Path) -> None:
        """A directory whose sockets would be too long is refused before anything starts."""
        with pytest.raises(ValueError, match="too long"):
            Cluster(tmp_path / ("x" * 100))

    def test_bad_start(self) -> None:
        """A cluster that cannot start says what its daemons said, and leaves nothing."""
        skip_without("linuxproc", acct=False)
        broken = Cluster(mode="linuxproc", acct=False, extra_conf="SelectType=select/nonsense")
        with pytest.raises(ClusterError, match="select/nonsense"):
            broken.up()
        assert left_in_the_end(broken) == []


@pytest.mark.slurm
class TestJobs:
    def test_panel(self, cluster: Cluster) -> None:  # noqa: F811
        """Every job ends as the panel says; sacct, scontrol and Prolog agree on owner and GPUs."""
        with cluster.recorder() as recorder:
            jobs = scenario.run(cluster)
            cluster.wait_empty()
            recorder.poll()
        facts = ("JobIDRaw", "User", "Account", "Partition", "AllocTRES")
        for batch in scenario.panel(cluster):
            job = jobs[batch.label]
            row = next(r for r in cluster.sacct(job, facts) if r["JobIDRaw"] == str(job))
            assert row["State"].split()[0] == batch.state, batch.label
            assert row["User"] == batch.user
            prologs = cluster.hook_env("prolog", job)
            assert {env["SLURM_JOB_ACCOUNT"] for env in prologs} == {row["Account"]}
            assert {env["SLURM_JOB_PARTITION"] for env in prologs} == {row["Partition"]}
            given = {
                env["SLURMD_NODENAME"]: records.numbers(env["SLURM_JOB_GPUS"])
                for env in prologs
                if "SLURM_JOB_GPUS" in env
            }
            allocated = dict(item.split("=") for item in row["AllocTRES"].split(","))
            assert sum(map(len, given.values())) == int(allocated.get("gres/gpu", 0)), batch.label
            seen = recorder.seen(job).gpus
            assert seen == given or not seen, batch.label
        assert "SUSPENDED" in recorder.seen(jobs["suspended"]).states
        assert recorder.seen(jobs["requeued"]).fields["Restarts"] == "1"
        assert recorder.seen(jobs["two_nodes"]).gpus.keys() == {"gpu01", "gpu02"}
        assert recorder.seen(jobs["odd_name"]).fields["JobName"] == scenario.ODD_NAME
        assert len(cluster.sacct(jobs["array"], at_least=4)) == 4
        assert len(cluster.sacct(jobs["hetero"], at_least=2)) == 2
        steps = cluster.sacct(jobs["two_steps"], steps=True, at_least=5)
        assert len(steps) == 5  # itself, batch, three steps

    def test_hooks(self, cluster: Cluster) -> None:  # noqa: F811
        """Commands run in order, as root, with Slurm's environment; their failures are recorded."""
        out = cluster.run_dir / "out" / "hooks"
        cluster.set_hooks(
            prolog=[f"id -u >> {out}", f'echo "p $SLURM_JOB_ID $SLURM_JOB_USER" >> {out}'],
            epilog=[f'echo "e $SLURM_JOB_EXIT_CODE2" >> {out}', "false || (exit 0)"],
        )
        job = cluster.submit("carol", "-p", "CPU", script="exit 5")
        assert cluster.wait(job) == "FAILED"
        cluster.set_hooks()
        assert out.read_text() == f"0\np {job} carol\ne 5:0\n"
        runs = [run for run in cluster.hook_runs() if run.jobid == job]
        assert [(r.kind, r.node, r.index, r.status) for r in runs] == [
            ("prolog", "cpu01", 0, 0),
            ("prolog", "cpu01", 1, 0),
            ("epilog", "cpu01", 0, 0),
            ("epilog", "cpu01", 1, 0),
        ]

    def test_controller_away(self, cluster: Cluster) -> None:  # noqa: F811
        """Jobs outlive the controller, which finds them again."""
        job = cluster.submit("alice", script="sleep 2")
        cluster.wait(job, ["RUNNING"])
        cluster.stop_slurmctld()
        with pytest.raises(ClusterError, match="DOWN"):
            cluster.run("scontrol", "ping")
        cluster.start_slurmctld()
        assert cluster.wait(job) == "COMPLETED"

    def test_burst(self, cluster: Cluster) -> None:  # noqa: F811
        """Jobs of a burst run one after another, for the time drawn, with little between them."""
        begin = time.monotonic()
        burns = scenario.burst(cluster, 10, longest=0.8)
        cluster.wait_empty()
        wall = time.monotonic() - begin
        assert all(
            row["State"] == "COMPLETED" for burn in burns for row in cluster.sacct(burn.jobid)
        )
        assert sum(burn.seconds for burn in burns) < wall < sum(burn.seconds for burn in burns) + 30


@pytest.mark.uml
class TestUml:
    @pytest.fixture(autouse=True)
    def _uml(self) -> None:
        if reason := missing_uml() or missing(acct=False):
            pytest.skip(reason)

    def payload(self, path: Path, text: str) -> Path:
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        return path

    def test_panel(self) -> None:
        """Jobs run on a pure cgroup v2, with this interpreter, and nothing is left."""
        smoke = TESTS / "slurm" / "uml" / "smoke.py"
        status, text = run_in_uml(Path(sys.executable), 300, args=(str(smoke),))
        assert status == 0, text
        report = json.loads(text.splitlines()[-1])
        assert report["left"] == []
        assert report["steps"] == ["step_0", "step_batch", "step_extern"]
        ends = {label: job["states"][-1] for label, job in report["jobs"].items()}
        expected = {b.label: b.state for b in (*scenario.PANEL, scenario.OOM)}
        assert len(ends) == 5
        assert ends == {label: expected[label] for label in ends}
        assert report["jobs"]["two_nodes"]["gpus"].keys() == {"gpu01", "gpu02"}

    def test_status(self, tmp_path: Path) -> None:
        """A payload's exit status and both its streams come back."""
        script = self.payload(
            tmp_path / "p", "echo out; echo err >&2; ls /sys/fs/cgroup/cgroup.controllers; exit 7"
        )
        assert run_in_uml(script, 180) == (7, "out\nerr\n/sys/fs/cgroup/cgroup.controllers\n")

    def test_late(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A payload that does not end is ended, and what it printed is kept."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what marks this test's own guests
        script = self.payload(tmp_path / "p", "echo begun; sleep 600")
        for limit_s in (8, 30, 120):  # a busy machine may not have begun after the first
            ended = run_in_uml(script, limit_s)
            if ended != (124, ""):
                break
        assert ended == (124, "begun\n")
        assert not guests(str(tmp_path))


def guests(mark: str) -> set[int]:
    """Processes of User Mode Linux, zombies left out: process 1 may take its time to reap them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if line.startswith(b"linux.uml") and mark.encode() in line:
                found.add(int(path.parent.name))
    return {pid for pid in found if registry.started(pid)}


def test_missing_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root the reason for a skip says so."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in missing()
    assert "root" in missing_uml()
