"""
What users of a node can say and do, against a daemon, `doctor` and the hooks.

Part one: strings. A job's name, account, environment and process title are whatever its user
typed. Part two: files. A second user of the node, with a shell, at the state directory.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

import nvmlshim
from daemon import BOOT_ID, PACKAGE, Daemon, command, environment, paths
from jobwatt.central.grid.kept import save
from jobwatt.plainlog import LONGEST as LONGEST_LINE
from jobwatt.plainlog import PlainFormatter
from jobwatt.slurm import hookdir
from jobwatt.slurm.hookdir import HookDir
from trees import Node

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
LONGEST = 256  # of a label's value

# what users typed -> a name for it; none holds a NUL, which no environment can
NASTY = {
    "escape": b"\x1b]0;owned\x07\x1b[31mred\x1b[0m\x9b2J",
    "newline": b'one\ntwo{job="x"} 1\r\njobwatt_jobs 99\n# TYPE x counter',
    "html": b"</td></table><script>alert(1)</script><img src=x onerror=alert(1)>'\"",
    "template": b"{{ .Labels.user }}{{ $value }}{{ printf `%s` `x` }}${HOME}%s%n",
    "quotes": b'"\'`\\\\" \\n \\',
    "direction": "invoice \u202egpj.exe\u2066\u200b\ufeff\u2028 end".encode(),
    "long": b"A" * 4000,
    "too long": b"B" * 100_000,
    "not UTF-8": b"caf\xe9 \xff\xfe\xc0\x80 \xed\xa0\x80",
    "many bytes": "\U0001f525".encode() * 900,
}
SHOWN = ("SLURM_JOB_NAME", "SLURM_JOB_ACCOUNT", "SLURM_JOB_PARTITION", "SLURM_JOB_QOS",
         "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")  # fmt: skip
MORE = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME",
        "SLURM_JOB_CPUS_PER_NODE", "SLURM_NODELIST", "SLURM_JOB_NODELIST", "SLURM_JOB_SLUID", "SLURM_CPUS_ON_NODE",
        "SLURM_MEM_PER_NODE", "SLURM_JOB_USER", "SLURM_JOB_EXIT_CODE2")  # fmt: skip


def run_hook(state, event, env):
    """As slurmd runs it: in a process of its own, variables as bytes."""
    given = {os.fsencode(key): value for key, value in env.items()}
    base = {b"PYTHONPATH": os.fsencode(PACKAGE), b"PATH": b"/usr/bin:/bin"}
    code = "import os, sys; from jobwatt.slurm.hooks import run_hook; os._exit(run_hook(sys.argv[1:], os.environ))"
    argv = [sys.executable, "-c", code, event, f"--path.state={state}"]
    done = subprocess.run(argv, env={**base, **given}, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    return done.stderr


def told(jobid, nasty):
    """All variables of a job, each of them nasty but who it is."""
    env = {
        "SLURM_JOB_ID": str(jobid).encode(),
        "SLURM_JOB_UID": b"61001",
        "SLURMD_NODENAME": b"node",
    }
    return (
        env
        | dict.fromkeys((*SHOWN, *MORE), nasty)
        | {"SLURM_JOB_USER": b"alice", "SLURM_JOB_NUM_NODES": b"1"}
    )


def haunted(root):
    """A node with GPUs on which each nasty string is a hooked job's, an unhooked job's and a process title."""
    node, state = Node(root, cpus=4, boot_id=BOOT_ID), root / "state"
    node.add_intel(sockets=1, psys=False, mmio=False)
    state.mkdir(mode=0o750)
    for number, nasty in enumerate(NASTY.values()):
        node.add_job(100 + number, uid=61001)
        run_hook(state, "prolog", told(100 + number, nasty))
        job = node.add_job(200 + number, uid=61002)
        for pid in job.pids:
            env = told(200 + number, nasty)
            place = node.proc / str(pid)
            (place / "environ").write_bytes(
                b"".join(k.encode() + b"=" + v + b"\0" for k, v in env.items())
            )
            (place / "cmdline").write_bytes(b"slurmstepd: [999.0] " + nasty + b"\0" + nasty + b"\0")
            (place / "comm").write_bytes(nasty[:15] + b"\n")
            stat = (place / "stat").read_bytes()
            head, _, tail = stat.rpartition(b")")
            (place / "stat").write_bytes(
                head.partition(b"(")[0] + b"(" + nasty[:15] + b") R 1)" + tail
            )
    return node, state, nvmlshim.Script.of(root / "nvml.script", 2)


class Reader(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


def plain(text):
    """Whether a terminal shows these lines as they are."""
    return [line for line in text.split("\n") if not line.isprintable()] == []


@pytest.mark.slow
@pytest.mark.prometheus
def test_nasty_strings_from_end_to_end(tmp_path):
    """
    Escape sequences, line breaks, markup, Go templates, quotes, direction overrides, 100 kB, invalid UTF-8: by hook, by
    environment and by process title; on the metrics page, the landing page, in the log and in `doctor`.
    """
    node, state, script = haunted(tmp_path)
    with Daemon(node, state, "--log.level=debug", script=script) as daemon:
        page = daemon.until(
            lambda page: (
                len(page.find("jobwatt_job_info")) == 2 * len(NASTY)
                and all(dict(labels)["resolved_by"] for labels in page.find("jobwatt_job_info"))
            )
        )
        page.parse()
        daemon.scrape(om=True).parse(om=True)
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=page.text.encode(), capture_output=True, check=False
        )  # fmt: skip
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
        assert page.value("jobwatt_jobs") == 2 * len(NASTY)
        for labels in {
            labels
            for name in {one.partition("{")[0] for one in page.series}
            for labels in page.find(name)
        }:
            for name, value in labels:
                assert len(value) <= LONGEST, name
                assert value.isprintable(), (name, value)
        names = page.labels("jobwatt_job_info", "name")
        assert 'one two{job="x"} 1  jobwatt_jobs 99 # TYPE x counter' in names
        assert "A" * 255 + "…" in names
        assert "B" not in "".join(names)  # longer than Slurm's own ever are: left out
        # by hook; a uid without a name by the kernel's word, never the environment's
        for by, user in (("hook", "alice"), ("environ", "61002")):
            assert page.labels("jobwatt_job_info", "user", resolved_by=by) == {user}
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
            sock.sendall(b"GET /\x1b]0;owned\x07\x9b2J%0d%0a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 404 " in sock.recv(100)
        html = daemon.get("/")
        doctor = subprocess.run(
            [*command("doctor", *paths(node, state), "--no-slurm.rpc"), "--source.nvml"],
            env=environment(script), capture_output=True, timeout=90, check=False,
        )  # fmt: skip
        log = daemon.text()
    read = Reader()
    read.feed(html)
    assert not read.tags & {"script", "img", "iframe", "object", "form", "base"}
    assert not {name for name in read.attributes if name.startswith("on")}
    assert "<script>alert(1)</script>" in "".join(read.text)  # shown as what it is
    assert plain(html)
    assert plain(log)
    assert max(map(len, log.splitlines())) < 1000
    assert "owned" in log  # the request, at debug level
    said = doctor.stdout.decode() + doctor.stderr.decode()
    assert "100: alice" in said
    assert plain(said)
    assert max(map(len, said.splitlines())) < 1000


@pytest.mark.parametrize(
    "nasty", [text.decode(errors="surrogateescape") for text in NASTY.values()], ids=NASTY
)
def test_a_log_line_is_one_plain_line(nasty):
    """Whatever a message holds, it is one line that a terminal shows as it is; a traceback keeps its lines."""
    info = (ValueError, ValueError(nasty), None)
    formatter = PlainFormatter("%(levelname).1s %(name)s: %(message)s")
    for exc_info in (None, info):
        record = logging.LogRecord("x", logging.INFO, __file__, 1, "told: %s", (nasty,), exc_info)
        text = formatter.format(record)
        first, _, rest = text.partition("\n")
        assert first.startswith("I x: told: ")
        assert len(first) <= 7 * LONGEST_LINE  # as escapes
        assert plain(text)
        assert bool(rest) == bool(exc_info)


def test_what_a_hook_says_of_odd_variables_is_one_plain_line(tmp_path):
    """A job id or node name that is none goes into slurmd's log as one line that a terminal shows as it is."""
    for name in ("SLURM_JOB_ID", "SLURMD_NODENAME"):
        for nasty in NASTY.values():
            env = {"SLURM_JOB_ID": b"7", "SLURMD_NODENAME": b"node", name: nasty}
            if len(nasty) > 5000:
                continue
            said = run_hook(tmp_path / "state", "prolog", env).decode()
            assert said.count("\n") == 1
            assert len(said) < 600
            assert plain(said), said
    assert not list(tmp_path.rglob("*.json"))


