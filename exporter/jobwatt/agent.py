"""
The daemon: builds its parts from the settings, samples on its own clock, publishes views.

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
from .board import Board
from .exposition import View
from .faults import FaultLog, wall_mismatch
from .idle import load
from .jobview import Terms
from .ledger import Ledger
from .model import NS_PER_S, Sample
from .ownmetrics import own_metrics
from .pipeline import Pipeline
from .privacy import KEY_CHARS, NAME, Names
from .sampler import Sampler, now_ns
from .slurm.controller import RpcRunner
from .slurm.events import Events
from .slurm.find import Jobs
from .slurm.resolve import Resolver
from .sources.guard import Guarded
from .sources.procstat import ProcStat
from .sources.secrets import read_line
from .web import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .config import Config
    from .model import Snapshot, Source

log = logging.getLogger(__name__)

# At most 40 samples a second, however many jobs begin and end: a burst must not be felt.
_EVENT_SPACING_NS = 25_000_000
# A driver call that takes longer than this hangs; the slowest read that others report is 4.5 ms a GPU.
_NVML_LIMIT_S = 0.5
# A gap is an interval longer than two and a half regular ones: one tick may be late or lost.
_GAP_INTERVALS = 2.5
# The calibration file is looked at this often.
_SLOW_NS = 10 * NS_PER_S


def sources(config: Config) -> list[Source]:
    """Open the sources that are switched on."""
    opened: list[Source] = []
    if config.source_rapl:
        from .sources import rapl

        opened.append(rapl.open_source(config.path_sysfs))
    if config.source_nvml:
        from .sources import nvml

        source = nvml.open_source(
            procfs=config.path_procfs, process_every_ns=config.nvml_process_interval
        )
        opened.append(Guarded(source, _NVML_LIMIT_S))
    if config.source_hwmon:
        from .sources import hwmon

        if hwmon.present(config.path_sysfs):  # most nodes have no such chip: no source that is down
            opened.append(
                hwmon.open_source(
                    config.path_sysfs,
                    includes_gpu=config.hwmon_includes_gpu,
                    rapl=config.source_rapl,
                )
            )
    if config.source_wattmeter and config.wattmeter_input:
        from .sources import wattmeter

        ports = dict(config.wattmeter_ports)
        opened.append(wattmeter.open_source(config.wattmeter_input, ports, short_name()))
    if config.source_remote and config.remote_url:
        from .sources import remote

        files = config.remote_credentials, config.remote_ca_file
        opened.append(
            remote.open_source(
                remote.Access(config.remote_url, *files),
                config.remote_node or short_name(),
                config.remote_interval,
                bmc_includes_gpu=config.bmc_includes_gpu,
            )
        )
    if config.source_bmc and (config.bmc_ipmi or config.bmc_redfish):
        opened.append(_bmc(config))
    if config.source_estimate:  # the last: it is read only where none of the others measures CPUs
        from .sources import estimate

        opened.append(estimate.open_source(config.path_procfs, config.estimate_tdp))
    return opened


def _bmc(config: Config) -> Source:
    from .sources import bmc

    files = config.bmc_credentials, config.bmc_ca_file
    service = bmc.RedfishAccess(config.bmc_redfish, *files, config.bmc_verify)
    return bmc.open_source(
        config.bmc_ipmi or service,
        every_ns=config.bmc_interval,
        timeout_ns=config.bmc_timeout,
        includes_gpu=config.bmc_includes_gpu,
    )


def short_name() -> str:
    """The node's name up to its first dot, as maps of meters have it."""
    return socket.gethostname().partition(".")[0]


def sampler(config: Config, *, keeper: bool = False) -> Sampler:
    """Everything that reads the node. ``keeper``: the daemon, which alone tidies the hooks' records up."""
    procstat = ProcStat(config.path_procfs)
    jobs = Jobs(config.path_cgroupfs, config.path_procfs, config.slurm_slice)
    rpc = (
        RpcRunner(timeout_s=config.slurm_rpc_timeout / NS_PER_S, slurm_conf=config.slurm_conf)
        if config.slurm_rpc
        else None
    )
    resolver = Resolver(
        procfs=config.path_procfs,
        state=config.path_state,
        rpc=rpc,
        numbering=config.slurm_gpu_numbering,
        forget=keeper,
    )
    return Sampler(sources(config), procstat, jobs, resolver, procstat.boot_id())


def gap_ns(config: Config) -> int:
    """A longer interval than this is a gap."""
    return int(_GAP_INTERVALS * config.sample_interval)


def pipeline(config: Config, ledger: Ledger) -> Pipeline:
    """Everything that computes."""
    return Pipeline(ledger, gap_ns(config), config.ledger_linger)


def terms(config: Config) -> Terms:
    """On which terms pages show what there is; ValueError where the pseudonyms' key cannot be used."""
    return Terms(
        Names(config.privacy_users, pseudonym_key(config.privacy_key_file)),
        config.limits_jobs,
        config.limits_series,
    )


def pseudonym_key(path: Path | None) -> bytes:
    """Read the key of the pseudonyms; ValueError with what mends it."""
    if path is None:
        return b""
    key = read_line(path, "key of the pseudonyms", f"{KEY_CHARS} characters or more")
    if len(key) < KEY_CHARS:
        raise ValueError(
            f"{path}: {len(key)} characters can be guessed; give {KEY_CHARS} or more: openssl rand -hex 32"
        )
    return key.encode()


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
