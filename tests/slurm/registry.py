"""What the clusters of this machine share: the users they add, and who is alive to use them."""

import fcntl
import json
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USERS = {"alice": 20001, "bob": 20002, "carol": 20003}
REGISTRY = Path("/run/jw-slurm")


@contextmanager
def _locked() -> Iterator[None]:
    REGISTRY.mkdir(exist_ok=True)
    with (REGISTRY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def started(pid: int) -> int | None:
    """The start time of a process in clock ticks (proc(5), field 22), None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def _claims() -> dict[Path, dict[str, Any]]:
    return {path: json.loads(path.read_text()) for path in REGISTRY.glob("*.json")}


def _alive(claim: dict[str, Any]) -> bool:
    return started(claim["pid"]) == claim["started"]


def claim(name: str, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Register a cluster, add the users that lack; returns the clusters whose owner died without a word."""
    with _locked():
        dead = [old for old in _claims().values() if not _alive(old)]
        owner = {"pid": os.getpid(), "started": started(os.getpid())}
        (REGISTRY / f"{name}.json").write_text(json.dumps(facts | owner | {"name": name}))
        for user, uid in USERS.items():
            _add_user(user, uid)
    return dead


def release(name: str) -> None:
    """Forget a cluster; the last one takes the users it or its peers added with it."""
    with _locked():
        (REGISTRY / f"{name}.json").unlink(missing_ok=True)
        if any(_alive(other) for other in _claims().values()):
            return
        for mark in REGISTRY.glob("user.*"):
            argv = ["userdel", mark.name.removeprefix("user.")]
            if subprocess.run(argv, capture_output=True, check=False).returncode in (0, 6):
                mark.unlink()  # 6: somebody else removed the user


def _add_user(user: str, uid: int) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        argv = ["useradd", "-M", "-N", "-u", str(uid), "-s", "/bin/bash", user]
        subprocess.run(argv, check=True, capture_output=True)
        (REGISTRY / f"user.{user}").touch()
