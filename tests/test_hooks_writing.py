"""Prolog and Epilog write their records: always exit 0, always in time, and only where it is safe."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hookkit import ENV, EXPORTER, hook, store
from jobwatt.slurm.hookdir import HookDir
from jobwatt.slurm.hooks import LIMIT_S

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


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
