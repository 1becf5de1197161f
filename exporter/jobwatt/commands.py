"""What each command does, below the command line and above the parts."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from . import agent, assembly, doctor, playback, record
from .board import Board
from .config import ConfigError
from .idle import Window, save
from .ledger import Ledger, is_kept
from .meter import Cursors, measure
from .model import ESTIMATES, NS_PER_S, Snapshot, Step
from .privacy import masked, pseudonym

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from .config import Config
    from .sampler import Sampler


def _serve(config: Config, _args: argparse.Namespace) -> int:
    agent.serve(config)
    return 0


def _once(config: Config, _args: argparse.Namespace) -> int:
    """Two samples and the page; the daemon's ledger is not touched."""
    board = Board(config.sample_interval / NS_PER_S)
    with _sampling(config) as sampler:
        one_off = agent.Agent(
            config,
            sampler,
            assembly.pipeline(config, Ledger(None)),
            board,
            None,
            assembly.terms(config),
        )
        one_off.step(full=True, cause="tick")
        sampler.await_slow()
        time.sleep(config.sample_interval / NS_PER_S)
        one_off.step(full=True, cause="tick")
    sys.stdout.write(board.metrics(openmetrics=False, names=frozenset()).decode())
    return 0


def _doctor(config: Config, args: argparse.Namespace) -> int:
    with _sampling(config) as sampler:
        findings = doctor.examine(config, sampler, vars(args)["config.file"])
    sys.stdout.write(doctor.as_json(findings) if args.json else doctor.as_text(findings))
    return 0 if findings.measures else 1


