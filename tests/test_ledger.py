"""The ledger alone: damaged, newer, full, read-only, taken, killed in the middle."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from jobwatt import ledger as ledger_module
from jobwatt.bookrows import Book
from jobwatt.ledger import MIGRATIONS, Ledger, LedgerBusyError
from jobwatt.model import NS_PER_S
from jobwatt.pipeline import Pipeline
from world import World

REGULAR, LINGER = int(2.5 * NS_PER_S), 600 * NS_PER_S


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


def pipeline(path, boot_id="boot"):
    made = Pipeline(Ledger(path), REGULAR, LINGER)
    made.restore(boot_id)
    return made


def worked(path, seconds=5, world=None):
    """A ledger after a few seconds of a node with two jobs, closed; and the world."""
    world = world or World()
    if not world.jobs:
        world.start("7", gpus=[0])
        world.start("8", gpus=[1])
    account = pipeline(path)
    for _ in range(seconds):
        world.run(1.0, {"7": 0.5, "8": 0.25})
        account.push(world.snapshot())
    return account, world


def killed(account):
    """What kill -9 leaves: the files as they are, the lock gone with the process."""
    path, kept = account.ledger.path, {}
    for one in path.parent.glob("ledger.db*"):
        kept[one] = one.read_bytes()
    account.ledger._db.close()  # this would have tidied up
    os.close(account.ledger._lock)
    for one, data in kept.items():
        one.write_bytes(data)


def files(path):
    return sorted(one.name for one in path.parent.iterdir())


# --- files in a good and in a bad state ----------------------------------------------------------------


@pytest.mark.parametrize("before", ["nothing", "empty file", "version 0"])
def test_begins_from_empty(path, before):
    """No file, an empty one, or one without tables: a ledger of the latest version, in WAL mode."""
    if before == "empty file":
        path.touch()
    elif before == "version 0":
        sqlite3.connect(path).execute("PRAGMA journal_mode = WAL").connection.close()
    ledger = Ledger(path)
    assert ledger.restore("boot") == Book()
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (1,)  # no fsync per commit
    ledger.close()
    assert files(path) == ["ledger.db", "ledger.lock"]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert {row[0] for row in db.execute("SELECT name FROM sqlite_master")} >= {"state", "job"}
    assert (ledger.fault, ledger.errors) == ("", 0)


def test_gives_back_what_was_committed(path):
    """Every total, the last snapshot and all cursors come back as they were."""
    account, _ = worked(path)
    account.ledger.close()
    again = pipeline(path)
    assert again.totals == account.totals
    assert again._last.jobs == account._last.jobs
    assert again._cursors.keys() == account._cursors.keys()


def damage(path, how):
    data = path.read_bytes()
    if how == "not a database":
        path.write_bytes(b"this is no database " * 300)
    elif how == "cut in half":
        path.write_bytes(data[: len(data) // 2])
    elif how == "zeros within":
        path.write_bytes(data[:1024] + bytes(len(data) - 1024))
    else:
        change = {
            "half a row": "UPDATE state SET body = substr(body, 1, length(body) / 2)",
            "a row of another kind": "UPDATE state SET body = '[1, 2]'",
            "a job that is none": "UPDATE job SET body = '{}'",
            "a table gone": "DROP TABLE job",
        }[how]
        with sqlite3.connect(path) as db:
            db.execute(change)
        db.close()


DAMAGES = ("not a database", "cut in half", "zeros within", "half a row", "a row of another kind",
           "a job that is none", "a table gone")  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged(path, how, caplog):
    """A damaged ledger is kept aside under a name that says so, one line is logged, and a new one works."""
    account, world = worked(path)
    account.ledger.close()
    damage(path, how)
    with caplog.at_level(logging.INFO):
        account, _ = worked(path, 3, world)
    assert [record.levelname for record in caplog.records] == ["ERROR"], caplog.text
    assert str(path) in caplog.text
    aside = [name for name in files(path) if name.startswith("ledger.db.damaged-")]
    assert aside
    assert account.ledger.errors == 1
    assert account.ledger.fault == ""
    account.ledger.close()
    assert pipeline(path).totals == account.totals


def test_damaged_while_in_use(path, caplog):
    """Damage that comes to light at a commit: set aside likewise, and no total is lost."""
    account, world = worked(path)
    account.ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    account.ledger._db.execute("PRAGMA cache_size = 0")  # the pages must come from the file
    account.ledger._db.execute("PRAGMA shrink_memory")
    with path.open("r+b") as file:
        file.write(b"\xa5" * path.stat().st_size)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            world.run(1.0, {"7": 0.5})
            account.push(world.snapshot())
    assert [record.levelname for record in caplog.records] == ["ERROR"], caplog.text
    assert [name for name in files(path) if ".damaged-" in name]
    assert account.ledger.fault == ""
    account.ledger.close()
    assert pipeline(path).totals == account.totals


def test_newer(path, caplog):
    """A newer jobwatt's ledger is kept aside unchanged, one line says both versions, and a new one works."""
    account, _ = worked(path)
    account.ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with caplog.at_level(logging.INFO):
        account, _ = worked(path, 2)
    assert len(caplog.records) == 1
    assert "its version is 99" in caplog.text
    (aside,) = (
        name
        for name in files(path)
        if name.startswith("ledger.db.newer-") and not name.endswith(("-wal", "-shm"))
    )
    with sqlite3.connect(path.with_name(aside)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
        assert db.execute("SELECT count(*) FROM job").fetchone() == (2,)
    account.ledger.close()
    assert pipeline(path).totals == account.totals


# --- disks --------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A file system of 256 KiB."""
    where = tmp_path / "disk"
    where.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", where],
            check=False,
            capture_output=True,
        ).returncode
    ):
        pytest.skip("mounting needs root")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def fill(where):
    with (where / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert not os.statvfs(where).f_bavail


def test_full_disk(disk, caplog):
    """A full disk: totals grow in memory, one line; with room again one commit brings everything to disk."""
    path = disk / "ledger.db"
    account, world = worked(path)
    fill(disk)
    for at in range(20):
        world.start(str(100 + at), cpus=1)
    with caplog.at_level(logging.INFO):
        for _ in range(10):
            world.run(1.0, {"7": 0.5})
            account.push(world.snapshot())
        assert "kept in memory" in account.ledger.fault
        assert account.ledger.errors > 0
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        (disk / "filler").unlink()
        world.run(1.0, {"7": 0.5})
        account.push(world.snapshot())
    assert account.ledger.fault == ""
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    account.ledger.close()
    assert pipeline(path).totals == account.totals


def test_full_from_the_start(disk, caplog):
    """Nothing fits from the start: measuring goes on in memory, one line; later it is written."""
    fill(disk)
    path = disk / "ledger.db"
    with caplog.at_level(logging.INFO):
        account, world = worked(path, 4)
        assert account.ledger.fault
        assert account.totals.node
        assert len(caplog.records) == 1, caplog.text
        (disk / "filler").unlink()
        world.run(1.0, {"7": 0.5})
        account.push(world.snapshot())
    assert account.ledger.fault == ""
    account.ledger.close()
    assert pipeline(path).totals == account.totals


def test_restart_on_a_full_disk(disk):
    """Killed, then started again while the disk is full: it goes on from what was committed."""
    path = disk / "ledger.db"
    account, world = worked(path)
    killed(account)
    fill(disk)
    again, _ = worked(path, 3, world)
    assert again.ledger.fault
    assert again.totals.busy_ns > account.totals.busy_ns
    (disk / "filler").unlink()
    world.run(1.0, {"7": 0.5})
    again.push(world.snapshot())
    again.ledger.close()
    assert pipeline(path).totals == again.totals


@pytest.mark.parametrize("restart", [False, True])
def test_a_job_that_ended_while_the_disk_was_full(disk, restart):
    """What was dropped from the account while nothing could be written does not come back from the disk."""
    path = disk / "ledger.db"
    account, world = worked(path)
    fill(disk)
    if restart:
        account.ledger.close()
        account = pipeline(path)
    account.linger_ns = 2 * NS_PER_S
    world.end("7")
    for _ in range(5):
        world.run(1.0, {"8": 0.5})
        account.push(world.snapshot())
    assert account.ledger.fault
    (disk / "filler").unlink()
    world.run(1.0, {"8": 0.5})
    account.push(world.snapshot())
    assert account.totals.jobs.keys() == {"n1/8"}
    account.ledger.close()
    assert pipeline(path).totals.jobs.keys() == {"n1/8"}


def test_disk_that_turns_read_only(disk, caplog):
    """The file system is remounted read-only under the ledger, and writable again."""
    path = disk / "ledger.db"
    account, world = worked(path)
    account.ledger.close()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with caplog.at_level(logging.INFO):
        account, world = worked(path, 3, world)
        assert account.ledger.fault
        assert len(caplog.records) == 1, caplog.text
        assert account.totals.node
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@pytest.mark.parametrize("place", ["/dev/null/state/ledger.db", "/proc/1/ledger.db"])
def test_directory_that_cannot_be_written(place, caplog):
    """No directory to write to: totals are kept in memory, and the one line names it and the flag."""
    account, _ = worked(Path(place), 3)
    assert account.totals.node
    assert "--path.state" in account.ledger.fault
    assert len(caplog.records) == 1
    account.ledger.close()


def test_in_memory(tmp_path, monkeypatch):
    """Without a path nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    account, _ = worked(None)
    assert account.totals.node
    assert not account.ledger.fault
    assert not list(tmp_path.iterdir())


# --- one daemon at a time, one transaction at a time -----------------------------------------------------------


def test_one_keeper(path):
    """A second one is refused with one line that names the file and the flag; after the first it may."""
    first = Ledger(path)
    with pytest.raises(LedgerBusyError, match=r"another jobwatt keeps this ledger.*--path\.state"):
        Ledger(path)
    first.close()
    Ledger(path).close()


def test_taken_in_between(path, monkeypatch):
    """Another one came between the look and the lock: refused likewise, and nothing is left open."""
    first = Ledger(path)
    monkeypatch.setattr(ledger_module, "_refuse_busy", lambda _: None)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(LedgerBusyError):
        Ledger(path)
    assert os.listdir("/proc/self/fd") == before
    first.close()


_WRITER = """
import sys
from pathlib import Path
from test_ledger import pipeline
from world import World
account, world = pipeline(Path(sys.argv[1])), World()
world.start("7", gpus=[0]); world.start("8", gpus=[1])
world.t_ns += int(sys.argv[2])
for count in range(10**6):
    world.run(1.0, {"7": 0.5, "8": 0.25})
    totals = account.push(world.snapshot())
    print(totals.busy_ns, flush=True)
"""


def test_killed_at_any_moment(path):
    """kill -9 while it commits: what is there again is whole, and no older than what was acknowledged."""
    root = Path(__file__).resolve().parents[1]
    env = {**os.environ, "PYTHONPATH": f"{root}/exporter:{root}/tests"}
    rng = random.Random(11)
    for life in range(4):
        argv = [sys.executable, "-c", _WRITER, str(path), str(life * 10**14)]
        writer = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)
        first = writer.stdout.readline()
        assert first
        time.sleep(rng.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        lines = writer.communicate()[0].split("\n")
        acknowledged = int((lines[-2:-1] or [first])[0])
        again = pipeline(path)
        assert again.totals.busy_ns >= acknowledged
        sums = dict.fromkeys(again.totals.node, 0)
        for job in again.totals.jobs.values():
            for domain, uj in job.energy_uj.items():
                sums[domain] += uj
        for (_, domain), uj in again.totals.owners.items():
            sums[domain] += uj
        assert sums == again.totals.node
        again.ledger.close()
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()


def test_commit_is_whole_or_not_at_all(path):
    """A commit that fails half-way leaves the former state: jobs, totals and cursors of one moment."""
    account, world = worked(path)
    before = account.totals
    account.ledger._db.execute("CREATE TRIGGER no BEFORE INSERT ON state WHEN NEW.name = 'cursor' "
                               "BEGIN SELECT RAISE(ABORT, 'no'); END")  # fmt: skip
    world.run(1.0, {"7": 0.5})
    account.push(world.snapshot())
    assert "cannot commit" in account.ledger.fault
    killed(account)
    assert pipeline(path).totals == before


def test_after_a_commit_that_failed(path):
    """It is counted once, and the next one that can writes everything."""
    account, world = worked(path)
    account.ledger._db.execute("CREATE TRIGGER no BEFORE INSERT ON state BEGIN SELECT RAISE(ABORT, 'no'); END")  # fmt: skip
    for errors in (1, 2):
        world.run(1.0, {"7": 0.5})
        account.push(world.snapshot())
        assert account.ledger.errors == errors
    account.ledger._db.execute("DROP TRIGGER no")
    world.run(1.0, {"7": 0.5})
    account.push(world.snapshot())
    assert (account.ledger.fault, account.ledger.errors) == ("", 2)
    killed(account)
    assert pipeline(path).totals == account.totals


def test_damage_that_cannot_be_moved_aside(path, monkeypatch, caplog):
    """That is said, totals are kept in memory, and the next commit writes over what could not be read."""
    account, world = worked(path)
    account.ledger.close()
    damage(path, "a row of another kind")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    again = pipeline(path)
    assert "cannot begin a new ledger" in again.ledger.fault
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    world.run(1.0, {"7": 0.5})
    again.push(world.snapshot())
    assert again.ledger.fault == ""
    again.ledger.close()
    assert pipeline(path).totals == again.totals


@pytest.mark.parametrize("clean", [True, False])
def test_after_a_reboot(path, clean):
    """Totals go on after a clean stop only; no job and no cursor of the former boot is left."""
    account, _ = worked(path)
    if clean:
        account.ledger.close()
    else:
        killed(account)
    again = pipeline(path, "another")
    assert again.totals.node == (account.totals.node if clean else {})
    assert not again.totals.jobs
    assert not again._cursors


def test_clean_holds_once(path):
    """A clean stop counts for the next boot only: a later unclean one begins anew."""
    account, world = worked(path)
    account.ledger.close()
    again, _ = worked(path, 2, world)
    killed(again)
    assert not pipeline(path, "another").totals.node


def test_the_ledger_is_not_for_everybody(tmp_path):
    """It names users and their jobs: no other user of the node may read it."""
    state = tmp_path / "lib" / "state"
    ledger = Ledger(state / "ledger.db")
    ledger.restore("boot")
    ledger.commit(Book())
    modes = {path.name: path.stat().st_mode & 0o007 for path in state.iterdir()}
    ledger.close()
    assert modes
    assert set(modes.values()) == {0}
    assert state.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize(
    ("euid", "uid", "mode", "taken"),
    [
        (0, 0, 0o750, True),
        (0, 0, 0o755, True),
        (0, 0, 0o777, False),
        (0, 0, 0o1777, True),  # the kernel follows no link of another user there
        (0, 1, 0o750, False),
        (0, 54321, 0o1777, False),
        (54321, 54321, 0o750, True),
        (54321, 0, 0o755, True),
        (54321, 1, 0o750, False),
    ],
)
def test_a_directory_of_strangers(tmp_path, monkeypatch, euid, uid, mode, taken):
    """Where another user could have us write through a link nothing is written, and owner and mode are said."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    os.chown(state, uid, -1)
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    ledger = Ledger(state / "ledger.db")
    ledger.restore("boot")
    ledger.commit(Book())
    ledger.close()
    assert (ledger.fault == "", bool(list(state.iterdir()))) == (taken, taken)
    assert taken or f"cannot write (it is of uid {uid}, mode {mode:04o})" in ledger.fault


def test_a_second_daemon_of_another_user(tmp_path):
    """Root's beside that of the daemon's user: it is told that there is one, and begins nothing without a ledger."""
    state = tmp_path / "state"
    first = Ledger(state / "ledger.db")
    os.chown(state, 54321, -1)
    with pytest.raises(LedgerBusyError, match="another jobwatt keeps this ledger"):
        Ledger(state / "ledger.db")
    first.close()
