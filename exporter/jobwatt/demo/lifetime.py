"""
How long a run of the demo lasts and what it leaves: nothing.

The first signal ends it in order, the second at once; its folder goes with it, or with the next run where it was
killed; a lock that another run holds is waited for only as long as nobody ends this one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .children import Children

PREFIX = "jobwatt-demo-"
_LOCK = "lock"
_AGAIN_S = 0.2


class StoppedError(RuntimeError):
    """The demo is to end."""


# --- signals ---------------------------------------------------------------------------------------


@contextmanager
def stopping(at_once: Callable[[], None]) -> Iterator[threading.Event]:
    """The event that is set by the first signal; at the second ``at_once`` is called and the process ends."""
    stop = threading.Event()

    def handle(number: int, _frame: Any) -> None:
        if stop.is_set():
            at_once()
            os._exit(128 + number)
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class Left:
    """
    What a second signal has to see to, as far as it has come up.

    Attributes:
        container: starts the removal of what lives outside the children, and does not wait for it.
    """

    children: Children | None = None
    folder: Path | None = None
    container: Callable[[], None] | None = None

    def end_at_once(self) -> None:
        """Kill and remove."""
        if self.children:
            self.children.kill()
        if self.container:
            self.container()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


# --- the folder ------------------------------------------------------------------------------------


@contextmanager
def run_dir() -> Iterator[Path]:
    """Make the folder, only for this user's eyes, and remove it at the end; meanwhile temporary files are made there."""
    tidy(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "logs").mkdir()
            yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def tidy(base: Path) -> None:
    """Remove what runs that were killed have left behind: folders of this user whose lock nobody holds."""
    for folder in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


# --- locks between runs ----------------------------------------------------------------------------


def hold(lock: IO[str], stop: threading.Event, waiting: Callable[[], None]) -> None:
    """
    Lock an open file until it is closed; StoppedError where ``stop`` is set meanwhile.

    ``waiting`` is called, once, where another run holds it.
    """
    told = False
    while not _held(lock):
        if not told:
            waiting()
            told = True
        if stop.wait(_AGAIN_S):
            raise StoppedError


def _held(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
