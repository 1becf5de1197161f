"""
`jobwatt alerts render`: a site's rules and Alertmanager's files, written whole or not at all.

What is to be written is worked out first, laid beside its place, and then put there file by file. A
file that was not written here, or was changed since, is not overwritten: ``.rendered.json`` keeps the
sums of what was. What an earlier version wrote and this one does not is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import alertmanager, rules, site

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

KEPT = ".rendered.json"
_NO_FILE = "no file"


class RenderError(ValueError):
    """Why nothing was written, in one line."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a site's files came to. Paths are relative to the directory."""

    written: tuple[str, ...]
    removed: tuple[str, ...]


def texts(one: site.Site) -> dict[str, str]:
    """Every file of a site, path -> text."""
    return {
        **{f"rules/{name}": text for name, text in rules.texts(one).items()},
        **{f"alertmanager/{name}": text for name, text in alertmanager.texts(one).items()},
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags to its parser."""
    parser.add_argument(
        "--site", required=True, type=Path, metavar="FILE", help="the site's settings"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="where rules/ and alertmanager/ are written",
    )
    parser.add_argument(
        "--force", action="store_true", help="also overwrite files that were changed by hand"
    )


def write(files: Mapping[str, str], out: Path, *, force: bool = False) -> Rendered:
    """Write ``files`` below ``out``; RenderError, with nothing written, where that would harm."""
    before = _kept(out)
    gone = sorted(name for name in before.keys() - files.keys() if (out / name).exists())
    _refuse_foreign(files, gone, out, before, force=force)
    out.mkdir(parents=True, exist_ok=True)
    laid = Path(tempfile.mkdtemp(prefix=".rendering-", dir=out))
    try:
        sums = json.dumps({name: _sum(text.encode()) for name, text in files.items()}, indent=1)
        for name, text in {**files, KEPT: f"{sums}\n"}.items():
            _lay(laid / name, text)
        for name in (*files, KEPT):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (laid / name).replace(out / name)
    finally:
        shutil.rmtree(laid)
    for name in gone:
        (out / name).unlink()
    return Rendered(tuple(files), tuple(gone))


def _lay(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _refuse_foreign(
    files: Mapping[str, str],
    gone: Iterable[str],
    out: Path,
    before: Mapping[str, str],
    *,
    force: bool,
) -> None:
    """RenderError that names what is there and was not written here."""
    wanted = {name: _sum(text.encode()) for name, text in files.items()}
    foreign = [
        str(out / name)
        for name in (*files, *gone)
        if (there := _sum_of(out / name)) and there not in {wanted.get(name), before.get(name)}
        if not force or there == _NO_FILE
    ]
    if foreign:
        raise RenderError(
            f"nothing written: {', '.join(foreign)} {'is' if len(foreign) == 1 else 'are'} not as `jobwatt alerts "
            f"render` left it; move it away, or give --force to overwrite it"
        )


def _kept(out: Path) -> dict[str, str]:
    """Sums of what was written last, by name; only names within ``out`` count."""
    try:
        found = json.loads((out / KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    ours = ("rules/", "alertmanager/")
    return {n: str(s) for n, s in found.items() if n.startswith(ours) and ".." not in Path(n).parts}


def _sum_of(path: Path) -> str:
    """A file's sum; "" where there is none, and what is no file has none that fits."""
    if path.is_file():
        return _sum(path.read_bytes())
    return _NO_FILE if path.exists() or path.is_symlink() else ""


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
