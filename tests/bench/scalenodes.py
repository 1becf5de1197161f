"""
Nodes for the run at scale: as many as wanted, each with the demo's simulated hardware and sensors, jobwatt's own
pipeline, exposition and encoder, and a page of its own below one web server.

Every node has all that a page can show of eight GPUs: RAPL with DRAM, GPM, a wall meter. Four jobs hold one GPU each
and one holds four, so 1000 nodes run 5000 jobs. A job that ends is followed by another in the same place.
"""

from __future__ import annotations

import http.server
import threading
import time
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from jobwatt import __version__
from jobwatt.board import Board
from jobwatt.demo.sim.account import gap_ns, idle_powers, sources
from jobwatt.demo.sim.fleet import GIB, GpuModel, Host, NodeSpec
from jobwatt.demo.sim.hardware import Hardware, Times
from jobwatt.demo.sim.names import User
from jobwatt.demo.sim.nodestate import Part
from jobwatt.demo.sim.requests import Kind, Request
from jobwatt.demo.sim.scheduler import Event, Run
from jobwatt.demo.sim.sensors import Sensors
from jobwatt.exposition import View
from jobwatt.ledger import Ledger
from jobwatt.model import NS_PER_S
from jobwatt.ownmetrics import own_metrics
from jobwatt.pipeline import Pipeline
from jobwatt.webformats import accepts_gzip, compress

if TYPE_CHECKING:
    from pathlib import Path

SLOTS = (1, 1, 1, 1, 4)  # GPUs of each of a node's jobs
GPUS = sum(SLOTS)
# Jean-Zay's figure: 1000 nodes that run 5000 jobs at a time see 25,000 a day; so one lives for 4.8 hours.
JOBS_A_DAY_PER_NODE = 25
LIFE_S = len(SLOTS) * 86_400 // JOBS_A_DAY_PER_NODE
LINGER_S = 600  # as ledger.linger's default
JOBS_PER_USER, USERS_PER_LAB = 10, 20
IDLE_ONE_IN = 10  # jobs whose GPUs are held and not used, so that alerts fire
_UP_S = 40 * 86_400
_WARM_S = 60  # before the first page: totals need two snapshots
_SEED = 20_261_126

H100 = GpuModel("NVIDIA H100 80GB HBM3", 80 * GIB, 70_000_000, 700_000_000, 1980, 345, 2619, gpm=True)  # fmt: skip
HOST = Host(128, 2048 * GIB, 105_000_000, 6_500_000, 18_000_000, 400_000_000)


@dataclass(frozen=True)
class Load:
    """
    How many nodes, and how many times as fast as it should be jobs come and go. What lingers of ended jobs does so
    for that much less, so that a page is no longer than it should be.
    """

    nodes: int
    factor: float = 1.0
    slots: tuple[int, ...] = SLOTS  # GPUs of each of a node's jobs

    @property
    def jobs(self) -> int:
        return self.nodes * len(self.slots)


