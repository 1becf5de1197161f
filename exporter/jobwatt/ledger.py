"""
The account on disk: SQLite, so that nothing is lost or counted twice over a restart or a kill.

Totals and the cursor (the last reading of every counter) are committed in one transaction before
they are shown, so a page never shows what a restart could take back. WAL without an fsync per
commit survives the death of the process but not of the power: after an unclean boot every counter
begins at zero, because Prometheus corrects a counter that begins again but counts one that steps
back a little as its whole value once more.

A ledger that cannot be used never stops the measuring: a damaged or a newer file is set aside and a
new one begun, a full disk keeps totals in memory until it has room. All of SQL is in this file; bookrows.py says
what the rows hold.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, Any

from .bookrows import Book, book_of, cursor_of, devices_of, dumps, job_of, plain_totals
from .model import Device
from .record import decode, encode
from .totals import JobTotals, Totals, rebooted

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

MIGRATIONS = (
    """
    CREATE TABLE state (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE job (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    """,
    # rows may hold the wall's account from here on; a jobwatt that does not know it must not take them for damaged
    "",
)

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# SQLite's complaint of a damaged file may quote from it what is no text.
_FAULTS = (sqlite3.DatabaseError, UnicodeDecodeError)


class LedgerBusyError(RuntimeError):
    """Another daemon keeps this ledger."""


def is_kept(path: Path) -> bool:
    """Whether a daemon keeps the ledger in ``path`` now."""
    try:
        lock = os.open(path.with_suffix(".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _busy(path: Path) -> LedgerBusyError:
    return LedgerBusyError(
        f"{path}: another jobwatt keeps this ledger; stop it or give --path.state"
    )


def _refuse_busy(path: Path) -> None:
    """
    LedgerBusyError where a daemon keeps it, whoever that is: before all else, for a second daemon must
    not begin without a ledger where the first has one.
    """
    if is_kept(path):
        raise _busy(path)


def _refuse_strangers(folder: Path) -> None:
    """PermissionError for a directory in which another user could have us write through a link."""
    about = folder.stat()
    # in a sticky directory the kernel follows no link of another user (fs.protected_symlinks)
    open_to_all = about.st_mode & 0o002 and not about.st_mode & stat.S_ISVTX
    if about.st_uid not in (0, os.geteuid()) or open_to_all:
        raise PermissionError(
            errno.EPERM,
            f"it is of uid {about.st_uid}, mode {about.st_mode & 0o7777:04o}",
        )


class Ledger:
    """
    The node's ledger in ``path``; ``None`` keeps it in memory only.

    Attributes:
        fault: why totals do not reach the disk, "" while they do.
        errors: commits that failed since the start.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.fault = ""
        self.errors = 0
        self._db: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._anew = True  # nothing has been committed over this connection
        self._written: dict[str, JobTotals] = {}
        self._devices: dict[str, Device] = {}
        if path is not None:
            self._take(path)

    def restore(self, boot_id: str) -> Book:
        """
        What was committed last, as far as it still holds in this boot.

        After a reboot there is nothing to take deltas against and no job is left; totals go on only
        if the last daemon stopped in good order (see the module's text for why).
        """
        try:
            book, clean = self._read()
        except (
            sqlite3.DatabaseError, LookupError, TypeError, ValueError, AttributeError, RecursionError,
        ) as err:  # fmt: skip
            self._set_aside("damaged", str(err))
            return Book()
        if book.last is None or book.last.boot_id == boot_id:
            return book
        return Book(rebooted(book.totals) if clean else Totals(), learnt=book.learnt)

    def commit(self, book: Book) -> None:
        """Write everything in one transaction; a failure is noted in ``fault`` and tried again next time."""
        if self._db is None and not self._reopen():
            return
        try:
            self._write(book)
        except _FAULTS as err:
            self.errors += 1
            if getattr(err, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _DAMAGED:
                self._set_aside("damaged", str(err))
                return  # the next commit writes all of it
            self._fail(
                f"{self.path}: cannot commit ({err}); totals are kept in memory until this is mended"
            )
        else:
            self._works()

    def close(self) -> None:
        """Stop in good order, on disk: totals go on even if the machine reboots now."""
        if self._db is None:
            return
        with contextlib.suppress(*_FAULTS):
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("INSERT OR REPLACE INTO state VALUES ('clean', '1')")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        self._db = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- opening -------------------------------------------------------------------------------

    def _take(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            _refuse_busy(path)
            _refuse_strangers(path.parent)
            self._lock = os.open(
                path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # taken in between
            if self._lock is not None:
                os.close(self._lock)
            raise _busy(path) from None
        except OSError as err:
            self._fail(
                f"{path.parent}: cannot write ({err.strerror}); make it this user's own or give another --path.state; totals end with the process"
            )
            return
        self._reopen()

    def _reopen(self) -> bool:
        if self.path is None or self._lock is None:
            return False
        try:
            self._db = self._connect(self.path)
        except (OSError, *_FAULTS) as err:
            if isinstance(
                err, (OSError, sqlite3.OperationalError)
            ):  # full, read-only: not the file's fault
                self._fail(
                    f"{self.path}: cannot open ({err}); totals are kept in memory until this is mended"
                )
                return False
            self._set_aside("damaged", str(err))
        return self._db is not None

    def _connect(self, path: Path) -> sqlite3.Connection:
        # it names users and their jobs: for its owner and group only; SQLite's other files follow it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > len(MIGRATIONS):
                db.close()
                return self._renewed(
                    "newer", f"its version is {version}, this jobwatt knows {len(MIGRATIONS)}"
                )
            for number, script in enumerate(MIGRATIONS[version:], version + 1):
                db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")
        except _FAULTS:
            db.close()
            raise
        self._anew, self._written, self._devices = True, {}, {}
        return db

    def _renewed(self, why: str, detail: str) -> sqlite3.Connection:
        """Move the file aside, with its WAL, and begin a new one."""
        assert self.path is not None  # noqa: S101  (only called with a file)
        aside = self.path.with_name(f"{self.path.name}.{why}-{int(time.time())}")
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(f"{aside}{suffix}")
        log.error(
            "ledger %s is %s (%s); kept as %s, a new one is begun", self.path, why, detail, aside
        )
        self.errors += 1
        return self._connect(self.path)

    def _set_aside(self, why: str, detail: str) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        try:
            self._db = self._renewed(why, detail)
        except (OSError, *_FAULTS) as err:
            self._fail(f"{self.path}: cannot begin a new ledger ({err}); totals are kept in memory")

    # --- reading and writing ---------------------------------------------------------------------

    def _read(self) -> tuple[Book, bool]:
        state = {
            name: json.loads(body) for name, body in self._execute("SELECT name, body FROM state")
        }
        jobs = {
            key: job_of(json.loads(body))
            for key, body in self._execute("SELECT key, body FROM job")
        }
        if "cursor" not in state:
            return Book(), False
        devices = {plain["id"]: decode(Device, plain) for plain in state["devices"]}
        return book_of(state["totals"], state["cursor"], devices, jobs), "clean" in state

    def _write(self, book: Book) -> None:
        assert self._db is not None  # noqa: S101  (commit has seen to it)
        jobs, devices = book.totals.jobs, devices_of(book)
        changed = [
            (key, dumps(encode(job)))
            for key, job in jobs.items()
            if self._written.get(key) is not job
        ]
        gone = [(key,) for key in self._written if key not in jobs]
        state = [("totals", dumps(plain_totals(book.totals))), ("cursor", dumps(cursor_of(book)))]
        if devices != self._devices:
            state.append(("devices", dumps([encode(device) for device in devices.values()])))
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if self._anew:  # every row is written now: what else is there is of a former process
                self._db.execute("DELETE FROM job")
                self._db.execute("DELETE FROM state WHERE name = 'clean'")
            self._db.executemany("INSERT OR REPLACE INTO job VALUES (?, ?)", changed)
            self._db.executemany("DELETE FROM job WHERE key = ?", gone)
            self._db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state)
            self._db.execute("COMMIT")
        except _FAULTS:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._anew, self._written, self._devices = False, dict(jobs), devices

    def _execute(self, sql: str) -> list[Any]:
        return [] if self._db is None else self._db.execute(sql).fetchall()

    # --- faults ----------------------------------------------------------------------------------

    def _fail(self, message: str) -> None:
        if message != self.fault:
            log.error("ledger: %s", message)
        self.fault = message

    def _works(self) -> None:
        if self.fault:
            log.info("ledger: %s: totals reach the disk again", self.path)
        self.fault = ""
