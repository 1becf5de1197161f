"""
Makes the tables of docs/capacity.md from what was measured (results/scale.json, by ``make bench-scale``):
``python tests/bench/capacity.py`` writes them anew. A figure that was not measured at that size is in *italics*.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs/capacity.md"
RESULTS = HERE / "results/scale.json"
SIZES = (12, 100, 1000, 10_000)

# The cardinality budget, series on a page: a change that exceeds it is a change of the budget.
NODE_SERIES, GPU_SERIES = 100, 40  # of a node, and more for each of its GPUs
JOB_SERIES, JOB_GPU_SERIES = 25, 10  # of a job, and more for each GPU that it holds
CEEMS_4_GPU_JOB = 80  # about, as CEEMS's own documentation has it

DAY_S, KEPT_DAYS = 86_400, 30
MARK = re.compile(r"<!-- table (\w+): .*? -->\n.*?<!-- end of table -->", re.DOTALL)


def node_budget(gpus: int) -> int:
    return NODE_SERIES + GPU_SERIES * gpus


def job_budget(gpus: int) -> int:
    return JOB_SERIES + JOB_GPU_SERIES * gpus


# --- figures ---------------------------------------------------------------------------------------


def run_of(results: dict[str, Any], nodes: int) -> tuple[dict[str, Any], float]:
    """The run at this size and 1, or the largest one and how many times as large this size is."""
    runs = {run["nodes"]: run for run in results["runs"]}
    if nodes in runs:
        return runs[nodes], 1.0
    largest = max(runs)
    return runs[largest], nodes / largest


def day_bytes(run: dict[str, Any], density: dict[str, Any]) -> float:
    """
    Bytes that a day adds to the blocks: its samples, and the index entries of the series that were there in it.
    Recorded series are taken to be as dense as scraped ones.
    """
    series = run["head_series"] + 22 * run["series_created_an_hour"]
    samples = (run["scraped_series"] / run["scrape_s"] + run["recorded_series"] / 60) * DAY_S
    return float(samples * density["bytes_a_sample"] + series * density["index_bytes_a_series"])


def rules_cpu_s(run: dict[str, Any]) -> float:
    """CPU seconds a minute for all groups at their own intervals."""
    groups = run["groups"]
    return float(sum(cpu * 60 / groups[name]["interval_s"] for name, cpu in run["group_cpu_s"].items()))  # fmt: skip


_ROWS: tuple[tuple[str, Callable[[dict[str, Any], dict[str, Any]], float], str], ...] = (
    ("series scraped", lambda run, _: run["scraped_series"], "count"),
    ("series recorded by the rules", lambda run, _: run["recorded_series"], "count"),
    ("series in memory, with 2 h of churn", lambda run, _: run["head_series"], "count"),
    ("series created an hour", lambda run, _: run["series_created_an_hour"], "count"),
    ("samples a second", lambda run, _: run["scraped_series"] / run["scrape_s"] + run["recorded_series"] / 60, "count"),
    ("Prometheus's memory (resident)", lambda run, _: run["resident_bytes"], "bytes"),
    ("disk: a day", day_bytes, "bytes"),
    (f"disk: {KEPT_DAYS} days", lambda run, density: KEPT_DAYS * day_bytes(run, density), "bytes"),
    ("cores for scraping", lambda run, _: run["scraping_cores"], "cores"),
    ("cores for the rules", lambda run, _: rules_cpu_s(run) / 60, "cores"),
)  # fmt: skip
_COMPUTED = {"disk: a day", f"disk: {KEPT_DAYS} days", "samples a second"}


def text_of(value: float, kind: str) -> str:
    """A figure with three digits or less."""
    if kind == "bytes":
        value, unit = next(
            (value / size, unit) for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")) if value >= size
        )  # fmt: skip
        return f"{_digits(value)} {unit}"
    return _digits(value)


def _digits(value: float) -> str:
    if value >= 1000:
        length = len(str(round(value))) - 3
        return f"{round(value, -length):,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"


# --- tables ----------------------------------------------------------------------------------------


def clusters(results: dict[str, Any]) -> Iterator[str]:
    """Series, memory, disk and CPU by size of the cluster."""
    yield "| nodes | " + " | ".join(f"{size:,}" for size in SIZES) + " |"
    yield "|---|" + "---:|" * len(SIZES)
    yield "| jobs running | " + " | ".join(f"{5 * size:,}" for size in SIZES) + " |"
    for name, of, kind in _ROWS:
        cells = []
        for size in SIZES:
            run, times = run_of(results, size)
            cell = text_of(of(run, results["density"]) * times, kind)
            cells.append(cell if times == 1 and name not in _COMPUTED else f"*{cell}*")
        yield f"| {name} | " + " | ".join(cells) + " |"


def budget(results: dict[str, Any]) -> Iterator[str]:
    """What a page may have, and has."""
    page = results["page"]
    yield "| on a node's page | series | budget |"
    yield "|---|---:|---:|"
    yield f"| the node, 8 GPUs, without a job | {page['idle_node_series']} | {NODE_SERIES} + {GPU_SERIES} a GPU: {node_budget(8)} |"
    for gpus, series in page["job_series_by_gpus"].items():
        limit = job_budget(int(gpus))
        more = f" (CEEMS: about {CEEMS_4_GPU_JOB})" if gpus == "4" else ""
        yield f"| each job with {gpus} GPU{'s' * (gpus != '1')} | {series}{more} | {JOB_SERIES} + {JOB_GPU_SERIES} a GPU: {limit} |"
    yield f"| the node with five jobs | {page['busy_node_series']} | |"
    yield from _recorded(results["runs"])
    yield ""
    yield (
        f"That page has {text_of(page['busy_node_bytes'], 'bytes')}; {text_of(page['busy_node_gzip_bytes'], 'bytes')} go over the "
        f"network (gzip, as Prometheus asks for it)."
    )


def _recorded(runs: list[dict[str, Any]]) -> Iterator[str]:
    """What the rules add, in the smallest run: nothing there is late for want of a core."""
    run = runs[0]
    jobs, nodes = run["recorded_of_jobs"], run["recorded_of_nodes"]
    yield f"| recorded by the rules: a job, on average | {jobs / run['jobs']:.0f} | |"
    yield f"| recorded by the rules: a node | {nodes / run['nodes']:.0f} | |"
    rest = run["recorded_series"] - jobs - nodes
    yield f"| recorded by the rules: users, labs, the cluster, settings ({run['nodes']} nodes) | {rest:.0f} | |"
    yield f"| of all that is recorded there, kept for years ([storage.md](storage.md)) | {run['kept_series']:.0f} | |"


def groups(results: dict[str, Any]) -> Iterator[str]:
    """CPU seconds of one evaluation of each group."""
    runs = results["runs"]
    yield "| group | every | " + " | ".join(f"{run['nodes']:,} nodes" for run in runs) + " |"
    yield "|---|---|" + "---:|" * len(runs)
    for name, first in runs[0]["groups"].items():
        cells = [_digits(run["group_cpu_s"][name]) for run in runs]
        yield f"| {name} | {first['interval_s'] / 60:g} m | " + " | ".join(cells) + " |"
    cells = [_digits(rules_cpu_s(run)) for run in runs]
    yield "| all, a minute | | " + " | ".join(cells) + " |"


def queries(results: dict[str, Any]) -> Iterator[str]:
    """The dashboards' heaviest queries at the largest size."""
    run = max(results["runs"], key=lambda run: run["nodes"])
    found = run["queries"]
    yield f"| the heaviest of {found['count']} queries, {run['nodes']:,} nodes, a range of {found['range_s'] // 3600} h | CPU s |"
    yield "|---|---:|"
    for name, cpu_s, _ in found["heaviest"]:
        yield f"| {name.rpartition(':')[0]} | {cpu_s:.2f} |"
    yield f"| the median | {found['median_cpu_s']:.3f} |"
    yield f"| all together | {found['all_cpu_s']:.1f} |"


