"""The folder of one run of the demo: gone when it ends, and by the next run where it was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "jobwatt-demo-"
_LOCK = "lock"


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
