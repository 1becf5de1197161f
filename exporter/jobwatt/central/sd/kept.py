"""
The file that Prometheus reads: written whole or not at all.

Its modification time is that of the last answer that was believed, whether or not there was anything new:
Prometheus shows it as ``prometheus_sd_file_mtime_seconds``, and reads a file anew only where more than
that has changed (discovery/file/file.go takes no notice of a chmod event).
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .bounded import AskError

if TYPE_CHECKING:
    from .targets import Group, Groups

_LARGEST = 64 << 20
_ABANDONED_S = 600.0  # no write takes so long


def encoded(groups: Groups) -> bytes:
    """The groups as file_sd and http_sd take them, one a line."""
    lines = [json.dumps(group, ensure_ascii=False) for group in groups.values()]
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode() if lines else b"[]\n"


def load(path: Path) -> tuple[Groups, float | None]:
    """
    What is there, by node, and its modification time; nothing and None where there is no file.

    AskError("file") where it cannot be read or is not a list of targets by node: somebody else's file is
    not written over.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
            mtime_s = os.fstat(file.fileno()).st_mtime
        groups = _groups(json.loads(text)) if text.strip() else {}
    except FileNotFoundError:
        return {}, None
    except OSError as err:
        raise AskError("file", f"{path}: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise AskError(
            "file", f"{path} is not what jobwatt sd writes; take it away, or give another --out"
        ) from err
    return groups, mtime_s


def _groups(said: object) -> Groups:
    if not isinstance(said, list):
        raise ValueError("no list")  # noqa: TRY004  what json raises, too
    return {group["labels"]["instance"]: group for group in map(_group, said)}


def _group(said: object) -> Group:
    """A group of ours; ValueError for anything else."""
    targets, labels = (
        (said.get("targets"), said.get("labels")) if isinstance(said, dict) else (0, 0)
    )
    if not isinstance(targets, list) or not isinstance(labels, dict) or "instance" not in labels:
        raise ValueError("no target group with an instance")
    texts = (*targets, *labels, *labels.values())
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise ValueError("not strings that are shown")
    return {"targets": targets, "labels": labels}


def save(path: Path, groups: Groups) -> bool:
    """
    Write the file if it would be another, and set its time; whether it was written.

    A reader sees the old file or the new one. AskError("unwritable") where that cannot be.
    """
    text = encoded(groups)
    try:
        path = Path(os.path.realpath(path))  # a link to it stays one
        path.parent.mkdir(parents=True, exist_ok=True)
        # somebody else's, such as root's of a first try: it is replaced by one of ours
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if path.read_bytes() == text:
                os.utime(path)
                return False
        _replace(path, text)
    except OSError as err:
        raise AskError(
            "unwritable", f"{path}: {err.strerror}; Prometheus keeps the targets it has"
        ) from err
    return True


def _replace(path: Path, text: bytes) -> None:
    _sweep(path)
    # not *.json: a pattern of file_sd_configs must not match it; and one for each writer
    fd, fresh = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # Prometheus is another user
            os.fsync(file.fileno())
        Path(fresh).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(fresh).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sweep(path: Path) -> None:
    """Remove what a writer left that was killed while it wrote."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()