def _record(config: Config, args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = assembly.terms(config).names
    # interrupting is the usual way to end a recording: what was written is whole lines
    with _output(args.out) as out, _sampling(config) as sampler, suppress(KeyboardInterrupt):
        found = _snapshots(config, sampler, args.duration)
        record.write(out, (masked(snapshot, names) for snapshot in found))
    return 0


def _calibrate(config: Config, args: argparse.Namespace) -> int:
    """Mean power of each device while no job is on the node."""
    windows: dict[str, Window] = {}
    cursors: Cursors = {}
    with _sampling(config) as sampler:
        for snapshot in _snapshots(config, sampler, args.duration):
            if snapshot.jobs:
                names = ", ".join(job.meta.jobid or job.usage.key for job in snapshot.jobs)
                raise ValueError(
                    f"jobs are on this node ({names}); drain it first: scontrol update nodename=... state=drain"
                )
            metered = measure(cursors, snapshot.readings, assembly.gap_ns(config))
            cursors = metered.cursors
            for delta in metered.booked:
                if delta.device.source in ESTIMATES or not delta.device.summed or not delta.dt_ns:
                    continue
                if delta.step in {Step.NORMAL, Step.WRAPPED}:
                    old = windows.get(delta.device.id, Window())
                    windows[delta.device.id] = Window(
                        old.energy_uj + delta.energy_uj, old.dt_ns + delta.dt_ns
                    )
    if not windows:
        raise ValueError("nothing could be measured; `jobwatt doctor` says why")
    path = config.path_state / "idle.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, windows, int(time.time()))
    for device, window in sorted(windows.items()):
        print(f"{device}  {window.energy_uj * 1000 / max(window.dt_ns, 1):.1f} W idle")
    print(f"written to {path}; a running daemon takes it within 10 s", file=sys.stderr)
    return 0


def _release(config: Config, args: argparse.Namespace) -> int:
    path = config.path_state / "jobwatt.pid"
    try:
        # without a keeper the file was left by kill -9, and its number may be anybody's by now
        pid = int(path.read_text()) if is_kept(config.path_state / "ledger.db") else 0
        if pid:
            os.kill(pid, signal.SIGUSR2 if args.resume else signal.SIGUSR1)
    except (FileNotFoundError, ProcessLookupError):
        pid = 0
    if not pid:
        raise ValueError(f"no daemon is running with this state directory ({path})")
    print(
        f"daemon {pid} {'takes the GPUs back' if args.resume else 'lets go of the GPUs'}",
        file=sys.stderr,
    )
    return 0


def _replay(config: Config, args: argparse.Namespace) -> int:
    if args.once:
        sys.stdout.write(playback.final_page(config, args.recording))
        return 0
    if args.speed <= 0:
        raise ValueError("--speed must be above 0")
    playback.serve(config, args.recording, speed=args.speed, loop=args.loop)
    return 0


def _alerts(_config: Config, args: argparse.Namespace) -> int:
    """Imported here: the daemon and the other commands need none of it."""
    if args.action == "replay":
        from .alerts import replay

        return replay.run(args)
    if args.action == "response":
        from .alerts import response

        return response.run(args)
    from .alerts import render, site

    read = site.read(args.site)
    done = render.write(render.texts(read), args.out, force=args.force)
    for name in done.written:
        print(args.out / name)
    for name in done.removed:
        print(f"removed {args.out / name}: no longer part of jobwatt", file=sys.stderr)
    for note in site.notes(read):
        print(f"note: {note}", file=sys.stderr)
    return 0


def _demo(_config: Config, args: argparse.Namespace) -> int:
    """Imported here: no part of the daemon."""
    from .demo import run

    return run.run(args)


def _grid(config: Config, args: argparse.Namespace) -> int:
    """Imported here: no part of the daemon."""
    from .central.grid import run as grid

    given = vars(args)
    cache = Path(given["grid.cache"]) if given["grid.cache"] else None
    if args.once:
        page, usable = grid.once(Path(given["grid.config"]), cache)
        sys.stdout.write(page)
        return 0 if usable else 1
    address, web_config = config.web_listen_address, config.web_config_file
    grid.serve(Path(given["grid.config"]), cache, address, web_config)
    return 0


def _bmc_proxy(config: Config, args: argparse.Namespace) -> int:
    """Imported here: no part of the daemon."""
    from .central.bmcproxy import run as bmcproxy

    path = Path(vars(args)["bmc.config"])
    bmcproxy.serve(path, config.web_listen_address, config.web_config_file)
    return 0


def _compare(_config: Config, args: argparse.Namespace) -> int:
    """Imported here: no part of the daemon."""
    from .central.compare import run as compare

    return compare.run(args)


def _sd(config: Config, args: argparse.Namespace) -> int:
    """Imported here: no part of the daemon."""
    from .central.sd import run as sd
    from .central.sd import settings

    chosen = settings.chosen(vars(args), config.slurm_conf)
    if args.once:
        return 0 if sd.once(chosen) else 1
    sd.serve(chosen, config.web_listen_address, config.web_config_file)
    return 0


def _output(path: str | None) -> AbstractContextManager[TextIO]:
    return Path(path).open("w", encoding="utf-8") if path else nullcontext(sys.stdout)


@contextmanager
def _sampling(config: Config) -> Iterator[Sampler]:
    sampler = assembly.sampler(config)
    try:
        yield sampler
    finally:
        sampler.close()


def _snapshots(config: Config, sampler: Sampler, duration_ns: int | None) -> Iterator[Snapshot]:
    """Full snapshots at the sampling interval."""
    began = time.monotonic_ns()
    while True:
        started = time.monotonic_ns()
        yield sampler.take(full=True, cause="tick")
        if duration_ns is not None and time.monotonic_ns() - began >= duration_ns:
            return
        time.sleep(max(config.sample_interval - (time.monotonic_ns() - started), 0) / NS_PER_S)


def _pseudonym(config: Config, args: argparse.Namespace) -> int:
    """Who is who, for those who have the key: a mail server's aliases, a question about one's own data."""
    if config.privacy_key_file is None:
        raise ConfigError("--privacy.key-file is missing: pseudonyms are made with the nodes' key")
    key = assembly.pseudonym_key(config.privacy_key_file)
    for line in args.user or sys.stdin:
        name = line.strip()
        if name:
            print(f"{pseudonym(key, name)}\t{name}")
    return 0


COMMANDS: dict[str, Callable[[Config, argparse.Namespace], int]] = {
    "serve": _serve,
    "once": _once,
    "doctor": _doctor,
    "record": _record,
    "calibrate": _calibrate,
    "release-gpus": _release,
    "replay": _replay,
    "alerts": _alerts,
    "demo": _demo,
    "bmc-proxy": _bmc_proxy,
    "compare": _compare,
    "grid": _grid,
    "sd": _sd,
    "pseudonym": _pseudonym,
}
