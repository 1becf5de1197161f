"""What several test files look at and is dear to make: once, however many pytest processes there are."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import systemdvm

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("dpkg-buildpackage", "dh", "git")


def missing() -> list[str]:
    """What a release needs and this machine has not."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def need(*tools: str, root: bool = True) -> None:
    """Skip the test where it cannot be run: only root makes a root of its own."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if root and os.geteuid():
        missing.append("root")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def run(*argv: str | Path, **more: object) -> str:
    """What a command prints; AssertionError with all of it where it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def _once(temporary: Path, name: str) -> Iterator[tuple[Path, bool]]:
    """A directory that all pytest processes share, and whether it is for the caller to fill."""
    shared = temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary
    out, done = shared / name, shared / f"{name}.done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            yield out, False
            return
        shutil.rmtree(out, ignore_errors=True)
        yield out, True
        done.touch()


def release(temporary: Path) -> Path:
    """
    What `make release` makes of this checkout.

    Args:
        temporary: pytest's base directory of this process; those of pytest-xdist have one parent.
    """
    with _once(temporary, "release") as (out, mine):
        if mine:
            done = subprocess.run(
                [sys.executable, ROOT / "packaging/release.py", "--dirty", out],
                capture_output=True, text=True, check=False,
                env={**os.environ, "TMPDIR": str(out.parent)},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    return out


def dead_links(doc: Path) -> list[str]:
    """Links of a package's pages to files that are not in the package; what is told of the sources aside."""
    pages = sorted(doc.rglob("*.md"))
    assert len(pages) > 50
    return [
        f"{page.relative_to(doc)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if "://" not in link and not (page.parent / link).exists() and "preview/" not in link
    ]


def bare(temporary: Path) -> Path:
    """A Debian that has nothing but Python, systemd and udev (systemdvm.debian): to be copied, not changed."""
    with _once(temporary, "bare") as (out, mine):
        if mine:
            systemdvm.debian(out)
    return out
