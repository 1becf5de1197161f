"""The daemon reads the records of Prolog and Epilog: which are believed, and which are swept."""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookkit import store
from jobwatt.model import JobUsage
from jobwatt.slurm import hookdir
from jobwatt.slurm.hookdir import HookDir
from jobwatt.slurm.hookrecord import parse
from jobwatt.slurm.resolve import Resolver
from jobwatt.slurm.text import is_jobid


def test_poll_tells_each_record_once(tmp_path: Path) -> None:
    """New and changed records come once each, oldest first; an unchanged one is silent."""
    directory = HookDir(tmp_path)
    assert directory.poll() == []
    store(tmp_path, "epilog", t_ns=9)
    store(tmp_path, "prolog", t_ns=5)
    assert [record.event for record in directory.poll()] == ["prolog", "epilog"]
    assert directory.poll() == []
    store(tmp_path, "prolog", t_ns=20)
    [again] = directory.poll()
    assert again.t_ns == 20


def test_a_quiet_directory_is_not_listed_again(tmp_path: Path) -> None:
    """Once its time stamp has settled, a poll is one stat: a file changed in place is not seen."""
    directory = HookDir(tmp_path)
    store(tmp_path)
    time.sleep(0.06)
    assert len(directory.poll()) == 1
    path = tmp_path / "hooks/2.gpu02.prolog.json"
    os.utime(path, ns=(1, 1))  # would be a change, were the directory listed
    assert directory.poll() == []
    store(tmp_path, SLURM_JOB_ID="3")
    assert {record.jobid for record in directory.poll()} == {"2", "3"}


def test_only_plain_records_are_believed(tmp_path: Path) -> None:
    """Links, FIFOs, files others may write, damage and a record under another's name are ignored."""
    hooks = tmp_path / "hooks"
    store(tmp_path)
    good = (hooks / "2.gpu02.prolog.json").read_text()
    (tmp_path / "outside").write_text(good.replace('"2"', '"3"'))
    (hooks / "3.gpu02.prolog.json").symlink_to(tmp_path / "outside")
    os.mkfifo(hooks / "4.gpu02.prolog.json")
    (hooks / "5.gpu02.prolog.json").write_text(good.replace('"2"', '"5"'))
    (hooks / "5.gpu02.prolog.json").chmod(0o666)
    (hooks / "6.gpu02.prolog.json").write_text(good[:40])
    (hooks / "7.gpu02.prolog.json").write_text(good)
    (hooks / "8.gpu02.prolog.json").write_text("[]")
    assert [record.jobid for record in HookDir(tmp_path).poll()] == ["2"]


def test_a_directory_others_may_write_to(tmp_path: Path) -> None:
    """Group-writable: nothing is believed, the failure says how to mend it, and mending works."""
    store(tmp_path)
    (tmp_path / "hooks").chmod(0o770)
    directory = HookDir(tmp_path)
    assert directory.poll() == []
    assert directory.failure is not None
    assert "chmod 0750" in directory.failure.message
    (tmp_path / "hooks").chmod(0o750)
    store(tmp_path, SLURM_JOB_ID="3")
    assert len(directory.poll()) == 2
    assert directory.failure is None


def test_other_boots_and_forgotten_jobs_are_swept(tmp_path: Path) -> None:
    """A record of another boot is removed unread, by the daemon only; `forget` removes a job's two as they were told."""
    store(tmp_path)
    path = tmp_path / "hooks/2.gpu02.prolog.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "boot_id": "another"}))
    assert HookDir(tmp_path).poll() == []
    assert path.exists()  # who merely looks removes nothing
    directory = HookDir(tmp_path, forget=True)
    assert directory.poll() == []
    assert not path.exists()
    store(tmp_path, "prolog")
    store(tmp_path, "epilog")
    assert len(directory.poll()) == 2
    store(tmp_path, "prolog", t_ns=30)
    directory.forget("2", "gpu02")
    assert [path.name for path in (tmp_path / "hooks").iterdir()] == ["2.gpu02.prolog.json"]
    assert len(directory.poll()) == 1
    directory.forget("2", "gpu02")
    assert not list((tmp_path / "hooks").iterdir())


def test_a_jobs_two_records_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the directory lists them, no poll tells a job's beginning without the end that is there, too."""
    monkeypatch.setattr(hookdir, "MAX_NEW", 7)
    for jobid in range(1, 31):
        for event in ("prolog", "epilog"):
            store(tmp_path, event, SLURM_JOB_ID=str(jobid), SLURMD_NODENAME="n.1")
    listdir = os.listdir  # this one lists all prologs first
    monkeypatch.setattr(hookdir.os, "listdir", lambda of: sorted(listdir(of), key=lambda name: "epilog" in name))  # fmt: skip
    directory, polls = HookDir(tmp_path), []
    while told := directory.poll():
        polls.append(len(told))
        assert {r.jobid for r in told if r.event == "prolog"} == {r.jobid for r in told if r.event == "epilog"}  # fmt: skip
    assert polls == [8] * 7 + [4]


