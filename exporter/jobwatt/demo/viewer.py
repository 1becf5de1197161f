"""The project's own drawing of its dashboards, for where there is no Grafana: built once, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from . import tools
from .children import answer
from .lifetime import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .children import Children

_LEAST_NODE = 20
_UNUSED_S = 86_400.0  # one that was used later may still be served from
_NOT_SOURCES = {"node_modules", "out"}


class NoViewerError(RuntimeError):
    """Why the viewer cannot be had, and what mends it; one line."""


def built(sources: Path, cache: Path) -> Path | None:
    """The built files of these sources, where they are kept already; from now on they count as used."""
    place = _place(sources, cache)
    if not (place / "out" / "index.html").is_file():
        return None
    os.utime(place)
    return place / "out"


def build(
    sources: Path, cache: Path, children: Children, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Build the viewer and return its files; NoViewerError, or ChildError where npm fails; StoppedError at the end."""
    npm, node = tools.find(tools.NPM), tools.find(tools.NODE)
    lacking = tools.missing(tools.NODE, tools.NPM)
    if lacking:
        raise NoViewerError(lacking[0])
    if not (sources / "package.json").is_file():
        raise NoViewerError(f"the viewer's sources are not in {sources}; install jobwatt again")
    if (major := _major(node)) < _LEAST_NODE:
        raise NoViewerError(
            f"node {major} is too old for the dashboards' viewer; get {_LEAST_NODE} or later"
        )
    with (cache / "viewer.lock").open("w") as lock:  # two demos, one viewer
        hold(lock, children.closing, lambda: say("another demo builds it; waiting for it"))
        return built(sources, cache) or _built_anew(npm, sources, cache, children)


def _built_anew(npm: str, sources: Path, cache: Path, children: Children) -> Path:
    """Build from a copy of the sources, beside the place of what comes out; those that nobody uses go."""
    place = _place(sources, cache)
    for left in (place, *cache.glob(".viewer-*"), *_unused(cache)):
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".viewer-", dir=cache))
    try:
        for path in _sources(sources):
            target = work / path.relative_to(sources)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        _npm(npm, work, children)
        place.mkdir()
        (work / "out").rename(place / "out")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place / "out"


def _unused(cache: Path) -> Iterator[Path]:
    since = time.time() - _UNUSED_S
    for place in cache.glob("viewer-*"):
        with suppress(OSError):
            if place.stat().st_mtime < since:
                yield place


def _npm(npm: str, work: Path, children: Children) -> None:
    env = {
        **os.environ,
        "npm_config_cache": str(work / ".npm"),  # 170 MB that need not stay
        "npm_config_update_notifier": "false",
    }
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts"]
    children.run("npm ci", [npm, "ci", *quiet], cwd=work, env=env, limit_s=900)
    children.run("npm run build", [npm, "run", "build"], cwd=work, env=env, limit_s=300)
    if not (work / "out" / "index.html").is_file():
        raise NoViewerError(
            "npm run build made no out/index.html; run the demo again with an empty cache"
        )


def _major(node: str) -> int:
    found = re.match(r"v(\d+)", answer([node, "--version"], 20.0) or "")
    return int(found[1]) if found else 0


def _sources(sources: Path) -> list[Path]:
    return sorted(
        path
        for path in sources.rglob("*")
        if path.is_file() and not _NOT_SOURCES & set(path.relative_to(sources).parts)
    )


def _place(sources: Path, cache: Path) -> Path:
    total = hashlib.sha256()
    for path in _sources(sources):
        total.update(f"{path.relative_to(sources)}\0".encode() + path.read_bytes())
    return cache / f"viewer-{total.hexdigest()[:16]}"
