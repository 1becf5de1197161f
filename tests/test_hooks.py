"""Prolog and Epilog records: always exit 0, always in time, and only believed where they may be."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.model import JobUsage
from jobwatt.slurm import hookdir
from jobwatt.slurm.hookdir import HookDir
from jobwatt.slurm.hookrecord import parse
from jobwatt.slurm.hooks import LIMIT_S, write
from jobwatt.slurm.resolve import Resolver
from jobwatt.slurm.text import is_jobid

EXPORTER = Path(__file__).parents[1] / "exporter"
PROC = Path("/proc")
ENV = {  # of a real Prolog (Slurm 22.05.8), second node of a two-node job
    "SLURM_JOB_ID": "2",
    "SLURM_JOB_USER": "alice",
    "SLURM_JOB_UID": "20001",
    "SLURM_JOB_ACCOUNT": "infres",
    "SLURM_JOB_PARTITION": "all",
    "SLURM_JOB_GPUS": "2,5",
    "CUDA_VISIBLE_DEVICES": "2,5",
    "SLURM_JOB_CPUS_PER_NODE": "4,2(x2)",
    "SLURM_NODELIST": "gpu[01-02,05]",
    "SLURMD_NODENAME": "gpu02",
    "SLURM_JOB_RESTART_COUNT": "0",
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


def hook(state: Path, *argv: str, env: dict[str, str] | None = None) -> tuple[str, float]:
    """Run the hook as slurmd does, in a process of its own: (stderr, seconds). Exit is 0, always."""
    code = "import os, sys; from jobwatt.slurm.hooks import run_hook; os._exit(run_hook(sys.argv[1:], os.environ))"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *(argv or ("prolog",)), f"--path.state={state}"],
        env={"PYTHONPATH": str(EXPORTER), **(ENV if env is None else env)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr, time.monotonic() - began


def store(state: Path, event: str = "prolog", t_ns: int = 7, **env: str) -> None:
    write(state, event, {**ENV, **env}, t_ns=t_ns, wall_s=time.time())


def test_a_record_says_what_slurm_said(tmp_path: Path) -> None:
    """State directory missing: it is made, and the record holds this node's share of the job."""
    said, _ = hook(tmp_path / "state")
    [record] = HookDir(tmp_path / "state").poll()
    assert said == ""
    assert (record.event, record.jobid, record.node) == ("prolog", "2", "gpu02")
    assert (record.user, record.uid, record.account) == ("alice", 20001, "infres")
    assert (record.partition, record.gpus, record.cpus) == ("all", "2,5", 2)
    assert 0 < record.t_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    hooks = tmp_path / "state/hooks"
    assert stat.S_IMODE(hooks.stat().st_mode) == 0o750
    assert stat.S_IMODE((hooks / "2.gpu02.prolog.json").stat().st_mode) == 0o640
    assert [path.name for path in hooks.iterdir()] == ["2.gpu02.prolog.json"]


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_JOB_ID": "../../etc/x"},
        {"SLURM_JOB_ID": ""},
        {"SLURM_JOB_ID": "-1"},
        {"SLURMD_NODENAME": "../x"},
        {"SLURMD_NODENAME": "."},
    ],
)
def test_odd_names_are_refused(tmp_path: Path, env: dict[str, str]) -> None:
    """What would be a path is not written, and one line says so."""
    said, _ = hook(tmp_path, env={**ENV, **env})
    assert said.count("\n") == 1
    assert "nothing recorded" in said
    assert not list(tmp_path.rglob("*.json"))


def test_untrusted_text_and_size(tmp_path: Path) -> None:
    """Quotes, line breaks and bytes that are not text arrive harmless; an endless value is left out."""
    store(tmp_path, SLURM_JOB_ACCOUNT='a"b\\\n\udcff\U0001f600', SLURM_JOB_QOS="q" * 10_000)
    [record] = HookDir(tmp_path).poll()
    assert record.account == 'a"b\\ \ufffd\ufffd'
    assert record.qos == ""


@needs_root
def test_full_disk(tmp_path: Path) -> None:
    """No room: exit 0, one line, nothing half-written left behind."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", tmp_path], check=True)
    try:
        (tmp_path / "hooks").mkdir(mode=0o750)
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={tmp_path}/fill"], capture_output=True, check=False
        )
        said, took_s = hook(tmp_path)
        assert "No space left" in said or "no room" in said
        assert took_s < 2
        assert not list((tmp_path / "hooks").iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@needs_root
def test_read_only_state(tmp_path: Path) -> None:
    """A read-only file system is a line on stderr."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], check=True)
    try:
        assert "Read-only" in hook(tmp_path)[0]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_fifo_in_the_way(tmp_path: Path) -> None:
    """A FIFO under the record's own name is replaced, one in place of the directory refused."""
    (tmp_path / "hooks").mkdir(mode=0o750)
    os.mkfifo(tmp_path / "hooks/2.gpu02.prolog.json")
    assert hook(tmp_path)[0] == ""
    assert (tmp_path / "hooks/2.gpu02.prolog.json").is_file()
    os.mkfifo(tmp_path / "other")
    assert "nothing recorded" in hook(tmp_path / "other")[0]