def test_what_is_not_believed_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More doubtful files and links than a poll takes: the good ones are read, and then the directory is at rest."""
    monkeypatch.setattr(hookdir, "MAX_NEW", 10)
    for jobid in range(1, 61):
        store(tmp_path, SLURM_JOB_ID=str(jobid))
        path = tmp_path / f"hooks/{jobid}.gpu02.prolog.json"
        if jobid % 3 == 1:
            path.chmod(0o660)
        if jobid % 3 == 2:
            path.unlink()
            path.symlink_to("/dev/null")
    time.sleep(0.06)
    directory = HookDir(tmp_path)
    assert len([record for _ in range(6) for record in directory.poll()]) == 20
    opened: list[object] = []
    monkeypatch.setattr(hookdir.os, "open", lambda *args, **_: opened.append(args))
    assert directory.poll() == []
    assert opened == []


@given(st.text("0123456789x", max_size=12) | st.text(max_size=3))
def test_the_writer_takes_what_the_reader_takes(jobid: str) -> None:
    """A record that the reader would refuse is not written: nobody would ever take it away."""
    with tempfile.TemporaryDirectory() as state:
        try:
            store(Path(state), SLURM_JOB_ID=jobid)
        except ValueError:
            assert not is_jobid(jobid)
        else:
            assert [record.jobid for record in HookDir(Path(state)).poll()] == [jobid]


@pytest.mark.parametrize("damage", [{"t_ns": "x"}, {"node": None}, {"event": 3}])
def test_damaged_fields(damage: dict[str, object]) -> None:
    """A field of the wrong kind is a damaged record, not a crash."""
    good = {"event": "prolog", "node": "n", "SLURM_JOB_ID": "1", "t_ns": 1, "wall_s": 1.0}
    with pytest.raises((ValueError, KeyError)):
        parse({**good, **damage})


def test_the_boot_is_the_kernels_own(tmp_path: Path) -> None:
    """Where the daemon reads another procfs (a container's, a test's) nothing changes."""
    other = tmp_path / "proc/sys/kernel/random"
    other.mkdir(parents=True)
    (other / "boot_id").write_text("11111111-2222\n")
    store(tmp_path)
    resolver = Resolver(procfs=tmp_path / "proc", state=tmp_path, forget=True)
    meta = resolver.update([JobUsage("/2", jobid=2, uid=20001)], lambda _: [], [], 10**9)["/2"]
    assert meta.resolved_by == "hook"
    assert (tmp_path / "hooks/2.gpu02.prolog.json").exists()


@pytest.mark.parametrize("hidden", ["daemon", "hook"])
def test_where_no_boot_is_known_time_tells(tmp_path: Path, hidden: str) -> None:
    """An unreadable boot_id drops no record; only one of the future is another boot's."""
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for jobid, t_ns in (("2", 7), ("3", now_ns + 10**12)):
        store(tmp_path, t_ns=t_ns, SLURM_JOB_ID=jobid)
        path = tmp_path / f"hooks/{jobid}.gpu02.prolog.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "boot_id": "" if hidden == "hook" else "x"}))
    options = {"boot_file": tmp_path / "none"} if hidden == "daemon" else {}
    assert [record.jobid for record in HookDir(tmp_path, **options).poll()] == ["2"]


def test_a_listing_that_failed_is_made_again(tmp_path: Path) -> None:
    """Not believed, then believed without any other change: the records are read all the same."""
    store(tmp_path)
    (tmp_path / "hooks").chmod(0o770)
    time.sleep(0.06)
    directory = HookDir(tmp_path)
    assert directory.poll() == []
    (tmp_path / "hooks").chmod(0o750)
    assert len(directory.poll()) == 1


def test_out_of_descriptors_for_a_moment(tmp_path: Path) -> None:
    """A record that could not be opened is tried again, though the directory has not changed."""
    store(tmp_path)
    time.sleep(0.06)
    directory = HookDir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.open("/dev/null", os.O_RDONLY)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + 2, hard))  # for the directory alone
        assert directory.poll() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(first)
    assert len(directory.poll()) == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"SLURM_JOB_ID": "1" * 11}, {"SLURM_JOB_ID": "x"}, {"t_ns": -1}, {"t_ns": 1 << 70},
        {"wall_s": float("inf")}, {"wall_s": float("nan")},
    ],
)  # fmt: skip
def test_values_out_of_range(damage: dict[str, object]) -> None:
    """An id no job has and a time no clock shows are damage."""
    good = {"event": "prolog", "node": "n", "SLURM_JOB_ID": "1", "t_ns": 1, "wall_s": 1.0}
    parse(good)
    with pytest.raises(ValueError, match="out of range"):
        parse({**good, **damage})


def test_a_record_of_brackets(tmp_path: Path) -> None:
    """JSON nested beyond Python's stack is one damaged record."""
    store(tmp_path)
    (tmp_path / "hooks/3.gpu02.prolog.json").write_text("[" * 60_000)
    (tmp_path / "hooks/3.gpu02.prolog.json").chmod(0o640)
    assert [record.jobid for record in HookDir(tmp_path).poll()] == ["2"]