class Node:
    """One node's exporter, without its web server."""

    def __init__(self, number: int, load: Load, began_s: int, path: Path | None = None) -> None:
        self.name, self._number, self._load = f"node{number:05d}", number, load
        self._spec = NodeSpec(self.name, "gpu", GPUS, H100, HOST)
        times = Times(began_s - _UP_S, began_s, began_s)
        self._hardware, self._log = Hardware(self._spec, _SEED, times), deque[Event]()
        self._sensors = Sensors(self._hardware, f"scale-{_SEED}")
        self._rng = Random(f"{_SEED}/{self.name}")
        self._started = 0
        self.runs: list[Run] = []
        for slot in range(len(load.slots)):
            age_s = self._rng.randrange(LIFE_S)
            left_s = self._rng.randrange(1, max(int(LIFE_S / load.factor), 2))
            self.runs.append(self._run(slot, began_s - age_s, began_s + left_s))
            self._hardware.seat(self.runs[-1])
        self._hardware.warm_up()
        linger_ns = int(LINGER_S / load.factor) * NS_PER_S
        self.pipeline = Pipeline(Ledger(path), gap_ns(_WARM_S), linger_ns)
        self.pipeline.restore(f"scale-{_SEED}")
        self.pipeline.calibrate(idle_powers(self._spec))
        self.board = Board(3600.0, own_metrics)

    @property
    def jobs_started(self) -> int:
        """Jobs that came since the beginning."""
        return self._started - len(self._load.slots)

    def advance(self, now_s: int, *, publish: bool = True) -> None:
        """Let time pass: jobs end and begin, the account goes on, the page shows it."""
        while self.runs and (first := min(self.runs, key=lambda run: run.end_s)).end_s <= now_s:
            self._turn_over(self.runs.index(first))
        self._hardware.advance(now_s, self._log)
        snapshot = self._sensors.read(full=True)
        totals = self.pipeline.push(snapshot)
        if publish:
            self.board.publish(
                View(totals, snapshot, self.pipeline.idle, self.name, __version__, sources(snapshot), sample_s=0.002)
            )  # fmt: skip

    def page(self, now_s: int, *, openmetrics: bool) -> bytes:
        """Return what a scrape at this moment gets."""
        if self._hardware.now_s < now_s or self.board.view is None:
            self.advance(now_s)
        return self.board.metrics(openmetrics, frozenset())

    def _turn_over(self, slot: int) -> None:
        over = self.runs[slot]
        self._log.append(Event(over.end_s, over, over.parts[0]))
        life_s = int(LIFE_S / self._load.factor * self._rng.uniform(0.5, 1.5))
        run = self.runs[slot] = self._run(slot, over.end_s, over.end_s + max(life_s, 2))
        self._log.append(Event(run.start_s, run, run.parts[0], begins=True))

    def _run(self, slot: int, start_s: int, end_s: int) -> Run:
        # all nodes' numbers are apart, whatever the order in which jobs come
        jobid = 1_000_000 + self._started * self._load.nodes + self._number
        self._started += 1
        slots = self._load.slots
        gpus, first = slots[slot], sum(slots[:slot])
        cpus = range(first * self._spec.cpus_per_gpu, (first + gpus) * self._spec.cpus_per_gpu)
        users = max(self._load.jobs // JOBS_PER_USER, 1)
        index = jobid % users
        user = User(index, f"user{index:04d}", 20_000 + index, f"lab{index // USERS_PER_LAB}", 1.0)
        kind = Kind.FORGOTTEN if jobid % IDLE_ONE_IN == 0 else Kind.TRAINING
        request = Request(
            start_s, user, "train-model", kind, "gpu", 1, gpus, len(cpus), gpus * 200 * GIB,
            end_s - start_s, 20 * 3600, self._rng.randrange(1 << 30),
        )  # fmt: skip
        part = Part(self.name, 0, tuple(range(first, first + gpus)), frozenset(cpus))
        return Run(request, jobid, "", start_s, end_s, "COMPLETED", "0:0", (part,))


class Nodes:
    """All nodes, ready to be asked."""

    def __init__(self, load: Load) -> None:
        began_s = int(time.time()) - _WARM_S
        self.load, self.began_s = load, began_s
        self.all = {node.name: node for node in (Node(at, load, began_s) for at in range(load.nodes))}  # fmt: skip
        for node in self.all.values():
            node.advance(began_s, publish=False)

    def jobs_started(self) -> int:
        return sum(node.jobs_started for node in self.all.values())


class Server:
    """
    Their pages below one port: ``/node00017``. A page is made when it is asked for, one at a time.

    Attributes:
        cpu_s: what making and sending them took.
    """

    def __init__(self, nodes: Nodes, *, zipped: bool = True) -> None:
        self.cpu_s, lock = 0.0, threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                began = time.thread_time()
                openmetrics = "openmetrics" in self.headers.get("Accept", "")
                with lock:
                    node = nodes.all[self.path.strip("/")]
                    body = node.page(int(time.time()), openmetrics=openmetrics)
                self._send(body, openmetrics)
                with lock:
                    outer.cpu_s += time.thread_time() - began

            def _send(self, body: bytes, openmetrics: bool) -> None:
                kind = ("application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain; version=0.0.4")  # fmt: skip
                self.send_response(200)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                if zipped and accepts_gzip(self.headers.get("Accept-Encoding", "")):
                    body = compress(body)
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            request_queue_size = 512  # targets that are scraped at the same moment
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A Prometheus that ends breaks off its scrapes."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
