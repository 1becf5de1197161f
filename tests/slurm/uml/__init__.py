"""A kernel of its own, User Mode Linux, where the only cgroup hierarchy is a pure cgroup v2."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from slurm import registry
from slurm.processes import kill_all

_INIT = Path(__file__).parent / "init.sh"


def missing_uml() -> str:
    """Why no payload can run under User Mode Linux here; empty when one can."""
    if os.geteuid() != 0:
        return "User Mode Linux on the machine's own file system needs root"
    return "" if shutil.which("linux.uml") else "not installed: linux.uml (user-mode-linux)"


def run_in_uml(
    payload: Path, timeout: float = 300, *, memory: str = "3G", args: tuple[str, ...] = ()
) -> tuple[int, str]:
    """
    Run an executable file as root under a Linux of its own; its exit status and what it printed.

    The payload sees this machine's file system, read-write, with a tmpfs on /run, where TMPDIR
    points: what is written elsewhere is really written. An exit status of 124 means the time was
    up, 99 that the kernel ended before the payload did.
    """
    work = Path(tempfile.mkdtemp(prefix="jw-uml."))
    registry.claim(work.name, {"run_dir": str(work), "nodes": [], "first_job": 0})
    try:
        (work / "command").write_text("\0".join([str(payload.absolute()), *args, ""]))
        return _boot(work, timeout, memory)
    finally:
        shutil.rmtree(work)
        registry.release(work.name)


def _boot(work: Path, timeout: float, memory: str) -> tuple[int, str]:
    # The kernel hands NAME=value pairs it does not know to init, as its environment.
    argv = [
        "linux.uml", f"mem={memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
        f"init={_INIT}", f"UML_WORK={work}", "con=null", "con0=fd:0,fd:1", "quiet",
        f"JOBWATT_TEST_SLURM={os.environ.get('JOBWATT_TEST_SLURM', '')}",
    ]  # fmt: skip
    with (work / "console").open("wb") as console:
        kernel = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL, stdout=console,
            stderr=console, start_new_session=True,
        )  # fmt: skip
        try:
            kernel.wait(timeout)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _kill_session(kernel)
    return _result(work, late=late)


def _kill_session(kernel: subprocess.Popen[bytes]) -> None:
    # Each process of the guest is a process of the host, in the kernel's session.
    def alive() -> set[int]:
        kernel.poll()
        return {
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _in(pid, kernel)
        }

    kill_all(alive)
    kernel.wait()


def _in(pid: int, kernel: subprocess.Popen[bytes]) -> bool:
    try:
        return os.getsid(pid) == kernel.pid and registry.started(pid) is not None
    except ProcessLookupError:
        return False


def _result(work: Path, *, late: bool) -> tuple[int, str]:
    printed, status = work / "output", work / "status"
    text = printed.read_text(errors="replace") if printed.exists() else ""
    if late:
        return 124, text
    if not status.exists():
        return 99, text + (work / "console").read_text(errors="replace")
    return int(status.read_text()), text
