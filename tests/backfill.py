"""Past data in a Prometheus: OpenMetrics text with timestamps becomes blocks of its database."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prom import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path


def line(name: str, labels: Mapping[str, object], value: float, at: float) -> str:
    """One sample."""
    pairs = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {value!r} {at:.3f}\n"


def blocks(text: Path, data: Path) -> None:
    """Turn an OpenMetrics file into blocks; in long ones, since each block reads the whole file."""
    argv = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
    done = subprocess.run(
        [*argv, "--max-block-duration=162h", str(text), str(data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def past(folder: Path, lines: Iterable[str]) -> Iterator[Prometheus]:
    """A Prometheus that scrapes nothing and remembers just this."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "past.om"
    with text.open("w", encoding="utf-8") as out:
        out.writelines(lines)
        out.write("# EOF\n")
    blocks(text, folder / "data")
    text.unlink()
    with Prometheus(folder, [], retention="100y") as prometheus:
        yield prometheus
