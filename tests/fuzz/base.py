"""
What a fuzz target is, and what all of them hold a parser to.

A target takes bytes and returns, or raises what its parser says that it raises. All else is a find:
another exception, a broken promise (``Broken``), a time above ``SLOW_S`` or memory above ``FAT_BYTES``.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parents[1] / "data"
SEPARATOR = b"\x1e"  # between the parts of an input for a parser that takes several

SLOW_S = 2.0  # CPU time of one input; the slowest that are well take a twentieth of it
FAT_BYTES = 64 << 20  # by which one input may raise the process's peak
INT64 = 1 << 63  # what SQLite, the page's readers and others can hold


class Broken(AssertionError):  # noqa: N818  what a parser did, not what we could not do
    """A parser gave something that it promises never to give."""


@dataclass(frozen=True, slots=True)
class Target:
    """
    One parser.

    Attributes:
        allowed: what the parser may raise.
        share: how many inputs it gets, in parts of the whole.
        json: inputs are JSON, and are mutated as trees as well.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    allowed: tuple[type[BaseException], ...] = ()
    max_len: int = 4096
    share: float = 1.0
    json: bool = False

    def feed(self, data: bytes) -> None:
        """Run one input; raises for a find."""
        try:
            self.run(data)
        except self.allowed as err:
            hold(len(str(err)) < 1 << 16, f"a message of {len(str(err))} characters")


TARGETS: dict[str, Target] = {}


def target(
    name: str,
    seeds: Callable[[], list[bytes]] | list[bytes],
    *allowed: type[BaseException],
    max_len: int = 4096,
    share: float = 1.0,
    json: bool = False,
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register a function as a target."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        given = seeds if callable(seeds) else lambda: list(seeds)
        TARGETS[name] = Target(name, run, given, allowed, max_len, share, json)
        return run

    return register


# --- inputs ----------------------------------------------------------------------------------------


def files(*patterns: str, most: int = 16 << 10) -> Callable[[], list[bytes]]:
    """Seeds from tests/data."""

    def read() -> list[bytes]:
        found = sorted(path for pattern in patterns for path in DATA.glob(pattern))
        assert found, patterns
        return [path.read_bytes()[:most] for path in found]

    return read


def parts(data: bytes, count: int) -> list[bytes]:
    """The parts of an input, ``b""`` for those that it lacks."""
    found = data.split(SEPARATOR, count - 1)
    return found + [b""] * (count - len(found))


def joined(*texts: str | bytes) -> bytes:
    """An input of several parts."""
    return SEPARATOR.join(t.encode() if isinstance(t, str) else t for t in texts)


def escaped(data: bytes) -> str:
    """Text as the operating system gives it: undecodable bytes as surrogates."""
    return data.decode("utf-8", "surrogateescape")


# --- a place for files ----------------------------------------------------------------------------

_place: list[Path] = []
_kept: list[tempfile.TemporaryDirectory[str]] = []


def use_place(path: Path) -> None:
    """Put files there from now on."""
    _place[:] = [path]


def place() -> Path:
    """A directory of this process's own, in memory where there is such a file system."""
    if not _place:
        shm = "/dev/shm"
        _kept.append(
            tempfile.TemporaryDirectory(prefix="fuzz-", dir=shm if Path(shm).is_dir() else None)
        )
        use_place(Path(_kept[-1].name))
    return _place[0]


def put(name: str, data: bytes | str) -> Path:
    """A file with this content, its mode 0600."""
    path = place() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(0o600)
    return path


# --- promises -------------------------------------------------------------------------------------


def hold(kept: object, what: str) -> None:
    """Raise Broken unless the promise was kept."""
    if not kept:
        raise Broken(what)


def shown(text: str, limit: int = 256) -> None:
    """Fit for a label and a log: valid UTF-8, no control characters, of bounded length."""
    hold(isinstance(text, str), f"{text!r:.40} is no text")
    hold(text.isprintable(), f"{text!r:.80} holds a control character")
    hold(len(text) <= limit, f"{len(text)} characters instead of {limit}")
    text.encode()


def line(text: object, limit: int = 1000) -> None:
    """One line for a person."""
    said = str(text)
    hold("\n" not in said and "\r" not in said, f"more than one line: {said!r:.200}")
    hold(len(said) <= limit, f"a line of {len(said)} characters: {said:.100}")


def count(value: int | None, least: int = 0, most: int = INT64 - 1) -> None:
    """A whole number that everybody downstream can hold; None is unknown."""
    hold(value is None or (isinstance(value, int) and least <= value <= most), f"{value!r:.60}")


def figure(value: float | None, least: float = 0.0, most: float = 1e30) -> None:
    """A finite number within bounds; None is unknown."""
    if value is not None:
        hold(math.isfinite(value) and least <= value <= most, f"{value!r:.60}")
