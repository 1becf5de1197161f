"""
The made history, kept between runs: blocks of Prometheus, the nodes' ledgers, and of when they are.

A history is written beside its place and renamed: one that was broken off is never taken for whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .lifetime import hold

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

DAY_S = 86_400
MAX_GAP_S = 2 * DAY_S  # a longer one is as much work as a new history
SPARE_DAYS = 2  # a history may grow so much longer than was asked for
KEEP_S = 3600  # a shorter extension is not kept: each leaves blocks that every start has to open


@dataclass(frozen=True, slots=True)
class Meta:
    """What a history is: made by what (``key``), from which seed, and its first and last second."""

    key: str
    seed: int
    began_s: int
    until_s: int

    def usable(self, key: str, days: float, now_s: int) -> bool:
        """Whether it can be extended to now rather than be made anew."""
        gap_s, age_s = now_s - self.until_s, now_s - self.began_s
        return self.key == key and 0 <= gap_s < MAX_GAP_S and age_s < (days + SPARE_DAYS) * DAY_S


class History:
    """A history in a folder. ``meta`` is None while it is not whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocks, self.ledgers = folder / "blocks", folder / "ledgers"

    @property
    def meta(self) -> Meta | None:
        """What it says of itself; None where it cannot be read."""
        try:
            return Meta(**json.loads((self.folder / "meta.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def make(self) -> None:
        """Make the empty folders."""
        self.blocks.mkdir(parents=True)
        self.ledgers.mkdir()

    def finish(self, meta: Meta) -> None:
        """Say that it is whole."""
        (self.folder / "meta.json").write_text(json.dumps(asdict(meta)), encoding="utf-8")


class Cache:
    """The demo's folder. OSError, naming --cache, where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = History(folder / "history")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as err:
            raise OSError(
                f"{folder}: cannot be written ({err.strerror}); name another folder with --cache"
            ) from err

    @contextmanager
    def locked(self, stop: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
        """
        Keep other demos out meanwhile; what an earlier one has broken off is removed.

        Where another one has it, that is said and waited for; StoppedError on ``stop``.
        """
        with (self.folder / "lock").open("w") as lock:
            hold(lock, stop, lambda: say("another demo makes the history; waiting for it"))
            for left in self.folder.glob(".making-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    @contextmanager
    def draft(self) -> Iterator[History]:
        """A history beside the kept one, removed at the end unless it was kept."""
        folder = Path(tempfile.mkdtemp(prefix=".making-", dir=self.folder))
        try:
            yield History(folder / "history")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, draft: History) -> None:
        """Put a draft in the place of the kept one."""
        old = draft.folder.with_name("old")
        with suppress(FileNotFoundError):
            self.history.folder.rename(old)
        draft.folder.rename(self.history.folder)
        shutil.rmtree(old, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder; files that never change are linked where the file system can."""
    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)


def link(source: str, target: str) -> str:
    """Link a file, or copy it where it cannot be linked."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def key(sources: Iterable[Path], more: object) -> str:
    """A sum over files and settings: another one means that what was kept is out of date."""
    total = hashlib.sha256(json.dumps(more, sort_keys=True, default=str).encode())
    for path in sorted(sources):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:24]