@needs_root
def test_a_planted_directory_is_not_used(tmp_path: Path) -> None:
    """Root writes through no link and into no directory of a third party."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o750)
    os.chown(theirs, 12345, 12345)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/hooks").symlink_to(theirs)
    assert "nothing recorded" in hook(tmp_path / "a")[0]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/hooks").mkdir()
    os.chown(tmp_path / "b/hooks", 12345, 12345)
    assert "uid 12345" in hook(tmp_path / "b")[0]
    assert not list(theirs.iterdir())
    assert not list((tmp_path / "b/hooks").iterdir())


@needs_root
def test_the_directory_belongs_to_whom_the_state_belongs(tmp_path: Path) -> None:
    """An unprivileged daemon can read and tidy up what root's hook made first."""
    os.chown(tmp_path, 12345, 23456)
    hook(tmp_path)
    about = (tmp_path / "hooks").stat()
    assert (about.st_uid, about.st_gid) == (12345, 23456)
    assert (tmp_path / "hooks/2.gpu02.prolog.json").stat().st_gid == 23456


@needs_root
def test_root_believes_the_daemons_own_directory(tmp_path: Path) -> None:
    """`doctor` as root, beside a daemon that runs as a user of its own: its hooks' directory is no stranger's."""
    os.chown(tmp_path, 12345, 23456)
    hook(tmp_path)
    directory = HookDir(tmp_path)
    assert [record.user for record in directory.poll()] == ["alice"]
    assert directory.failure is None
    os.chown(tmp_path / "hooks", 999, 999)
    stranger = HookDir(tmp_path)
    assert stranger.poll() == []
    assert stranger.failure is not None


def test_a_hook_that_hangs_is_gone_after_200_ms(tmp_path: Path) -> None:
    """Whatever blocks (here: stderr that nobody reads), the job waits 200 ms at most."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, b"x" * 4096)
    code = "import os; from jobwatt.slurm.hooks import run_hook; os._exit(run_hook(['bad'], {}))"
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-c", code], stderr=write_end, env={"PYTHONPATH": str(EXPORTER)}
    )
    try:
        assert child.wait(60) == 0
    finally:
        os.close(read_end)
        os.close(write_end)
    assert time.monotonic() - began >= 0.2 == LIMIT_S  # how long beyond is the machine's affair
    assert not list(tmp_path.iterdir())


def test_own_imports_are_few() -> None:
    """A hook imports nothing heavier than os: no json, re, typing, pathlib, enum, dataclasses."""
    code = "import os, sys; before = set(sys.modules); import jobwatt.slurm.hooks; print(*sorted(set(sys.modules) - before))"
    out = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(EXPORTER)}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert out == ["__future__", "jobwatt", "jobwatt.slurm", "jobwatt.slurm.hooks"]


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


def run_hook(*argv: str) -> subprocess.CompletedProcess[str]:
    code = "import os, sys; from jobwatt.slurm.hooks import run_hook; os._exit(run_hook(sys.argv[1:], os.environ))"
    return subprocess.run(
        [sys.executable, "-c", code, *argv], env={"PYTHONPATH": str(EXPORTER), **ENV},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


@pytest.mark.parametrize("order", [("prolog", "--path.state"), ("--path.state", "prolog")])
def test_the_state_directory_may_be_a_word_of_its_own(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    """`--path.state DIR` is as good as `--path.state=DIR`, before the event as behind it."""
    words = [
        part for word in order for part in ((word, str(tmp_path)) if word[0] == "-" else (word,))
    ]
    assert run_hook(*words).stderr == ""
    assert (tmp_path / "hooks/2.gpu02.prolog.json").is_file()


def test_an_unknown_flag_is_said_and_the_job_recorded(tmp_path: Path) -> None:
    """A flag of another command: one line, exit 0, and the record is there."""
    done = run_hook("prolog", "--log.level=debug", f"--path.state={tmp_path}", "-x")
    assert done.stderr.count("\n") == 1
    assert "--log.level=debug -x" in done.stderr
    assert (tmp_path / "hooks/2.gpu02.prolog.json").is_file()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_the_hook(tmp_path: Path, flag: str) -> None:
    """Usage on stdout, exit 0, nothing recorded."""
    done = run_hook("prolog", f"--path.state={tmp_path}", flag)
    assert done.stdout.startswith("usage: jobwatt hook prolog|epilog")
    assert "/var/lib/jobwatt" in done.stdout
    assert (done.stderr, list(tmp_path.iterdir())) == ("", [])


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


def test_an_alarm_while_the_interpreter_winds_up_fails_no_job(tmp_path: Path) -> None:
    """Whenever the time limit strikes, the status is 0: another one would drain the node."""
    code = (
        "import sys; import jobwatt.cli, jobwatt.slurm.hooks as hooks; hooks.LIMIT_S = {limit};"
        f"sys.argv = ['jobwatt', 'hook', 'prolog', '--path.state={tmp_path}']; jobwatt.cli.entry()"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "exporter"), "SLURM_JOB_ID": "5", "SLURMD_NODENAME": "n"}  # fmt: skip
    # half a millisecond to six: from the record's writing to the interpreter's last breath
    limits = [0.0005 + 0.00007 * step for step in range(80)]
    ends = {
        subprocess.run([sys.executable, "-c", code.format(limit=limit)], env=env, check=False, capture_output=True).returncode
        for limit in limits
    }  # fmt: skip
    assert ends == {0}
