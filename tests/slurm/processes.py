"""Start, wait for and end the processes of one cluster, and no other's."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Slurm's daemons and srun bind to the address of gethostname(): in a UTS namespace of their own
# that is loopback on every machine, whatever its /etc/hosts says.
_LOOPBACK = [
    "unshare",
    "-u",
    "sh",
    "-c",
    'echo localhost >/proc/sys/kernel/hostname; exec "$@"',
    "sh",
]

_TITLE = re.compile(rb"slurmstepd: \[(\d+)[.+]")


class ClusterError(RuntimeError):
    """The cluster did not do what was asked; the message ends with its log."""


def on_loopback(argv: Sequence[str]) -> list[str]:
    """The command, run where the host's name is localhost."""
    return [*_LOOPBACK, *argv]


def await_true(check: Callable[[], bool], seconds: float, what: str, pause: float = 0.03) -> None:
    """Return once `check` holds; ClusterError after `seconds`."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)


class Daemon:
    """A foreground daemon: a child, so that its end is seen at once; it dies with its parent."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._argv = ["setpriv", "--pdeathsig", "KILL", *on_loopback(argv)]
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running daemon's process id."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, ready: Callable[[], bool], seconds: float = 30) -> None:
        """Start it and return when `ready` holds; ClusterError with its last lines otherwise."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            await_true(lambda: self._died() or ready(), seconds, f"{self.name} ready")
        except ClusterError as err:
            raise ClusterError(f"{err}\n{self.tail()}") from err
        if self._died():
            raise ClusterError(f"{self.name} ended at its start\n{self.tail()}")

    def _died(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def tail(self, lines: int = 8) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def send(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20) -> None:
        """End it and reap it; what does not end in time is killed."""
        self.send(number)
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def processes_of(conf: Path) -> Iterator[int]:
    """Processes whose environment names this cluster's slurm.conf: daemons, slurmstepds and jobs."""
    mark = b"SLURM_CONF=%s\0" % os.fsencode(conf)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid() and mark in _environ(int(entry)):
            yield int(entry)


def stepds_of(jobs: range) -> Iterator[int]:
    """
    A cluster's slurmstepds by their titles, which in 25.11 lie where their environment was.

    What has this process' host name, not that of `on_loopback`, is a real Slurm's.
    """
    ours = os.readlink("/proc/self/ns/uts")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            found = _TITLE.match((process / "cmdline").read_bytes())
            if found and int(found[1]) in jobs and os.readlink(process / "ns/uts") != ours:
                yield int(process.name)


def members(cgroup: Path) -> Iterator[int]:
    """Processes in a cgroup and below it."""
    for procs in cgroup.rglob("cgroup.procs"):
        with suppress(OSError):  # the cgroup went while it was being read
            yield from map(int, procs.read_text().split())


def kill_all(find: Callable[[], set[int]], seconds: float = 20) -> None:
    """SIGKILL what `find` returns, again until it returns nothing."""
    begin = time.monotonic()
    # twice nothing: what was in its exec at the first look could not be told from others'
    while (
        (left := find()) or (time.monotonic() < begin + 2 and any(_in_exec())) or (left := find())
    ):
        if time.monotonic() > begin + seconds:
            raise ClusterError(f"processes survive SIGKILL: {sorted(left)}")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _in_exec() -> Iterator[int]:
    """Processes under `on_loopback`'s host name, anybody's, that have no environment just now."""
    ours = os.readlink("/proc/self/ns/uts")
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it ended meanwhile, or as a zombie has no name
            if not _environ(int(entry)) and os.readlink(f"/proc/{entry}/ns/uts") != ours:
                yield int(entry)
