"""The same past in several stores of series, and the same queries asked of all of them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dashqueries import boards, filled, queries, times
from jobwatt.alerts import inline
from prom import free_port
from storagesite import texts, wait_for

from dashboardcost import Size, needed, recorded, write  # isort: skip  (storagesite has set the path)
from scalenodes import Load, Node  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CLUSTER = "big"  # as dashboardcost.py calls it
RANGE_S, STEP_S = 6 * 3600, 300
# Rules look back a day; the dashboards' rates want three samples in six minutes. No sample is at a round moment, at
# which a range might begin: for Prometheus 2 it would be in it, for others not.
_PAST_S, _COARSE_S, _EVERY_S, _ASIDE_S = 26 * 3600, 240, 120, 7

# Extrapolation: VictoriaMetrics takes the increase between samples and adds nothing for the window's edges; what has
# Prometheus 3's engine has no sample in a range that lies on its first moment.
RATES = re.compile(r"\b(rate|increase)\(")
RATES_AGREE_TO = 0.05

Answer = dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]


# --- the past ------------------------------------------------------------------------------------------


def write_past(path: Path, to_s: int, nodes: int = 2) -> None:
    """
    Pages of nodes over a day and more, whose jobs come and go, and what the rules would have recorded, as
    OpenMetrics text with timestamps.
    """
    write(path, needed(recorded()), Size(nodes, 5, 1, STEP_S), to_s)
    lines = path.read_text(encoding="utf-8").splitlines()[:-1]
    with path.open("w", encoding="utf-8", buffering=1 << 22) as out:
        for line in (
            lines
        ):  # no two series are to be equal, so that none of the first 15 is a matter of luck
            series, value, stamp = line.rsplit(" ", 2)
            out.write(
                f"{series} {float(value) + zlib.crc32(series.encode()) / 2**36:.9f} {stamp}\n"
            )
        for number in range(nodes):
            out.writelines(_pages(Node(number, Load(nodes), to_s - _PAST_S), to_s))
        out.write("# EOF\n")


def _pages(node: Node, to_s: int) -> Iterator[str]:
    target = f'cluster="{CLUSTER}",instance="{node.name}",job="jobwatt"'
    dense_s = to_s - RANGE_S - 3600
    early = range(to_s - _PAST_S + _COARSE_S, dense_s, _COARSE_S)
    for round_s in (*early, *range(dense_s, to_s + 1, _EVERY_S)):
        at_s = round_s + _ASIDE_S
        node.advance(at_s)
        yield f"up{{{target}}} 1 {at_s}\n"
        for line in node.board.metrics(False, frozenset()).decode().splitlines():
            if not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                metric, _, labels = series.rstrip("}").partition("{")
                yield f"{metric}{{{target}{',' if labels else ''}{labels}}} {value} {at_s}\n"


# --- VictoriaMetrics -------------------------------------------------------------------------------------


class Victoria:
    """A real VictoriaMetrics on a free port; asked for a query as Prometheus is."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "log").open("wb")
        argv = [
            "victoria-metrics", f"-httpListenAddr=127.0.0.1:{self.port}", f"-storageDataPath={folder}/data",
            "-retentionPeriod=100y", "-loggerLevel=WARN", "-memory.allowedBytes=256MB", *flags,
        ]  # fmt: skip
        self._process = subprocess.Popen(argv, stdout=self._log, stderr=self._log, cwd=folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Victoria:
        wait_for(f"{self.url}/health", self._process, self.folder / "log")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def load(self, path: Path) -> None:
        """Take OpenMetrics text; its times become milliseconds."""
        with path.open(encoding="utf-8") as lines:
            while batch := [line for _, line in zip(range(200_000), lines, strict=False)]:
                body = "".join(f"{line.rstrip()}000\n" for line in batch if line[0] != "#").encode()
                request = urllib.request.Request(f"{self.url}/api/v1/import/prometheus", body)
                urllib.request.urlopen(request, timeout=120).close()
        self.flush()

    def flush(self) -> None:
        """Make what has come visible."""
        urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=60).close()


# --- queries ----------------------------------------------------------------------------------------------


