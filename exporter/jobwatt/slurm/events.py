"""
Wakes the sampling loop when a job begins or ends: inotify on cgroup and hook directories.

An event only says "look now"; what is there is found by listing. So an event lost (queue
overflow, no watch left) costs promptness, never truth.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from inotify_simple import INotify, flags

from jobwatt.model import Failure
from jobwatt.slurm.layout import is_jobs_business

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SOURCE = "events"
_DIRS = flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.ONLYDIR
_HOOKS = flags.CLOSE_WRITE | flags.MOVED_TO | flags.ONLYDIR
_FILE_DONE = flags.CLOSE_WRITE | flags.MOVED_TO
_MEND = {
    errno.ENOSPC: "raise fs.inotify.max_user_watches",
    errno.EMFILE: "raise fs.inotify.max_user_instances",
    errno.EACCES: "let jobwatt read the directory",
}


class Events:
    """
    Directory events of the jobs.

    Args:
        hooks: directories into which the prolog and epilog hooks put their files; a file counts
            when it is written and closed, or renamed into place; names with a leading dot never.
    """

    def __init__(self, hooks: Iterable[Path] = ()) -> None:
        self._hooks = frozenset(hooks)
        self._watches: dict[Path, tuple[int, int]] = {}  # -> (watch, inode)
        self._said: set[int] = set()
        self._inotify: INotify | None = None
        self._error: OSError | None = None
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as err:
            self._error = err

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with an event; -1 where there is none."""
        return self._inotify.fileno() if self._inotify else -1

    def sync(self, dirs: set[Path]) -> Failure | None:
        """
        Watch exactly ``dirs`` and the hook directories; one that is gone is passed over.

        Call it before the listing that looks for jobs: what comes after is an event, what came
        before is listed. A directory made anew under its old name is watched anew.

        Returns:
            Failure: what cannot be watched and how to mend it; told once for each kind.
        """
        if self._inotify is None:
            return self._say(self._error, "this host") if self._error else None
        wanted = dirs | self._hooks
        for path in self._watches.keys() - wanted:
            self._unwatch(path)
        failure = None
        for path in wanted:
            try:
                self._watch(path)
            except OSError as err:
                self._unwatch(path)
                if err.errno not in (errno.ENOENT, errno.ENOTDIR):
                    failure = self._say(err, str(path)) or failure
        return failure

    def drain(self) -> bool:
        """Take what has happened, without waiting; True where a job may have begun or ended."""
        if self._inotify is None:
            return False
        hooks = {self._watches[p][0] for p in self._hooks if p in self._watches}
        seen = False
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                seen = True
            elif event.wd in hooks and event.mask & _FILE_DONE:
                seen = seen or not event.name.startswith(".")
            elif event.mask & flags.ISDIR:
                seen = seen or is_jobs_business(event.name)
            elif event.mask & flags.IGNORED:
                self._drop(event.wd)
        return seen

    def close(self) -> None:
        """Let go of the watches and the descriptor."""
        if self._inotify:
            self._inotify.close()
        self._inotify = None
        self._watches.clear()

    def _watch(self, path: Path) -> None:
        inode = os.stat(path).st_ino  # noqa: PTH116  follows as inotify does
        known = self._watches.get(path)
        if known and known[1] == inode:
            return
        if known:  # kernfs says nothing when a watched cgroup is removed; the watch lives on
            self._unwatch(path)
        mask = _HOOKS if path in self._hooks else _DIRS
        if self._inotify:
            self._watches[path] = (self._inotify.add_watch(path, mask), inode)

    def _unwatch(self, path: Path) -> None:
        watch = self._watches.pop(path, None)
        if watch and self._inotify:
            try:
                self._inotify.rm_watch(watch[0])
            except OSError:  # EINVAL: it went with its directory
                return

    def _drop(self, watch: int) -> None:
        """Forget a watch that the kernel has taken back."""
        self._watches = {p: w for p, w in self._watches.items() if w[0] != watch}

    def _say(self, err: OSError, where: str) -> Failure | None:
        code = err.errno or 0
        if code in self._said:
            return None
        self._said.add(code)
        mend = _MEND.get(code, "see inotify(7)")
        message = (
            f"cannot watch {where} for jobs: {err.strerror}; {mend}; short jobs may be seen late"
        )
        return Failure(SOURCE, errno.errorcode.get(code, "io").lower(), message)
