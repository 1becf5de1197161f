"""The daemon's side of the hooks: the records that Prolog and Epilog left, read and tidied up."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jobwatt.model import Failure
from jobwatt.slurm.hookrecord import parse
from jobwatt.slurm.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobwatt.slurm.hookrecord import HookRecord

log = logging.getLogger(__name__)

MAX_RECORD = 131_072  # 21 variables of 4 kB each, as slurm/hooks.py writes them
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")  # what slurm/hooks.py writes down
MAX_NEW = 2000  # files first looked at in one poll, 0.1 s: what a long stop has left takes several
MAX_SAID = 100  # lines in the log on damaged records
ASIDE_S = (
    3600.0  # a hook that was cut off while it wrote has left its draft; one takes 0.2 s at most
)
SWEEP_DAYS = 60  # longer than any job may run on the clusters met; a lost epilog is tidied up
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# gone again, a link, a socket, or closed to us: no second look will find it otherwise
_LASTING = (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES)
_SETTLED_NS = 50_000_000  # a directory's time stamp is that of the last tick (4 ms at HZ=250)


class HookDir:
    """
    ``<state>/hooks`` as the daemon reads it.

    Believed: regular files under one name that belong to root or to the daemon's own user, in a
    directory that belongs to one of them and that neither group nor others may write to (a group
    that may write could rename one job's record away). Anything else is left alone, with one line in the log.
    A record of another boot, or of ``SWEEP_DAYS`` ago, is not told; where no boot's id is known,
    one of the future is not. Files are removed only with ``forget``, for the daemon alone: who
    merely reads must not take its records away.

    Attributes:
        path: the directory to watch (IN_MOVED_TO) to hear of a job at once.
        failure: why hooks cannot be read now, or None.
    """

    def __init__(self, state: Path, *, forget: bool = False, boot_file: Path = BOOT_FILE) -> None:
        self.path = state / "hooks"
        self.failure: Failure | None = None
        self._forget, self._boot_file = forget, boot_file
        self._boot_id = ""
        self._complete = False  # the last listing was believed and every record of it read
        self._mtime_ns = -1
        self._seen: set[str] = set()  # looked at, whatever came of it
        self._known: dict[str, tuple[int, int]] = {}  # of these, what was read: (inode, mtime_ns)
        self._doubted: set[str] = set()
        self._said = 0

    def poll(self) -> list[HookRecord]:
        """Records that are new or changed since the last call, oldest first. Never raises."""
        try:
            about = self.path.stat()
        except FileNotFoundError:  # no hook has run yet, or hooks are not in use
            self._trouble(None)
            return []
        except OSError as err:
            self._trouble(self._failure("unreadable", f"{err.strerror}"))
            return []
        if about.st_mtime_ns == self._mtime_ns:
            return []
        settled = abs(time.time_ns() - about.st_mtime_ns) > _SETTLED_NS
        self._complete = False
        try:
            found = self._list()
        except OSError as err:
            self._trouble(self._failure("unreadable", f"{err.strerror}"))
            return []
        self._mtime_ns = about.st_mtime_ns if settled and self._complete else -1
        return found

    def forget(self, jobid: str, node: str, events: Sequence[str] = ("prolog", "epilog")) -> None:
        """
        Remove a job's records, once what they told is safe elsewhere. Never raises.

        Only those that were told: one written since, by a requeued job, stays.
        """
        for event in events:
            self._remove(f"{jobid}.{node}.{event}.json")

    def _list(self) -> list[HookRecord]:
        directory = os.open(self.path, _DIR_FLAGS)
        try:
            if not self._believe(os.fstat(directory)):
                return []
            self._complete = True
            listed = os.listdir(directory)  # noqa: PTH208  of the directory that was believed
            names = [name for name in listed if not name.startswith(".")]
            self._known = {name: self._known[name] for name in names if name in self._known}
            self._seen &= set(names)
            self._doubted &= set(names)
            self._seen.update(self._some_new(name for name in names if name.endswith(".json")))
            found = [self._read(name, directory) for name in sorted(self._seen)]
            if len(names) != len(listed) and self._forget:
                self._sweep([name for name in listed if name.startswith(".")], directory)
        finally:
            os.close(directory)
        return sorted((one for one in found if one is not None), key=lambda one: one.t_ns)

    def _some_new(self, names: Iterable[str]) -> list[str]:
        """As many new ones as one poll may take, a job's together: half of one would seem to run still."""
        new = sorted((name for name in names if name not in self._seen), key=_job)
        end = MAX_NEW
        while end < len(new) and _job(new[end]) == _job(new[end - 1]):
            end += 1
        self._complete &= end >= len(new)
        return new[:end]

    def _sweep(self, names: Iterable[str], directory: int) -> None:
        """Remove drafts that no hook will finish."""
        for name in names:
            with contextlib.suppress(OSError):
                about = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if name.endswith(".tmp") and time.time() - about.st_mtime > ASIDE_S:
                    os.unlink(name, dir_fd=directory)

    def _believe(self, about: os.stat_result) -> bool:
        # the state directory's owner is the daemon's user, also where root only looks (`doctor`)
        owners = (0, os.geteuid(), self.path.parent.stat().st_uid)
        ours = about.st_uid in owners and not about.st_mode & 0o022
        mode = f"{about.st_mode & 0o7777:04o}"
        self._trouble(
            None
            if ours
            else self._failure("permission", f"it belongs to uid {about.st_uid}, mode {mode}")
        )
        return ours

    def _read(self, name: str, directory: int) -> HookRecord | None:
        try:
            file = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
            )
        except OSError as err:
            self._complete &= err.errno in _LASTING
            return None
        try:
            about = os.fstat(file)
            if self._known.get(name) == (about.st_ino, about.st_mtime_ns):
                return None
            if not _believable(about):
                self._doubt(name, about)
                return None
            data = os.read(file, MAX_RECORD)
            self._known[name] = (about.st_ino, about.st_mtime_ns)
            return self._accept(name, data)
        except OSError:
            self._complete = False
            return None
        finally:
            os.close(file)

    def _accept(self, name: str, data: bytes) -> HookRecord | None:
        try:
            raw = json.loads(data)
            record = parse(raw)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            self._say(f"{name} is damaged and ignored: {err}")
            return None
        if name != f"{record.jobid}.{record.node}.{record.event}.json":
            self._say(f"{name} speaks of another job: ignored")
            return None
        age_s = time.time() - record.wall_s
        if not self._is_of_this_boot(record) or age_s > SWEEP_DAYS * 86_400:
            self._remove(name)
            return None
        return record

    def _doubt(self, name: str, about: os.stat_result) -> None:
        if name not in self._doubted:
            self._doubted.add(name)
            mode = f"{about.st_mode:06o}"
            what = f"uid {about.st_uid}, mode {mode}, {about.st_nlink} names, {about.st_size} bytes"
            self._say(f"{name} is not believed: {what}")

    def _say(self, what: str) -> None:
        self._said += 1
        if self._said <= MAX_SAID:
            log.warning("hook record %s/%s", self.path, clean(what, 300))
        if self._said == MAX_SAID:
            log.warning("no more is said of hook records that are damaged")

    def _is_of_this_boot(self, record: HookRecord) -> bool:
        boot = self._boot()
        if boot and record.boot_id:
            return record.boot_id == boot
        return record.t_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def _boot(self) -> str:
        if not self._boot_id:
            try:
                self._boot_id = self._boot_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as err:  # hidden from us: records tell by time
                log.debug("%s: %s", self._boot_file, err)
        return self._boot_id

    def _remove(self, name: str) -> None:
        if not self._forget:
            return
        try:
            directory = os.open(self.path, _DIR_FLAGS)
        except OSError:
            return
        try:
            about = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if self._known.get(name) == (about.st_ino, about.st_mtime_ns):
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return
        except OSError as err:  # root's directory, an unprivileged daemon: it stays until reboot
            log.debug("%s/%s stays: %s", self.path, name, err.strerror)
        finally:
            os.close(directory)

    def _failure(self, reason: str, what: str) -> Failure:
        mend = f"chown root {self.path} && chmod 0750 {self.path}"
        return Failure("hooks", reason, f"records in {self.path} not read: {what}; mend: {mend}")

    def _trouble(self, failure: Failure | None) -> None:
        if failure is not None and failure != self.failure:
            log.warning("%s", failure.message)
        self.failure = failure


def _job(name: str) -> str:
    """``JOBID.NODE`` of a record's name; a node's name may have dots."""
    return name.rsplit(".", 2)[0]


def _believable(about: os.stat_result) -> bool:
    return (
        stat.S_ISREG(about.st_mode)
        and about.st_nlink == 1  # a file of root's elsewhere, under a second name
        and about.st_uid in (0, os.geteuid())
        and not about.st_mode & 0o022
        and about.st_size < MAX_RECORD
    )