def ask(url: str, arguments: dict[str, str]) -> Answer:
    """Series of an instant or a range query; ValueError with the store's words where it refuses."""
    what = "query" if "time" in arguments else "query_range"
    # VictoriaMetrics moves the ends of a range to multiples of the step otherwise; others know no such argument
    body = urllib.parse.urlencode(arguments | {"nocache": "1"}).encode()
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{what}", body, timeout=120) as answer:
            data = json.load(answer)["data"]
    except urllib.error.HTTPError as err:
        raise ValueError(err.read().decode(errors="replace")) from err
    if data["resultType"] == "scalar":
        return {(): [(float(data["result"][0]), float(data["result"][1]))]}
    return {
        tuple(sorted(one["metric"].items())): [(float(at), float(value)) for at, value in one.get("values", [one.get("value")])]
        for one in data["result"]
    }  # fmt: skip


def of_dashboards(at_s: int, jobid: str, uuid: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Every query of every dashboard over six hours, as a panel sends it."""
    values = times(RANGE_S, STEP_S, to=at_s) | {
        "cluster": CLUSTER, "user": "user0000", "account": "lab0", "instance": "node00000", "jobid": jobid, "uuid": uuid,
    }  # fmt: skip
    for board in boards():
        for query in queries(board):
            span = {"time": str(at_s)} if query.instant else {"start": str(at_s - RANGE_S), "end": str(at_s), "step": str(STEP_S)}  # fmt: skip
            yield str(query), {"query": filled(query.expr, values)} | span


def of_rules(at_s: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Every rule's expression, written out over raw metrics."""
    parsed = inline.of({name: yaml.safe_load(text) for name, text in texts().items()})
    found: dict[str, Any] = dict(parsed.records)
    found |= {alert.name: alert.expr for alert in parsed.alerts}
    for name, expr in found.items():
        yield name, {"query": inline.expand(expr, parsed.records), "time": str(at_s)}


def difference(one: Answer, other: Answer, tolerance: float = 1e-9) -> str:
    """In what two answers differ, in one line; "" where they do not."""
    if one.keys() != other.keys():
        lost, more = one.keys() - other.keys(), other.keys() - one.keys()
        return (
            f"{len(lost)} series less, {len(more)} more, of {len(one)}: {[*lost][:1]} {[*more][:1]}"
        )
    for labels, values in one.items():
        if [at for at, _ in values] != [at for at, _ in other[labels]]:
            return f"{len(values)} and {len(other[labels])} values: {labels}"
        for (at, value), (_, seen) in zip(values, other[labels], strict=True):
            same = value == seen or (math.isnan(value) and math.isnan(seen))
            if not same and not math.isclose(value, seen, rel_tol=tolerance, abs_tol=1e-12):
                return f"{value} and {seen} at {at}: {labels}"
    return ""


def without(answer: Answer, labels: Iterable[str]) -> Answer:
    """The series without these labels, which a store has added."""
    drop = set(labels)
    return {
        tuple(pair for pair in series if pair[0] not in drop): values
        for series, values in answer.items()
    }


def same_rules(url: str, other: str, at_s: int, added: Iterable[str] = ()) -> int:
    """Every rule, asked of Prometheus and of another: the same series and values. How many have any."""
    told = 0
    for name, arguments in of_rules(at_s):
        answer = ask(url, arguments)
        told += bool(answer)
        assert difference(answer, without(ask(other, arguments), added)) == "", name
    return told


def same_dashboards(url: str, other: str, at_s: int, added: Iterable[str] = ()) -> int:
    """Every query of every dashboard: the same, where a rate is asked for within a few percent. How many have any."""
    oldest = (
        "bottomk(1, jobwatt_job_start_time_seconds unless on (jobid) jobwatt_job_end_time_seconds)"
    )
    (job,) = ask(url, {"query": oldest, "time": str(at_s)})
    told = 0
    for name, arguments in of_dashboards(at_s, dict(job)["jobid"], "GPU.+"):
        answer, same = ask(url, arguments), without(ask(other, arguments), added)
        told += bool(answer)
        if not RATES.search(arguments["query"]):
            assert difference(answer, same) == "", name
            continue
        for labels, values in answer.items():
            told_there = dict(same[labels])
            pairs = [(value, told_there[at]) for at, value in values if at in told_there]
            # what lasts: the first minutes of a job are another matter
            if len(pairs) > 10 or "time" in arguments:
                here, there = (sum(column) for column in zip(*pairs, strict=True))
                assert there == pytest.approx(here, rel=RATES_AGREE_TO), name
    return told


def recorded_labels(url: str, ago_s: float, added: Iterable[str] = ()) -> set[Any]:
    """Every recorded series of a moment ago."""
    query = {"query": '{__name__=~"jobwatt:.+"}', "time": str(time.time() - ago_s)}
    return set(without(ask(url, query), added))