def ledger(results: dict[str, Any]) -> Iterator[str]:
    """A year of a node's ledger."""
    found = results["ledger"]
    yield "| a year of one node | jobs | rows at the end | file and WAL at most | commit: at first | at the end | restart |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for key, name in (
        ("usual", "20,000 jobs a year on 12 nodes"),
        ("many", "a hundred times as many"),
    ):
        one = found[key]
        yield (
            f"| {name} | {one['jobs']:,} | {sum(one['rows'].values())} | {text_of(one['most_bytes'], 'bytes')} | "
            f"{one['commit_ms_first']:.2f} ms | {one['commit_ms_last']:.2f} ms | {one['restart_ms']:.0f} ms |"
        )


def machine(results: dict[str, Any]) -> Iterator[str]:
    """On what, and when."""
    at = results["machine"]
    measured = max(run["measured_s"] for run in results["runs"])
    yield (
        f"Measured on {at['date']} with Prometheus {at['prometheus'].partition('+')[0]} on {at['cores']} cores and "
        f"{at['memory_gib']} GiB, which other work shared; {measured // 60} minutes each."
    )


TABLES = {
    "clusters": clusters,
    "budget": budget,
    "groups": groups,
    "queries": queries,
    "ledger": ledger,
    "machine": machine,
}


def written(text: str, results: dict[str, Any]) -> str:
    """The page with its tables made anew."""

    def table(found: re.Match[str]) -> str:
        head = found[0].partition("\n")[0]
        return "\n".join([head, *TABLES[found[1]](results), "<!-- end of table -->"])

    return MARK.sub(table, text)


def results() -> dict[str, Any]:
    """What was measured last."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), results()))
    print(f"{PAGE.name}: {len(MARK.findall(PAGE.read_text()))} tables", file=sys.stderr)
