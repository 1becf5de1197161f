"""
What jobwatt costs a cluster: ``make bench-scale``.

One real Prometheus, with all of jobwatt's rules, scrapes 12, 100 and 1000 simulated nodes of eight GPUs, five jobs each
(scalenodes.py: every page is made by jobwatt's own pipeline and encoder). Jobs come and go 12 times as fast as 25,000
a day on 1000 nodes would, so that ten minutes see the jobs of two hours, which is what Prometheus keeps in memory;
rates of series are given per hour of a real cluster, that is divided by 12. Then a simulated year of one node's
ledger. ``--save`` writes tests/bench/results/scale.json, from which capacity.py makes the tables of docs/capacity.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "exporter")]

from scaleledger import year  # noqa: E402  the path is set above
from scalenodes import Load, Node  # noqa: E402
from scalerun import Plan, run  # noqa: E402

from backfill import blocks  # noqa: E402
from jobwatt.webformats import compress  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = HERE / "results/scale.json"
SIZES = (12, 100, 1000)
FACTOR = 12.0
_DENSITY_S, _DENSITY_STEP_S, _DENSITY_NODES = 7200, 60, 3
_SHAPES = {"1": (1,), "4": (4,), "8": (8,)}


def series_of(page: bytes, of: bytes = b"") -> int:
    """Series of a page; ``of``: only those that have this in them."""
    return sum(not line.startswith(b"#") and of in line for line in page.splitlines())


def pages() -> dict[str, Any]:
    """Series and bytes of pages: an idle node's, and what each job adds."""
    idle = _settled(())
    full = _settled(None)
    return {
        "idle_node_series": series_of(idle),
        "job_series_by_gpus": {
            gpus: series_of(_settled(slots), b"jobid=") for gpus, slots in _SHAPES.items()
        },
        "busy_node_series": series_of(full),
        "busy_node_bytes": len(full),
        "busy_node_gzip_bytes": len(compress(full)),
        "idle_node_bytes": len(idle),
        "idle_node_gzip_bytes": len(compress(idle)),
    }


def _settled(slots: tuple[int, ...] | None) -> bytes:
    """A node's page after some minutes; None for the usual jobs."""
    load = Load(1) if slots is None else Load(1, slots=slots)
    node = Node(0, load, 1_800_000_000)
    for at_s in range(0, 300, 30):
        node.advance(1_800_000_000 + at_s)
    return node.board.metrics(True, frozenset())


def density() -> dict[str, Any]:
    """
    Bytes of a sample and of a series in Prometheus's blocks: two hours of some nodes, a sample a minute, at which
    every gauge of the simulation moves each time (at 30 s every other sample would repeat the one before).
    """
    began = 1_800_000_000 // 7200 * 7200
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), 0
        with (folder / "past.om").open("w", encoding="utf-8") as out:
            for text in _two_hours(began):
                out.write(text)
                count += 1
            out.write("# EOF\n")
        blocks(folder / "past.om", folder / "data")
        (block,) = [path for path in (folder / "data").iterdir() if (path / "meta.json").exists()]
        stats = json.loads((block / "meta.json").read_text())["stats"]
        chunks = sum(path.stat().st_size for path in (block / "chunks").iterdir())
        index = (block / "index").stat().st_size
    return {
        "samples": stats["numSamples"],
        "series": stats["numSeries"],
        "bytes_a_sample": round(chunks / stats["numSamples"], 3),
        "index_bytes_a_series": round(index / stats["numSeries"], 1),
    }


def _two_hours(began: int) -> Iterator[str]:
    load = Load(_DENSITY_NODES)
    for number in range(load.nodes):
        node = Node(number, load, began)
        target = f'cluster="c",instance="{node.name}",job="jobwatt"'
        for at_s in range(began + 60, began + _DENSITY_S, _DENSITY_STEP_S):
            node.advance(at_s)
            for line in node.board.metrics(False, frozenset()).decode().splitlines():
                if line.startswith("#"):
                    continue
                series, _, value = line.rpartition(" ")
                metric, _, labels = series.rstrip("}").partition("{")
                yield f"{metric}{{{target}{',' if labels else ''}{labels}}} {value} {at_s}\n"


def machine() -> dict[str, Any]:
    """What it ran on; nothing that names it."""
    said = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=False)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(), "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(), "prometheus": (said.stdout + said.stderr).split()[2],
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def lines(result: dict[str, Any]) -> Iterator[str]:
    """One run, for a person."""
    yield f"{result['nodes']} nodes, {result['jobs']} jobs, every {result['scrape_s']} s, {result['measured_s']} s measured"
    for key, value in result.items():
        if isinstance(value, (int, float)):
            yield f"  {key:24}{value:>16,.4g}" if abs(value) < 100 else f"  {key:24}{value:>16,.0f}"
    for name, group in result["groups"].items():
        yield f"  {name:24}" + "  ".join(f"{key} {value:g}" for key, value in group.items())
    for name, cpu_s in result["group_cpu_s"].items():
        yield f"  {name:24}{cpu_s:9.3f} CPU s for one evaluation"
    for name, cpu_s, seconds in result["queries"]["heaviest"]:
        yield f"  {cpu_s:8.3f} CPU s {seconds:8.3f} s  {name}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--nodes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--scrape", type=int, default=30, help="seconds between two scrapes")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--no-past", action="store_true", help="rules find nothing to look back on")
    parser.add_argument("--no-ledger", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS.name}")
    args = parser.parse_args(argv)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": []}
    kept |= {"machine": machine(), "page": pages(), "density": density()}
    print(json.dumps({key: kept[key] for key in ("page", "density")}, indent=1), flush=True)
    if not args.no_ledger:
        kept["ledger"] = year()
        print(json.dumps(kept["ledger"], indent=1), flush=True)
    for nodes in args.nodes:
        plan = Plan(Load(nodes, FACTOR), args.scrape, 120, 60 * args.minutes - 120, past=not args.no_past)  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            result = run(plan, Path(folder))
        print("\n".join(lines(result)), flush=True)
        same = [one for one in kept["runs"] if one["nodes"] != nodes]
        kept["runs"] = sorted([*same, result], key=lambda one: one["nodes"])
        if args.save:
            save(kept)
    if args.save:
        save(kept)
    return 0


def save(kept: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