# --- a second user --------------------------------------------------------------------------------------

NOBODY = 65534


def as_nobody(script, where, wait=True):
    """A shell of another user in ``where`` (no directory above it has to let it in)."""
    argv = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "sh",
        "-c",
        script,
    ]
    child = subprocess.Popen(
        argv, cwd=where, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={"PATH": "/usr/bin:/bin"}, start_new_session=True,
    )  # fmt: skip
    if not wait:
        return child
    said, _ = child.communicate(timeout=60)
    return said


ATTACKS = """
try() { if sh -c "$2" >/dev/null 2>&1; then echo "DONE: $1"; fi; }
try "read a record" 'cat hooks/7.node.prolog.json'
try "list the records" 'ls hooks/ | grep json'
try "read the ledger" 'cat ledger.db'
try "write the ledger" 'echo x >>ledger.db'
try "plant a record" 'echo {} >hooks/8.node.prolog.json'
try "plant a link" 'ln -s /etc/passwd hooks/8.node.prolog.json'
try "plant a FIFO" 'mkfifo hooks/8.node.prolog.json'
try "plant a second name" 'ln hooks/7.node.prolog.json 9.node.prolog.json'
try "change a record" 'echo x >>hooks/7.node.prolog.json'
try "open a record to all" 'chmod 666 hooks/7.node.prolog.json'
try "remove a record" 'rm -f hooks/7.node.prolog.json'
try "move the records away" 'mv hooks away'
try "put a link in their place" 'rm -rf hooks && ln -s /tmp hooks'
try "calibrate" 'echo {} >idle.json'
try "write the pid" 'echo 1 >jobwatt.pid'
try "take the lock" 'flock -n ledger.lock true'
try "open the lock" ': >>ledger.lock'
try "read the process" 'cat /proc/$(cat jobwatt.pid)/environ'
"""


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o750, 0o755], ids=oct)
def test_a_second_user_gets_nowhere(tmp_path, mode):
    """Beside a daemon, with a directory as the package makes it, or open to look at: nothing is read, written or moved."""
    node, state = Node(tmp_path, cpus=4, boot_id=BOOT_ID), tmp_path / "state"
    node.add_intel(sockets=1, psys=False, mmio=False)
    with Daemon(node, state) as daemon:
        run_hook(state, "prolog", told(7, b"name"))
        state.chmod(mode)
        before = {path.name: path.stat().st_mtime_ns for path in (state / "hooks").iterdir()}
        assert as_nobody(ATTACKS, state) == ""
        assert {
            path.name: path.stat().st_mtime_ns for path in (state / "hooks").iterdir()
        } == before
        page = daemon.until(lambda page: page.find("jobwatt_job_info", jobid="7"))
        assert page.labels("jobwatt_job_info", "user") == {"alice"}
        assert daemon.stop() == 0


