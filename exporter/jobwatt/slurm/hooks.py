"""
What Slurm's own Prolog and Epilog leave for the daemon: one small file per job, node and event.

``jobwatt hook prolog|epilog`` runs as root inside slurmd's Prolog and Epilog, once per job, so
this file imports next to nothing (no json, pathlib, typing, dataclasses: they cost more than the
whole write), never fails a job and never holds it: after ``LIMIT_S`` it is gone, whatever hangs.

The environment is Slurm's (prolog_epilog.html): what the variables of ``VARIABLES`` held is
written as it was; slurm/hookdir.py reads it. A file appears under its name complete (written
aside, then renamed), so a watcher sees one event, IN_MOVED_TO.
"""

from __future__ import annotations

# `signal` itself adds enums: 6 ms, more than the rest of this file together; no stub exists
import _signal  # type: ignore[import-not-found]
import os
import sys
import time

TYPE_CHECKING = False  # typing itself is an import too many here
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

LIMIT_S = 0.2
STATE = "/var/lib/jobwatt"
EVENTS = ("prolog", "epilog")
USAGE = """usage: jobwatt hook prolog|epilog [--path.state DIR]

Called by Slurm's Prolog and Epilog: leave a record of the job for the daemon under DIR/hooks.
Always exits with 0.

  --path.state DIR  the daemon's state directory (default: {})
"""
VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_JOB_USER",
    "SLURM_JOB_UID",
    "SLURM_JOB_ACCOUNT",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_QOS",
    "SLURM_JOB_NAME",
    "SLURM_JOB_SLUID",
    "SLURM_JOB_GPUS",
    "CUDA_VISIBLE_DEVICES",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_NODELIST",
    "SLURM_JOB_NODELIST",
    "SLURMD_NODENAME",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_HET_JOB_ID",
    "SLURM_JOB_RESTART_COUNT",
    "SLURM_JOB_START_TIME",
    "SLURM_JOB_END_TIME",
    "SLURM_JOB_EXIT_CODE2",
)
# In JSON, where a character may take six: a longer value is left out, half a node list would be a
# wrong one; and all of them together are below what is read again (hookdir.MAX_RECORD)
MAX_VALUE = 4096
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write(
    state: str | os.PathLike[str], event: str, env: Mapping[str, str], *, t_ns: int, wall_s: float
) -> None:
    """
    Store what ``env`` says of the job as ``<state>/hooks/<jobid>.<node>.<event>.json``.

    ``t_ns`` is CLOCK_BOOTTIME, ``wall_s`` Unix time. Raises ValueError for a job id or node name
    that is none, OSError (PermissionError too for a directory that others may write to).
    """
    jobid, node = env.get("SLURM_JOB_ID", ""), node_name(env)
    if event not in EVENTS:
        raise ValueError(f"event {event[:20]!r} is neither prolog nor epilog")
    # text.is_jobid, which is an import too many here: what the reader refuses would stay for ever
    if not jobid.isdecimal() or not jobid.isascii() or len(jobid) > 10 or jobid[0] == "0":
        raise ValueError(f"SLURM_JOB_ID={jobid[:40]!r} is not a job id")
    pairs = [("event", event), ("boot_id", _boot_id()), ("node", node)]
    pairs += [(name, env[name]) for name in VARIABLES if 0 < len(env.get(name, "")) <= MAX_VALUE]
    fields = [f'"t_ns":{t_ns},"wall_s":{wall_s!r}']
    quoted = [(name, _quote(value)) for name, value in pairs]
    fields += [f"{_quote(name)}:{value}" for name, value in quoted if len(value) <= MAX_VALUE + 2]
    directory = _open_directory(os.fspath(state))
    try:
        _store(directory, f"{jobid}.{node}.{event}.json", "{" + ",".join(fields) + "}\n")
    finally:
        os.close(directory)


def node_name(env: Mapping[str, str]) -> str:
    """Slurm's name of this node: SLURMD_NODENAME, else the short host name."""
    node = env.get("SLURMD_NODENAME", "") or os.uname().nodename.partition(".")[0]
    plain = node.replace("-", "").replace("_", "").replace(".", "")
    if not (plain.isalnum() and plain.isascii() and len(node) <= 64) or node.startswith("."):
        raise ValueError(f"SLURMD_NODENAME={node[:70]!r} is not a node name")
    return node


