"""The command line: exit codes, one line that names what is wrong, help, and pipes that break."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import clikit
from clikit import jobwatt
from daemon import command, environment
from jobwatt.config import settings

inside, node, where = clikit.inside, clikit.node, clikit.where  # fixtures

COMMANDS = ("serve", "once", "doctor", "calibrate", "record", "release-gpus", "replay")


@pytest.mark.parametrize(("argv", "named"), [
    (["serve", "--sample.intervall=1s"], "--sample.interval"),
    (["serve", "--sample.interval=fast"], "--sample.interval"),
    (["serve", "--sample.interval=1ms"], "--sample.interval"),
    (["serve", "--sample.interval=2m"], "--sample.interval"),
    (["once", "--slurm.gpu-numbering=cuda"], "--slurm.gpu-numbering"),
    (["once", "--path.sysfs="], "--path.sysfs"),
    (["once", "--ledger.linger=-1s"], "--ledger.linger"),
    (["serve", "--web.listen-address=here"], "--web.listen-address"),
    (["doctor", "--log.level=loud"], "--log.level"),
    (["record", "--duration=long"], "--duration"),
    (["serve", "--config.file=/nowhere/jobwatt.toml"], "--config.file"),
    (["replay"], "FILE"),
    (["serv"], "serve"),
    ([], "COMMAND"),
])  # fmt: skip
def test_usage_error_names_the_flag(inside, argv, named):
    """A wrong flag or value: 2, nothing on stdout, and the last line names the flag and, misspelt, the nearest."""
    done = inside(*argv)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert named in done.stderr.splitlines()[-1], done.stderr


@pytest.mark.parametrize(("toml", "named"), [
    ("[sample]\nintervall = '1s'", "sample.intervall; did you mean sample.interval?"),
    ("[web]\nlisten_address = ':1'", "web.listen-address"),
    ("[smaple]\ninterval = '1s'", "sample.interval"),
    ("[sample]\ninterval = 1", "sample.interval: 1 must be a string"),
    ("[sample]\ninterval = true", "sample.interval"),
    ("[sample.interval]\nx = 1", "sample.interval"),
    ("[source]\nrapl = 'no'", "source.rapl: 'no' must be true or false"),
    ("[source]\nnvml = 1", "source.nvml"),
    ("sample = 3", "sample"),
    ("[slurm]\nrpc-timeout = '0s'", "slurm.rpc-timeout"),
    ("[log]\nlevel = 'loud'", "log.level"),
    ("not toml at all", "not TOML"),
    ("x = 'ÿ'", "not TOML"),
])  # fmt: skip
def test_config_file_that_is_wrong(inside, tmp_path, toml, named):
    """A wrong key or value in the file: 2 and one line that names the file and the key."""
    path = tmp_path / "jobwatt.toml"
    path.write_text(toml, encoding="latin-1")
    done = inside("once", f"--config.file={path}")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert str(path) in done.stderr
    assert named in done.stderr


def test_flag_beats_file_beats_default(node, tmp_path):
    """A setting of the file holds, unless a flag says otherwise."""
    path = tmp_path / "jobwatt.toml"
    path.write_text(f"[path]\nsysfs = '{node.sys}'\nprocfs = '{node.proc}'\ncgroupfs = '{node.cgroup}'\n"
                    f"state = '{tmp_path}/state'\n[source]\nnvml = false\n[slurm]\nrpc = false\n"
                    "[sample]\ninterval = '100ms'\n")  # fmt: skip
    assert (
        jobwatt("once", f"--config.file={path}").stdout.count("jobwatt_rapl_energy_joules_total{")
        == 3
    )
    bare = jobwatt("once", f"--config.file={path}", "--path.sysfs=/nonexistent")
    assert "jobwatt_rapl" not in bare.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_flag(inside, name):
    """--help of every command names every setting with its default."""
    done = inside(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r"\s+", " ", done.stdout)
    for setting in settings():
        assert f"--{setting.metadata['name']}" in done.stdout
    assert "(default 1s)" in text
    assert "--config.file" in text


def test_help_of_all(inside):
    """`jobwatt --help` names every command and says how to begin; `hook --help` never disturbs Slurm."""
    done = inside("--help")
    assert done.returncode == 0
    for name in (*COMMANDS, "hook"):
        assert re.search(rf"^ +{name}\b", done.stdout, re.MULTILINE), name
    assert "jobwatt doctor" in done.stdout
    assert re.fullmatch(r"jobwatt \d+\.\d+\.\d+\n", inside("--version").stdout)
    assert jobwatt("hook").returncode == jobwatt("hook", "--help").returncode == 0


@pytest.mark.parametrize(
    "argv", [["once"], ["doctor"], ["record"], ["doctor", "--json"], ["serve", "--help"]]
)
def test_broken_pipe(where, argv):
    """Whoever reads goes away: it ends at once, quietly, without a traceback."""
    flags = [] if "--help" in argv else where
    env = environment()
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        command(*argv, *flags), env=env, stdout=write, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(write)
        said = process.communicate(timeout=90)[1]
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    assert process.returncode in {0, 1}


def test_stdout_that_is_full(where):
    """A full disk under stdout is one line and 1, not a page cut in silence."""
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-m", "jobwatt", "once", *where]
        env = environment()
        done = subprocess.run(
            argv, env=env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=90, check=False
        )
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "No space left" in done.stderr


def test_a_misspelt_flag_names_the_nearest():
    """Exit code 2 and one line with the flag that was meant."""
    done = jobwatt("serve", "--web.listen-adress=:1")
    assert done.returncode == 2
    assert "--web.listen-adress=:1; did you mean --web.listen-address?" in done.stderr


@pytest.mark.parametrize(
    "command", ["serve", "sd", "grid", "compare", "alerts", "pseudonym", "demo"]
)
def test_a_wrong_flag_is_one_line(inside, command):
    """However many flags a command has: what is wrong, in one line, and where to read on; 2."""
    done = inside(command, "--no.such.flag=1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"jobwatt {command}: error: ")
    assert f"(see jobwatt {command} --help)" in done.stderr
