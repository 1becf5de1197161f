"""The daemon's side of the hooks: the records that Prolog and Epilog left, read and tidied up."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobwatt.model import Failure
from jobwatt.slurm.text import clean, cpus_on_node, is_jobid, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

MAX_RECORD = 65_536
MAX_WALL_S = 1e11  # the year 5138
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")  # what slurm/hooks.py writes down
SWEEP_DAYS = 60  # longer than any job may run on the clusters met; a lost epilog is tidied up
_SETTLED_NS = 50_000_000  # a directory's time stamp is that of the last tick (4 ms at HZ=250)


@dataclass(frozen=True, slots=True)
class HookRecord:
    """
    What slurmd said of a job as it began or ended here. Strings are fit to be shown.

    Attributes:
        event: ``prolog`` or ``epilog``.
        gpus: SLURM_JOB_GPUS, right on every node; "" where Slurm set none.
        cuda_visible: CUDA_VISIBLE_DEVICES, global in a Prolog (shards, MIG UUIDs).
        cpus: reserved on this node; 0 where unknown.
        start_s, end_s: Unix times as Slurm says (``end_s`` in a prolog: when the limit strikes);
            0 where it does not (before 23.02).
        exit_code: SLURM_JOB_EXIT_CODE2, ``CODE:SIGNAL``; a cancelled job has ``0:0`` too.
        t_ns, wall_s: CLOCK_BOOTTIME and Unix time of the hook itself.
    """

    event: str
    jobid: str
    node: str
    user: str = ""
    uid: int | None = None
    account: str = ""
    partition: str = ""
    qos: str = ""
    name: str = ""
    sluid: str = ""
    array_job_id: str = ""
    array_task_id: str = ""
    gpus: str = ""
    cuda_visible: str = ""
    cpus: int = 0
    exit_code: str = ""
    start_s: int = 0
    end_s: int = 0
    t_ns: int = 0
    wall_s: float = 0.0
    boot_id: str = ""


def parse(raw: Mapping[str, object]) -> HookRecord:
    """A record from the variables a hook stored. Raises ValueError or KeyError for anything odd."""
    env = {name: value for name, value in raw.items() if isinstance(value, str)}
    node, nodelist = env["node"], env.get("SLURM_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    t_ns, wall_s = raw["t_ns"], raw["wall_s"]
    if not isinstance(t_ns, int) or not isinstance(wall_s, (int, float)):
        raise ValueError("t_ns or wall_s is not a number")  # noqa: TRY004  one fault, one type
    if not (0 <= t_ns < 1 << 63 and 0 <= wall_s < MAX_WALL_S and is_jobid(env["SLURM_JOB_ID"])):
        raise ValueError("t_ns, wall_s or SLURM_JOB_ID is out of range")
    uid = env.get("SLURM_JOB_UID", "")
    return HookRecord(
        event=env["event"],
        jobid=env["SLURM_JOB_ID"],
        node=node,
        user=clean(env.get("SLURM_JOB_USER", "")),
        uid=number(uid) if uid.isascii() and uid.isdigit() and len(uid) <= 10 else None,
        account=clean(env.get("SLURM_JOB_ACCOUNT", "")),
        partition=clean(env.get("SLURM_JOB_PARTITION", "")),
        qos=clean(env.get("SLURM_JOB_QOS", "")),
        name=clean(env.get("SLURM_JOB_NAME", "")),
        sluid=clean(env.get("SLURM_JOB_SLUID", "")),
        array_job_id=clean(env.get("SLURM_ARRAY_JOB_ID", "")),
        array_task_id=clean(env.get("SLURM_ARRAY_TASK_ID", "")),
        gpus=env.get("SLURM_JOB_GPUS", ""),
        cuda_visible=env.get("CUDA_VISIBLE_DEVICES", ""),
        cpus=cpus_on_node(env.get("SLURM_JOB_CPUS_PER_NODE", ""), nodelist, node),
        exit_code=clean(env.get("SLURM_JOB_EXIT_CODE2", ""), 32),
        start_s=number(env.get("SLURM_JOB_START_TIME", "")),
        end_s=number(env.get("SLURM_JOB_END_TIME", "")),
        t_ns=t_ns,
        wall_s=float(wall_s),
        boot_id=env.get("boot_id", ""),
    )


class HookDir:
    """
    ``<state>/hooks`` as the daemon reads it.

    Believed: regular files that belong to root or to the daemon's own user, in a directory that
    belongs to one of them and that neither group nor others may write to (a group that may write
    could rename one job's record away). Anything else is left alone, with one line in the log.
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
        self._known: dict[str, tuple[int, int]] = {}  # name -> (inode, mtime_ns)

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
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not self._believe(os.fstat(directory)):
                return []
            self._complete = True
            listed = os.listdir(directory)  # noqa: PTH208  of the directory that was believed
            names = [name for name in listed if not name.startswith(".")]
            self._known = {name: self._known[name] for name in names if name in self._known}
            found = [self._read(name, directory) for name in names if name.endswith(".json")]
        finally:
            os.close(directory)
        return sorted((one for one in found if one is not None), key=lambda one: one.t_ns)

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
        except OSError as err:  # gone again, a link or a socket; else it is to be tried again
            self._complete &= err.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO)
            return None
        try:
            about = os.fstat(file)
            same = self._known.get(name) == (about.st_ino, about.st_mtime_ns)
            if same or not _believable(about):
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
            why = clean(f"{name} is damaged and ignored: {err}", 300)
            log.warning("hook record %s/%s", self.path, why)
            return None
        if name != f"{record.jobid}.{record.node}.{record.event}.json":
            why = clean(f"{name} speaks of another job: ignored", 300)
            log.warning("hook record %s/%s", self.path, why)
            return None
        age_s = time.time() - record.wall_s
        if not self._is_of_this_boot(record) or age_s > SWEEP_DAYS * 86_400:
            self._remove(name)
            return None
        return record

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
        path = self.path / name
        try:
            about = path.lstat()
            if self._known.get(name) == (about.st_ino, about.st_mtime_ns):
                path.unlink()
        except FileNotFoundError:
            return
        except OSError as err:  # root's directory, an unprivileged daemon: it stays until reboot
            log.debug("%s/%s stays: %s", self.path, name, err.strerror)

    def _failure(self, reason: str, what: str) -> Failure:
        mend = f"chown root {self.path} && chmod 0750 {self.path}"
        return Failure("hooks", reason, f"records in {self.path} not read: {what}; mend: {mend}")

    def _trouble(self, failure: Failure | None) -> None:
        if failure is not None and failure != self.failure:
            log.warning("%s", failure.message)
        self.failure = failure


def _believable(about: os.stat_result) -> bool:
    return (
        stat.S_ISREG(about.st_mode)
        and about.st_uid in (0, os.geteuid())
        and not about.st_mode & 0o022
        and about.st_size < MAX_RECORD
    )
