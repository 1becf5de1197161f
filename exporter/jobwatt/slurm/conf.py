"""
slurm.conf as far as a few of its settings are looked at, with the files that it includes.

The grammar is slurm.conf(5)'s: ``Name=value`` or ``Name="a value"``, several on a line; names in any case; ``#``
begins a comment unless a backslash stands before it, and a backslash at a line's end goes on with the next; ``Include``
names a file, relative to the one that includes it. What is not understood is told, so that nobody takes a setting
for absent that may be there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# A cluster of 10 000 nodes that are named one by one has some 2 MB.
_MOST_BYTES = 1 << 23
_MOST_FILES = 64
_COMMENT = re.compile(r"(?<!\\)#.*")
_INCLUDE = re.compile(r"\s*include\s+(\S+)\s*", re.IGNORECASE)
_PAIR = re.compile(r"\s*([\w.]+)\s*[-+*/]?=\s*(?:\"([^\"]*)\"|([^\s\"]+))(?:\s+|$)")


@dataclass(slots=True)
class Settings:
    """
    What slurm.conf says.

    Attributes:
        values: of each setting, by its name in small letters, in the order of the text.
        odd: what was not understood or could not be read, each in a few words.
    """

    values: dict[str, list[str]] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)

    def get(self, name: str) -> list[str]:
        """Return every value of a setting; none where it is not there."""
        return self.values.get(name.lower(), [])


def settings(path: Path) -> Settings:
    """Read slurm.conf and what it includes, up to 64 files; OSError where it cannot be read itself."""
    found = Settings()
    _read(path, _text(path), found, {path})
    return found


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES)
    return data.decode("utf-8", "replace").replace("\\\n", "")


def _read(path: Path, text: str, found: Settings, seen: set[Path]) -> None:
    if len(text) >= _MOST_BYTES:
        found.odd.append(f"{path} is too long")
    for raw in text.splitlines():
        line = _COMMENT.sub("", raw)
        include = _INCLUDE.fullmatch(line)
        if include:
            _follow(path.parent / include[1].strip('"'), found, seen)
        else:
            _take(line, found)


def _follow(path: Path, found: Settings, seen: set[Path]) -> None:
    if path in seen or len(seen) >= _MOST_FILES:  # in a circle, or without an end
        found.odd.append(f"Include {path} is not followed")
        return
    seen.add(path)
    try:
        text = _text(path)
    except (OSError, ValueError) as err:
        found.odd.append(f"Include {path} cannot be read: {getattr(err, 'strerror', None) or err}")
        return
    _read(path, text, found, seen)


def _take(line: str, found: Settings) -> None:
    at = 0
    while pair := _PAIR.match(line, at):
        value = pair[2] if pair[2] is not None else pair[3]
        found.values.setdefault(pair[1].lower(), []).append(value.strip())
        at = pair.end()
    if line[at:].strip():
        found.odd.append(f"{line[at:].strip()[:40]!r} is not understood")
