"""What was written earlier, by us, and has been damaged since: recordings, the ledger, a calibration. And the page."""

from __future__ import annotations

import gzip
import json
import math
import sqlite3
from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from fuzz.base import escaped, hold, joined, parts, place, put, target
from jobwatt import idle, record
from jobwatt.board import Board
from jobwatt.bookrows import Book, cursor_of, devices_of, dumps, plain_totals
from jobwatt.exposition import SourceStatus, View
from jobwatt.ledger import Ledger
from jobwatt.model import NS_PER_S, JobMeta
from jobwatt.page import render
from jobwatt.pageview import page_view
from jobwatt.pipeline import Pipeline
from jobwatt.record import RecordingError, encode
from jobwatt.slurm.text import clean
from world import World

REGULAR, LINGER = int(2.5 * NS_PER_S), 600 * NS_PER_S


def _page(
    pipeline: Pipeline, snapshot: Any, *, sources: tuple[SourceStatus, ...] = ()
) -> dict[tuple[Any, ...], float]:
    """The page of a view, as Prometheus reads it: series -> value."""
    board = Board(1.0)
    board.publish(
        View(
            totals=pipeline.totals, snapshot=snapshot, idle=pipeline.idle, node="n", sources=sources
        )
    )
    text = board.metrics(openmetrics=False, names=frozenset()).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = (sample.name, *sorted(sample.labels.items()))
            hold(series not in found, f"{series} is there twice")
            hold(math.isfinite(sample.value), f"{series} is {sample.value}")
            found[series] = sample.value
    board.metrics(openmetrics=True, names=frozenset())
    hold("<script" not in render(page_view(board.view)).lower(), "a job's script in the page")
    return found


def _adds_up(found: dict[tuple[Any, ...], float]) -> None:
    """Jobs, system and unallocated are the node."""
    sums = {"node": 0.0, "parts": 0.0}
    for (name, *_), value in found.items():
        if name == "jobwatt_node_energy_joules_total":
            sums["node"] += value
        elif name in _PARTS:
            sums["parts"] += value
    hold(math.isclose(sums["node"], sums["parts"], rel_tol=1e-9, abs_tol=1e-3), f"{sums}")


_PARTS = frozenset({
    "jobwatt_job_energy_joules_total", "jobwatt_system_energy_joules_total",
    "jobwatt_unallocated_energy_joules_total", "jobwatt_hidden_jobs_energy_joules",
})  # fmt: skip


def _world() -> tuple[World, list[Any]]:
    world = World(gpus=1, cpus=2)
    world.start("7", gpus=[0])
    snapshots = []
    for _ in range(3):
        world.run(1.0, {"7": 0.5})
        snapshots.append(world.snapshot())
    return world, snapshots


def _recordings() -> list[bytes]:
    lines = [json.dumps({"jobwatt_recording": 1})]
    lines += [json.dumps(encode(one), separators=(",", ":")) for one in _world()[1][:2]]
    return ["\n".join(lines).encode() + b"\n"]


@target("store.recording", _recordings, RecordingError, max_len=8192, share=0.3)
def recording(data: bytes) -> None:
    _play(put("recording.jsonl", data))


@target(
    "store.snapshot",
    lambda: [_recordings()[0].splitlines()[2]],
    RecordingError,
    max_len=8192,
    share=0.3,
    json=True,
)
def snapshot(data: bytes) -> None:
    header, first, _ = _recordings_[0].splitlines()
    _play(put("recording.jsonl", b"\n".join((header, first, data.replace(b"\n", b" ")))))


def _play(path: Any) -> None:
    account = Pipeline(Ledger(None), REGULAR, LINGER)
    for one in record.read(path):
        hold(
            record.decode(type(one), json.loads(json.dumps(encode(one)))) == one,
            "not what was written",
        )
        account.push(one)
        _page(account, one)


@target("store.gzip", lambda: [gzip.compress(_recordings()[0], mtime=0)], RecordingError, share=0.2)
def gzipped(data: bytes) -> None:
    for one in record.read(put("recording.jsonl.gz", data)):
        hold(one.boot_id is not None, "no snapshot")


# --- the ledger -----------------------------------------------------------------------------------


def _book() -> bytes:
    world, _ = _world()
    kept: list[Book] = []
    ledger = Ledger(None)
    ledger.commit = kept.append  # type: ignore[method-assign, assignment]
    account = Pipeline(ledger, REGULAR, LINGER)
    for _ in range(3):
        world.run(1.0, {"7": 0.5})
        account.push(world.snapshot())
    book = kept[-1]
    rows = {
        "totals": plain_totals(book.totals),
        "cursor": cursor_of(book),
        "devices": [encode(device) for device in devices_of(book).values()],
        "jobs": {key: encode(job) for key, job in book.totals.jobs.items()},
    }
    return dumps(rows).encode()