@needs_root
@pytest.mark.slow
def test_where_the_state_is_open_to_all(tmp_path):
    """
    A site opened the state directory to everybody. A second user swaps the hooks' directory, as fast as it can, for a link to
    its own, for its own with forged records, and back, while hooks write as root and a reader polls: root writes nothing
    into the user's directory, no forged record is believed, and nothing fails but the recording.
    """
    state, theirs = tmp_path / "state", tmp_path / "state/theirs"
    state.mkdir()
    state.chmod(0o777)
    run_hook(state, "prolog", told(7, b"name"))
    forged = (state / "hooks/7.node.prolog.json").read_text().replace("alice", "mallory")
    (state / "forged").write_text(forged.replace('"7"', '"8"'))
    (state / "forged").chmod(0o644)
    swaps = """
    mkdir theirs && chmod 700 theirs && cp forged theirs/8.node.prolog.json && chmod 600 theirs/8.node.prolog.json
    mv hooks real
    while :; do
      mkdir hooks && chmod 750 hooks && cp theirs/*.json hooks/; rm -rf hooks
      ln -s theirs hooks; rm -f hooks
      mv real hooks; mv hooks real
    done
    """
    swapper = as_nobody(swaps, state, wait=False)
    believed, reader = [], HookDir(state, forget=True)
    try:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            run_hook(state, "prolog", told(9, b"name"))
            for _ in range(20):
                believed += reader.poll()
    finally:
        os.killpg(swapper.pid, 9)
        swapper.wait()
    assert {record.user for record in believed} <= {"alice"}
    assert {record.jobid for record in believed} <= {"7", "9"}
    assert not [path for path in theirs.glob("*") if path.stat().st_uid == 0]
    node = Node(tmp_path, cpus=4, boot_id=BOOT_ID)
    with Daemon(
        node, state
    ) as daemon:  # it measures, and keeps its account where nobody can have it follow a link
        assert daemon.samples(1).value("jobwatt_ledger_up") == 0
        assert len(daemon.said("mode 0777.*--path.state")) == 1
    assert not (state / "ledger.db").exists()


