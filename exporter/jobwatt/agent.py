"""
The daemon: samples on its own clock, publishes views.

One thread samples. It waits for the next tick, for a directory event (a job began or ended, a hook
wrote) or for a signal; events closer together than ``_EVENT_SPACING_NS`` share one sample.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from . import __version__
from .assembly import pipeline, sampler, terms
from .board import Board
from .exposition import View
from .faults import FaultLog, wall_mismatch
from .idle import load
from .jobview import Terms
from .ledger import Ledger
from .model import NS_PER_S, Sample
from .ownmetrics import own_metrics
from .privacy import NAME
from .sampler import Sampler, now_ns
from .slurm.events import Events
from .sources.guard import Guarded
from .web import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .config import Config
    from .model import Snapshot
    from .pipeline import Pipeline

log = logging.getLogger(__name__)

# At most 40 samples a second, however many jobs begin and end: a burst must not be felt.
_EVENT_SPACING_NS = 25_000_000
# The calibration file is looked at this often.
_SLOW_NS = 10 * NS_PER_S


def _wake_pair() -> tuple[socket.socket, socket.socket]:
    """What a signal writes to, so that the loop's poll returns."""
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
    return pair


@dataclass(slots=True)
class Agent:
    """The daemon's loop."""

    config: Config
    sampler: Sampler
    pipeline: Pipeline
    board: Board
    events: Events | None
    terms: Terms = field(default_factory=Terms)
    stopping: bool = False
    _orders: list[Callable[[], None]] = field(default_factory=list)
    _fault: str = ""
    _missed: int = 0
    _calibration_mtime: int = 0
    _slow_ns: int = 0
    _resume_ns: int = 0
    _ledger_errors: int = 0
    _wall_faults: FaultLog = field(default_factory=FaultLog)
    _wake: tuple[socket.socket, socket.socket] = field(default_factory=_wake_pair)

    def begin(self) -> None:
        """Go on where the last daemon left off, and take the first sample."""
        self.pipeline.restore(self.sampler.boot_id)
        self.sampler.resolver.remember(self.pipeline.last_jobs)
        self._sample(full=True, cause="tick")

    def run(self) -> None:
        """Sample until stopped."""
        tick_ns = now_ns()
        while not self.stopping:
            tick_ns = max(tick_ns + self.config.sample_interval, now_ns())
            self._until(tick_ns)
            if not self.stopping:
                self._sample(full=True, cause="tick")

    def _sample(self, *, full: bool, cause: str) -> None:
        """A step whose failure, whatever it is, costs one sample and not the daemon."""
        try:
            self.step(full=full, cause=cause)
        except Exception as err:
            fault = f"{type(err).__name__}: {err}"
            if fault != self._fault:
                log.exception("a sample failed; measuring goes on")
            self._fault = fault
            self._missed += 1

    def step(self, *, full: bool, cause: str) -> None:
        """Take one sample through the whole pipeline and publish it."""
        started = time.perf_counter()
        if full:
            self._slowly()
        snapshot = self._with_own_events(self.sampler.take(full=full, cause=cause))
        totals = self.pipeline.push(snapshot)
        self.board.publish(
            View(
                totals=totals,
                snapshot=snapshot,
                idle=self.pipeline.idle,
                node=socket.gethostname(),
                version=__version__,
                sources=self.sampler.status,
                ledger_fault=self.pipeline.ledger.fault,
                sample_s=time.perf_counter() - started,
                terms=self.terms,
            )
        )

    def _with_own_events(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot, with what the last one's account brought to light: failed commits and samples, a wrong wall."""
        mismatch = wall_mismatch(self.pipeline.totals.wall, snapshot.t_ns)
        self._wall_faults.note(mismatch)
        snapshot = replace(snapshot, failures=(*snapshot.failures, *mismatch))
        commits, self._ledger_errors = (
            self.pipeline.ledger.errors - self._ledger_errors,
            self.pipeline.ledger.errors,
        )
        missed, self._missed = self._missed, 0
        if not commits and not missed:
            return snapshot
        failed = [Sample("jobwatt_ledger_errors_total", (), commits)] if commits else []
        if missed:
            failed.append(Sample("jobwatt_source_errors_total", ("sampler", "exception"), missed))
        return replace(snapshot, events=(*snapshot.events, *failed))

    def close(self) -> None:
        """Let go of everything; the ledger is closed in good order."""
        if self.events is not None:
            self.events.close()
        self.pipeline.ledger.close()  # first: a sensor that hangs may be waited for, totals may not
        self.sampler.close()

    # --- waiting -------------------------------------------------------------------------------

    def _until(self, tick_ns: int) -> None:
        """Wait for the tick; sample at job events on the way."""
        assert self.events is not None  # noqa: S101  (a loop without events is `once`, which does not wait)
        poller = select.poll()
        if self.events.fileno() >= 0:  # without inotify the ticks find what there is
            poller.register(self.events.fileno(), select.POLLIN)
        poller.register(self._wake[0].fileno(), select.POLLIN)
        while not self.stopping and (left_ns := tick_ns - now_ns()) > 0:
            if not poller.poll(left_ns / 1e6):
                return
            self._drain_wake()
            self._obey()
            if self.events.drain():
                self._watch()  # first, so that nothing happens unseen between the look and the watch
                self._sample(full=False, cause="event")
                time.sleep(min(_EVENT_SPACING_NS, max(tick_ns - now_ns(), 0)) / NS_PER_S)

    def _watch(self) -> None:
        if self.events is None:
            return
        failure = self.events.sync(self.sampler.jobs.watch_dirs())
        if failure is not None:
            log.warning("%s", failure.message)

    # --- now and then --------------------------------------------------------------------------

    def _slowly(self) -> None:
        """What need not be done at every sample."""
        if now_ns() - self._slow_ns < _SLOW_NS:
            return
        self._slow_ns = now_ns()
        self._watch()
        self._calibrate()
        if self._resume_ns and now_ns() > self._resume_ns:
            self.resume()

    def _calibrate(self) -> None:
        path, mtime = self.config.path_state / "idle.json", 0
        try:
            mtime = path.stat().st_mtime_ns
            if mtime != self._calibration_mtime:
                self.pipeline.calibrate(load(path))
        except (FileNotFoundError, NotADirectoryError):
            mtime = 0
        except (OSError, ValueError) as err:
            mtime = mtime or -1
            if mtime != self._calibration_mtime:
                log.warning("calibration: %s", err)
        self._calibration_mtime = mtime

    # --- signals -------------------------------------------------------------------------------

    def install_signals(self) -> None:
        """SIGTERM and SIGINT stop, SIGUSR1 releases the GPUs, SIGUSR2 takes them back."""
        signal.set_wakeup_fd(self._wake[1].fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        # a handler may interrupt a write to the log: it leaves the work to the loop
        signal.signal(signal.SIGUSR1, lambda *_: self._orders.append(self.release))
        signal.signal(signal.SIGUSR2, lambda *_: self._orders.append(self.resume))

    def _obey(self) -> None:
        while self._orders:
            self._orders.pop(0)()

    def stop(self) -> None:
        """End the loop after the sample in progress."""
        self.stopping = True

    def release(self) -> None:
        """Let go of the NVIDIA driver for a while, so that GPUs can be reset or repartitioned."""
        self._resume_ns = now_ns() + self.config.nvml_release
        for source in self.sampler.sources:
            if isinstance(source, Guarded):
                source.release()
        log.info(
            "GPUs released for %d s; SIGUSR2 or the end of that time takes them back",
            self.config.nvml_release // NS_PER_S,
        )

    def resume(self) -> None:
        """Take the GPUs back."""
        self._resume_ns = 0
        for source in self.sampler.sources:
            if isinstance(source, Guarded):
                source.resume()

    def _drain_wake(self) -> None:
        try:
            while self._wake[0].recv(4096):
                pass
        except BlockingIOError:
            pass


def serve(config: Config) -> None:
    """Run the daemon until a signal; OSError, ValueError or LedgerBusyError where it cannot start."""
    board = Board(config.sample_interval / NS_PER_S, own_metrics)
    server = WebServer(
        config.web_listen_address,
        board,
        config.web_config_file,
        names_users=config.privacy_users == NAME,
    )  # wrong usage touches nothing
    shown_on = terms(config)
    ledger = Ledger(config.path_state / "ledger.db")
    _make_hook_directory(config)
    agent = Agent(
        config,
        sampler(config, keeper=True),
        pipeline(config, ledger),
        board,
        Events([config.path_state / "hooks"]),
        shown_on,
    )
    try:
        agent.install_signals()
        agent.begin()  # before anybody can ask: an empty page would end every series
        server.start()
        host, port = server.address
        _write_pid(config)
        log.info("jobwatt %s serves on %s:%d, pid %d", __version__, host, port, os.getpid())
        agent.run()
    finally:
        server.stop()
        _remove_pid(config)
        agent.close()


def _make_hook_directory(config: Config) -> None:
    """There from the start, so that it is watched when the first hook writes."""
    with contextlib.suppress(OSError):
        (config.path_state / "hooks").mkdir(mode=0o750, exist_ok=True)


def _write_pid(config: Config) -> None:
    """For `jobwatt release-gpus`; a state directory that cannot be written is the ledger's to report."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        contextlib.suppress(OSError),
        os.fdopen(os.open(_pid_file(config), flags, 0o640), "w") as out,
    ):
        out.write(f"{os.getpid()}\n")


def _remove_pid(config: Config) -> None:
    """Where it is ours: a daemon that could not start leaves that of the one that runs."""
    with contextlib.suppress(OSError, ValueError):
        if int(_pid_file(config).read_text(encoding="ascii")) == os.getpid():
            _pid_file(config).unlink()


def _pid_file(config: Config) -> Path:
    return config.path_state / "jobwatt.pid"