@target("store.ledger_rows", lambda: [_book()], max_len=16384, share=0.3, json=True)
def ledger_rows(data: bytes) -> None:
    """Rows as they may stand in a file whose pages are whole: what does not fit is set aside, what fits goes on."""
    try:
        rows = json.loads(data)
        jobs = {str(key): json.dumps(body) for key, body in rows.pop("jobs").items()}
        state = {name: json.dumps(rows[name]) for name in ("totals", "cursor", "devices")}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return
    ledger = Ledger(None)
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("CREATE TABLE state (name TEXT, body TEXT)")
    db.execute("CREATE TABLE job (key TEXT, body TEXT)")
    try:
        db.executemany("INSERT INTO state VALUES (?, ?)", state.items())
        db.executemany("INSERT INTO job VALUES (?, ?)", jobs.items())
    except UnicodeEncodeError:  # SQLite holds none of these
        return
    ledger._db = db
    set_aside: list[str] = []
    ledger._set_aside = lambda *why: set_aside.append(why[0])  # type: ignore[method-assign]
    account = Pipeline(ledger, REGULAR, LINGER)
    account.restore("boot")
    _go_on(account)
    db.close()


def _go_on(account: Pipeline) -> None:
    """A restored account takes the next snapshots and makes a page of them."""
    account.ledger = Ledger(None)
    world, _ = _world()
    for _ in range(2):
        world.run(1.0, {"7": 0.5})
        account.push(world.snapshot())
    _page(account, world.snapshot())


_files: dict[str, bytes] = {}


def _ledger_file() -> bytes:
    path = place() / "whole" / "ledger.db"
    path.parent.mkdir(exist_ok=True)
    for old in path.parent.iterdir():
        old.unlink()
    world, _ = _world()
    account = Pipeline(Ledger(path), REGULAR, LINGER)
    account.restore("boot")
    for _ in range(3):
        world.run(1.0, {"7": 0.5})
        account.push(world.snapshot())
    account.ledger.close()
    return path.read_bytes()


@target("store.ledger_file", lambda: [_ledger_file()], max_len=32768, share=0.05)
def ledger_file(data: bytes) -> None:
    """A file with holes: what is in it is set aside or goes on, and the next commit reaches the disk."""
    folder = place() / "damaged"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    path = folder / "ledger.db"
    path.write_bytes(data)
    account = Pipeline(Ledger(path), REGULAR, LINGER)
    account.restore("boot")
    ledger = account.ledger
    _go_on(account)
    ledger.commit(Book(account.totals))
    ledger.close()


@target(
    "store.calibration",
    [b'{"devices": {"intel-rapl:0": {"power_uw": 60000000}}, "wall_s": 1}'],
    ValueError,
    json=True,
)
def calibration(data: bytes) -> None:
    for device, power in idle.load(put("idle.json", data)).items():
        hold(isinstance(device, str) and 0 <= power < 1 << 63, f"{power!r:.60}")


# --- the page -------------------------------------------------------------------------------------


@target(
    "page.labels",
    [
        joined("alice", "ltci", "A100", "bash", "normal", "rapl: no"),
        joined('"\\\n', "{}", "<script>", "é", "", ""),
    ],
    share=0.15,
)
def labels(data: bytes) -> None:
    """Whatever users call themselves and their jobs, the page says the same and is a page."""
    user, account, partition, name, qos, message = (clean(escaped(part)) for part in parts(data, 6))
    world, _ = _world()
    pipeline = Pipeline(Ledger(None), REGULAR, LINGER)
    meta = JobMeta(
        "7",
        user,
        1000,
        account,
        partition,
        qos,
        name,
        gpus={"GPU-0": 1},
        gpus_by="hook",
        resolved_by="hook",
    )
    for _ in range(2):
        world.run(1.0, {"7": 0.5})
        snapshot = world.snapshot()
        snapshot = replace(snapshot, jobs=tuple(replace(job, meta=meta) for job in snapshot.jobs))
        pipeline.push(snapshot)
    found = _page(pipeline, snapshot, sources=(SourceStatus("rapl", False, 0.0, message),))
    said = {dict(series[1:]).get("name") for series in found if series[0] == "jobwatt_job_info"}
    hold(said == {name}, f"{said} for {name!r}")
    _adds_up(found)


_recordings_: list[bytes] = _recordings()
