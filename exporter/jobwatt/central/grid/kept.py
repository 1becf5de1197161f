"""
The last figures on disk, so that a restart without the network still has them.

What is read back is checked as if a stranger had written it, and counts only for a source that still
means the same. Whether it is stale is for its own time to say.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from .answers import mapping
from .intensity import GridError, Intensity, checked, number

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .settings import GridConfig

_VERSION = 1
_LARGEST = 1 << 20  # bytes; ten sources take 2 KiB


def save(path: Path, config: GridConfig, figures: Mapping[str, Intensity]) -> None:
    """Write the figures of polled sources: all of them or, after a crash, what was there before."""
    entries = [
        {
            "name": source.name,
            "zone": config.zone,
            "scope": source.scope,
            "figure": source.figure,
            "grams_per_kwh": figures[source.name].grams_per_kwh,
            "t_s": figures[source.name].t_s,
            "estimated": figures[source.name].estimated,
        }
        for source in config.sources
        if source.kind != "table" and source.name in figures
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(
            missing_ok=True
        )  # of a process that was killed; or a link, to be written through
        with fresh.open("x", encoding="utf-8") as file:
            json.dump({"version": _VERSION, "figures": entries}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


def load(path: Path, config: GridConfig, now_s: float) -> dict[str, Intensity]:
    """
    Return what was saved, by source; nothing where there is no such file.

    GridError where the file cannot be read or is none of ours.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        saved = mapping(json.loads(text))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, GridError) as err:
        reason = getattr(err, "strerror", None) or "not what jobwatt writes"
        raise GridError("cache", f"{path}: {reason}") from err
    wanted = {(s.name, config.zone, s.scope, s.figure) for s in config.sources if s.kind != "table"}
    entries = saved.get("figures") if saved.get("version") == _VERSION else None
    found = {}
    for entry in entries if isinstance(entries, list) else []:
        with contextlib.suppress(GridError):
            name, figure = _figure(mapping(entry), wanted, now_s)
            found[name] = figure
    return found


def _figure(
    entry: Mapping[str, Any], wanted: set[tuple[str, str, str, str]], now_s: float
) -> tuple[str, Intensity]:
    key = tuple(str(entry.get(part)) for part in ("name", "zone", "scope", "figure"))
    if key not in wanted:
        raise GridError("mismatch", "of a source that means something else now")
    estimated = entry.get("estimated") is True
    t_s = number(entry.get("t_s"))
    return key[0], checked(entry.get("grams_per_kwh"), t_s, now_s, estimated=estimated)
