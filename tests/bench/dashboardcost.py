"""
What the dashboards cost at scale: each query of each panel over recorded series, on a real Prometheus that holds
30 days of them for 1000 nodes of eight GPUs. ``make bench-dashboards``.

Only what the recording rules give is there (raw series of a job or a node are few, whatever the size of the
cluster). It is written as samples every five minutes, as dense as the subqueries read it; the rules record every
minute, so that a real Prometheus decodes up to five times as many. ``--step=60`` with fewer users shows by how
much that slows a query down.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "exporter")]

from backfill import blocks  # noqa: E402  the path is set above
from dashqueries import boards, filled, queries, times  # noqa: E402
from prom import Prometheus  # noqa: E402
from promqlcheck import Checker  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashqueries import Query

DAY = 86_400
RULES = HERE.parents[1] / "alerts/rules"
LABS = 25
STATES = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY")
USES = ("0 %", "1 to 24 %", "25 to 49 %", "50 to 74 %", "75 to 100 %")


@dataclass(frozen=True)
class Size:
    """A cluster and its past."""

    nodes: int
    users: int
    days: int
    step_s: int


def recorded() -> dict[str, str]:
    """Every recorded name and its expression."""
    return {
        rule["record"]: rule["expr"]
        for path in RULES.glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }


def needed(rules: dict[str, str]) -> dict[str, frozenset[str]]:
    """The recorded series that dashboards read over their range, and the labels of each."""
    import promql_parser

    used = {
        name
        for board in boards()
        for query in queries(board)
        for name in re.findall(r"jobwatt:[a-z0-9_:]+", query.expr)
        if name in rules and not name.startswith("jobwatt:threshold")
    }
    return {
        name: Checker(rules).labels(promql_parser.parse(rules[name])) or frozenset()
        for name in sorted(used)
    }


def series(name: str, labels: frozenset[str], size: Size) -> Iterator[str]:
    """The series of a recorded name, as text before the value."""
    values: dict[str, list[str]] = {"cluster": ["big"]}
    if "jobid" in labels:  # the fifty of the moment; a job is among them for a day or so
        for at in range(50):
            who = f'user="u{at}",account="lab{at % LABS}",partition="gpu"'
            yield f'{name}{{cluster="big",jobid="{at}",{who}}} '
        return
    values |= {
        "component": ["cpu", "dram", "gpu"],
        "state": list(STATES),
        "use": list(USES),
        "partition": ["a100", "h100", "v100", "interactive"],
        "instance": [f"node{at:04d}" for at in range(size.nodes)],
        "account": [f"lab{at}" for at in range(LABS)],
    }
    found = ['cluster="big"']
    for label in sorted(labels - {"cluster", "user"}):
        if label == "account" and "user" in labels:
            continue
        found = [f'{one},{label}="{value}"' for one in found for value in values[label]]
    if "user" in labels:
        lab = "account" in labels
        found = [
            f'{one},user="u{at}"' + (f',account="lab{at % LABS}"' if lab else "")
            for one in found
            for at in range(size.users)
        ]
    yield from (f"{name}{{{one}}} " for one in found)


def write(path: Path, names: dict[str, frozenset[str]], size: Size, to: int) -> tuple[int, int]:
    """The past as text; how many series and samples."""
    since = to - size.days * DAY
    stamps = range(since, to + 1, size.step_s)
    count = 0
    with path.open("w", encoding="utf-8", buffering=1 << 22) as out:
        for name, labels in names.items():
            gauge = 0.5 if name.endswith(":ratio") else 40.0
            for at, prefix in enumerate(series(name, labels, size)):
                count += 1
                out.writelines(
                    f"{prefix}{gauge + (at * 7 + stamp // 300) % 11:.1f} {stamp}\n"
                    for stamp in stamps
                )
        out.write("# EOF\n")
    return count, count * len(stamps)


def timed(prometheus: Prometheus, query: Query, size: Size, to: int) -> tuple[float, int]:
    """Seconds for one query as a panel sends it, and how many series it gives."""
    seconds = size.days * DAY
    step = max(seconds // 1000 // 60 * 60, 60)  # a panel of some thousand pixels
    values = times(seconds, step, to=to) | {
        "cluster": "big", "user": "u3", "account": "lab3", "instance": "node0003", "jobid": "3", "uuid": "x",
    }  # fmt: skip
    arguments = {"query": filled(query.expr, values)}
    arguments |= (
        {"time": str(to)} if query.instant else {"start": str(to - seconds), "end": str(to), "step": str(step)}
    )  # fmt: skip
    url = f"http://127.0.0.1:{prometheus.port}/api/v1/{'query' if query.instant else 'query_range'}"
    began = time.perf_counter()
    with urllib.request.urlopen(
        url, urllib.parse.urlencode(arguments).encode(), timeout=600
    ) as answer:
        text = answer.read()
    return time.perf_counter() - began, text.count(b'"metric":')


def main() -> None:
    """Print the slowest queries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--step", type=int, default=300)
    args = parser.parse_args()
    size = Size(args.nodes, args.users, args.days, args.step)
    to = int(time.time()) // 300 * 300
    names = needed(recorded())
    with tempfile.TemporaryDirectory(prefix="dashboardcost-") as temporary:
        folder = Path(temporary)
        began = time.perf_counter()
        counts = write(folder / "past.om", names, size, to)
        print(
            f"{counts[0]} series, {counts[1] / 1e6:.0f} M samples written in {time.perf_counter() - began:.0f} s"
        )
        began = time.perf_counter()
        blocks(folder / "past.om", folder / "data")
        (folder / "past.om").unlink()
        print(f"in Prometheus's blocks after {time.perf_counter() - began:.0f} s more")
        with Prometheus(folder, [], retention="60d") as prometheus:
            rows = [
                (*timed(prometheus, query, size, to), query)
                for board in boards()
                for query in queries(board)
                if any(name in query.expr for name in names)
            ]
    rows.sort(key=lambda row: -row[0])
    print(f"\n{size}: {len(rows)} queries over recorded series; seconds, series, query")
    for seconds, found, query in rows[:15]:
        print(f"{seconds:7.2f} {found:6d}  {query}")
    print(f"median {rows[len(rows) // 2][0]:.3f} s")


if __name__ == "__main__":
    main()