def run_hook(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """
    ``prolog|epilog [--path.state DIR]``: store the record; always 0, always within ``LIMIT_S``.

    Trouble is one line on stderr (slurmd puts it into its log): a hook that failed would drain
    the node. Uses SIGALRM, so it is for a process that does nothing else.
    """
    _limit()
    t_ns, wall_s = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time()
    if "-h" in argv or "--help" in argv:
        _say(sys.stdout, USAGE.format(STATE))
        return 0
    event, state, odd = _arguments(argv)
    if odd:
        _complain(f"jobwatt hook: ignored: {' '.join(odd)}; known is --path.state DIR")
    try:
        write(state, event, env, t_ns=t_ns, wall_s=wall_s)
    except (OSError, ValueError) as err:
        _complain(f"jobwatt hook: nothing recorded under {state}/hooks: {err}")
    return 0


def _arguments(argv: Sequence[str]) -> tuple[str, str, list[str]]:
    """Event, state directory, and what is neither."""
    event, state, odd = "", STATE, []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--path.state":
            value = value if equals else next(words, "")
            state = value or state
            odd += [] if value else [word]
        elif event or word.startswith("-"):
            odd.append(word)
        else:
            event = word
    return event, state, odd


def _limit() -> None:
    _signal.signal(_signal.SIGALRM, lambda *_: os._exit(0))
    _signal.setitimer(_signal.ITIMER_REAL, LIMIT_S)


def _complain(line: str) -> None:
    _say(sys.stderr, line.replace("\n", " ")[:500] + "\n")


def _say(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError, AttributeError):  # closed, full or missing: nobody to tell
        return


def _boot_id() -> str:
    """Tell the kernel's own, whatever the daemon is told to read; "" where it is hidden."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


def _quote(text: str) -> str:
    """A JSON string in ASCII (RFC 8259); what is not in the BMP or not text becomes U+FFFD."""
    out = ['"']
    for char in text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"):
        plain = " " <= char <= "~" and char not in '"\\'
        out.append(char if plain else f"\\u{ord(char) if ord(char) < 0x10000 else 0xFFFD:04x}")
    out.append('"')
    return "".join(out)


def _open_directory(state: str) -> int:
    """
    Open ``<state>/hooks``, made 0750 where missing and given to whom ``state`` belongs.

    A link, a directory of a third party, or one that group or others may write to is refused:
    root would be writing where somebody else decides.
    """
    path = f"{state}/hooks"
    try:
        directory = os.open(path, _DIR_FLAGS)
    except FileNotFoundError:
        directory = _make_directory(state, path)
    mine, above = os.fstat(directory), os.stat(state)  # noqa: PTH116
    if mine.st_uid not in (0, os.geteuid(), above.st_uid) or mine.st_mode & 0o022:
        os.close(directory)
        raise PermissionError(
            f"{path} belongs to uid {mine.st_uid}, mode {mine.st_mode & 0o7777:04o}: it must be "
            f"root's or the daemon's own, and not writable by others (mend: chmod 0750 {path})"
        )
    return directory


def _make_directory(state: str, path: str) -> int:
    os.makedirs(state, mode=0o755, exist_ok=True)  # noqa: PTH103
    try:
        os.mkdir(path, 0o750)  # noqa: PTH102
    except FileExistsError:  # another job's hook was faster
        return os.open(path, _DIR_FLAGS)
    directory, above = os.open(path, _DIR_FLAGS), os.stat(state)  # noqa: PTH116
    # an unprivileged daemon must be able to read and to tidy up; a directory with something in it
    # is none that we made: somebody was faster with another one
    if os.geteuid() == 0 and not os.listdir(directory):  # noqa: PTH208  of the descriptor
        os.fchown(directory, above.st_uid, above.st_gid)
    return directory


def _store(directory: int, name: str, text: str) -> None:
    aside = f".{name}.{os.getpid()}.tmp"
    file = os.open(aside, _FILE_FLAGS, 0o640, dir_fd=directory)
    try:
        if os.geteuid() == 0:
            os.fchown(file, -1, os.fstat(directory).st_gid)
        _write_all(file, text.encode("ascii"))
        os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(aside, dir_fd=directory)
        raise
    finally:
        os.close(file)


def _write_all(file: int, data: bytes) -> None:
    if os.write(file, data) != len(data):
        raise OSError("no room left on the device")
