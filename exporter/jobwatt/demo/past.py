"""The history for one run: from the cache where it can be, made where it must be, up to now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import cache as caches
from .cache import DAY_S, History, Meta, copy_tree
from .making import Span
from .simulation import GRID_S
from .simulation import now_s as now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .cache import Cache
    from .making import Maker
    from .terminal import Terminal

SHORT_S = GRID_S  # a longer gap would be seen in a rate over five minutes


@dataclass(frozen=True, slots=True)
class Wanted:
    """What history there is to be; ``names``: what rules record of it, by ``records``."""

    key: str
    seed: int
    days: float
    fresh: bool
    names: Sequence[str]
    records: Mapping[str, str]


def first_s(now_s: int, days: float) -> int:
    """Where a history of so many days begins, on the grid."""
    return now_s - int(days * DAY_S) // GRID_S * GRID_S


def prepare(
    wanted: Wanted, cache: Cache, maker: Maker, folder: Path, terminal: Terminal
) -> tuple[History, Meta]:
    """Make the history of a run in ``folder``; the cache keeps what took long."""
    ours = History(folder)
    with cache.locked(maker.stop, terminal.line):
        meta = _kept(wanted, cache, maker, terminal)
        copy_tree(cache.history.blocks, ours.blocks)
        _copy_ledgers(cache.history, ours)
    now_s = now()
    if now_s - meta.until_s > SHORT_S:
        meta = _extended(ours, meta, now_s, wanted, maker)
    return ours, meta


def _kept(wanted: Wanted, cache: Cache, maker: Maker, terminal: Terminal) -> Meta:
    """See to it that the cache holds a history that ends not long ago."""
    now_s = now()
    meta = cache.history.meta
    if wanted.fresh or meta is None or not meta.usable(wanted.key, wanted.days, now_s):
        terminal.line(f"making {wanted.days:g} days of history; the next start will take seconds")
        began_s = first_s(now_s, wanted.days)
        with cache.draft() as draft:
            draft.make()
            empty = Meta(wanted.key, wanted.seed, began_s, began_s)
            meta = _extended(draft, empty, now_s, wanted, maker)
            cache.keep(draft)
    elif now_s - meta.until_s >= caches.KEEP_S:
        hours = (now_s - meta.until_s) / 3600
        terminal.line(f"a history is kept; it goes on for the {hours:.0f} h since then")
        with cache.draft() as draft:
            copy_tree(cache.history.blocks, draft.blocks)
            _copy_ledgers(cache.history, draft)
            meta = _extended(draft, meta, now_s, wanted, maker)
            cache.keep(draft)
    return meta


def _extended(history: History, meta: Meta, now_s: int, wanted: Wanted, maker: Maker) -> Meta:
    span = Span(meta.began_s, meta.until_s, now_s)
    maker.extend(history, span, wanted.names, wanted.records)
    longer = Meta(meta.key, meta.seed, meta.began_s, now_s)
    history.finish(longer)
    return longer


def _copy_ledgers(source: History, target: History) -> None:
    """Not linked: they are written to."""
    target.ledgers.mkdir(parents=True, exist_ok=True)
    for path in source.ledgers.iterdir():
        (target.ledgers / path.name).write_bytes(path.read_bytes())
