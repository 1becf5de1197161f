"""What the demo starts: it ends with it, however that ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

import demokit
from daemon import environment, wait
from demokit import processes
from jobwatt.demo import lifetime
from jobwatt.demo.children import ChildError

children = demokit.children  # a fixture


def test_children_end_with_what_they_started(children, tmp_path):
    """A child that will not listen, and its own child, are gone when the demo ends."""
    mark = tmp_path / "mark"
    mark.touch()
    script = "import signal,subprocess,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['tail','-f',sys.argv[1]]); print(1,flush=True); time.sleep(99)"
    child = children.start("stubborn", [sys.executable, "-c", script, str(mark)])
    wait(child.log.read_text)
    children.kill()
    children.close()
    assert not child.alive
    wait(lambda: not processes(str(mark)))
    with pytest.raises(ChildError, match="the demo is ending"):
        children.start("late", ["true"])


def test_children_do_not_outlive_a_killed_demo(tmp_path):
    """After kill -9 of the demo the kernel ends its children."""
    script = (
        "import sys,time; from pathlib import Path; from jobwatt.demo.children import Children\n"
        "Children(Path(sys.argv[1])).start('sleeper', ['tail', '-f', sys.argv[1] + '/mark'])\nprint(1, flush=True)\ntime.sleep(99)"
    )
    (tmp_path / "mark").touch()
    argv = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment()) as demo:
        demo.stdout.readline()
        wait(lambda: processes(f"tail -f {tmp_path}"))
        demo.kill()
    wait(lambda: not processes(str(tmp_path)))


def test_a_child_that_fails_says_what_it_said(children):
    """One line: which, how it ended, its last words."""
    with pytest.raises(ChildError) as err:
        children.run("promtool", ["sh", "-c", "echo fine; echo out of order >&2; exit 3"])
    assert str(err.value) == "promtool ended with 3: fine | out of order"
    with pytest.raises(ChildError, match="ghost: cannot start /no/such"):
        children.run("ghost", ["/no/such"])
    with pytest.raises(ChildError, match=r"slow took longer than 0 s"):
        children.run("slow", ["sleep", "99"], limit_s=0.1)


def test_a_run_s_folder_goes_with_it(tmp_path, monkeypatch):
    """At the end, or by the next run after kill -9; never one that is in use."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with lifetime.run_dir() as ours:
        left = tmp_path / f"{lifetime.PREFIX}left"
        left.mkdir()
        (left / "lock").touch()
        foreign = tmp_path / f"{lifetime.PREFIX}without-lock"
        foreign.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # as in another process
        with lifetime.run_dir() as another:
            assert ours.is_dir()
            assert ours != another
        assert not left.exists()
        assert foreign.is_dir()
    assert not ours.exists()