@needs_root
def test_a_second_name_for_a_file_of_roots(tmp_path, caplog):
    """A record under two names is not believed, and that is said; under one it is again."""
    run_hook(tmp_path, "prolog", told(7, b"name"))
    os.link(tmp_path / "hooks/7.node.prolog.json", tmp_path / "elsewhere")
    assert HookDir(tmp_path).poll() == []
    assert "7.node.prolog.json is not believed: uid 0, mode 100640, 2 names" in caplog.text
    (tmp_path / "elsewhere").unlink()
    assert [record.jobid for record in HookDir(tmp_path).poll()] == ["7"]


def test_a_link_in_the_way_of_the_grids_cache(tmp_path):
    """Who can write beside the cache has nothing else overwritten."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".cache.json.new").symlink_to(victim)
    save(tmp_path / "cache.json", SimpleNamespace(zone="FR", sources=()), {})
    assert victim.read_text() == "precious"
    assert json.loads((tmp_path / "cache.json").read_text())["figures"] == []


def test_very_many_records(tmp_path, monkeypatch):
    """What a long stop has left is read some at a time, all of it in the end; drafts of hooks that were cut off go."""
    monkeypatch.setattr(hookdir, "MAX_NEW", 50)
    run_hook(tmp_path, "prolog", told(1, b"name"))
    record = (tmp_path / "hooks/1.node.prolog.json").read_text()
    for number in range(2, 181):
        path = tmp_path / f"hooks/{number}.node.prolog.json"
        path.write_text(record.replace('"SLURM_JOB_ID":"1"', f'"SLURM_JOB_ID":"{number}"'))
        path.chmod(0o640)
    for name, age_s in (("old", 7200), ("young", 0)):
        draft = tmp_path / f"hooks/.{name}.tmp"
        draft.write_text("{")
        os.utime(draft, (time.time() - age_s,) * 2)
    directory = HookDir(tmp_path, forget=True)
    counts = [len(directory.poll()) for _ in range(5)]
    assert counts == [50, 50, 50, 30, 0]
    left = {path.name for path in (tmp_path / "hooks").glob(".*")}
    assert left == {".young.tmp"}


def test_damage_is_said_a_hundred_times(tmp_path, caplog):
    """However many records are damaged, the log is not filled."""
    hooks = tmp_path / "hooks"
    hooks.mkdir(mode=0o750)
    for number in range(300):
        (hooks / f"{number}.node.prolog.json").write_text("\x1b[31m{")
    assert HookDir(tmp_path).poll() == []
    assert len(caplog.records) == hookdir.MAX_SAID + 1
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_a_huge_record_and_a_device(tmp_path):
    """A sparse terabyte under a record's name is not read; nor is anything that is no file."""
    hooks = tmp_path / "hooks"
    hooks.mkdir(mode=0o750)
    with (hooks / "1.node.prolog.json").open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(hooks / "2.node.prolog.json")
    (hooks / "3.node.prolog.json").mkdir()
    (hooks / "4.node.prolog.json").symlink_to("/dev/zero")
    done = []
    thread = threading.Thread(target=lambda: done.append(HookDir(tmp_path).poll()), daemon=True)
    thread.start()
    thread.join(60)
    assert done == [[]]
