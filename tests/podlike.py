"""
Runs a rendered pod's container on this machine as a kubelet would have a runtime do it, as far as the pod's rights go.

A mount namespace with an image's files under an overlay, or this machine's in their place, remounted read-only; the
pod's volumes bound into it; uid, group, bounding set and no_new_privs as the securityContext says. Not done: seccomp,
cgroups, networks, the runtime's own masks. Needs root, and a kernel that lets it mount.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# include/uapi/linux/capability.h
_NUMBERS = {"DAC_READ_SEARCH": 2, "SYS_PTRACE": 19, "PERFMON": 38}

# $1: the pod as JSON. Runs in a new mount namespace; what it mounts ends with it.
_ENTER = r"""
import ctypes, json, os, subprocess, sys
pod = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def mount(*args): subprocess.run(["mount", *args], check=True)
def prctl(*args):
    if libc.prctl(*args, *[0] * (5 - len(args))): raise OSError(ctypes.get_errno(), f"prctl{args}")
base = pod["scratch"]
mount("-t", "tmpfs", "tmpfs", base)
root = base + "/root"
for name in ("upper", "work", "root"): os.mkdir(f"{base}/{name}")
layers = f"lowerdir={pod['root']},upperdir={base}/upper,workdir={base}/work"
mount("-t", "overlay", "overlay", "-o", layers, root)
for path in ("/dev", "/proc"): mount("--rbind", path, root + path)
for place, source, read_only in pod["mounts"]:
    os.makedirs(root + place, exist_ok=True)
    if source is None: mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root + place)
    else: mount("--bind", source, root + place)
    if read_only: mount("-o", "remount,bind,ro", root + place)
for path in pod["holds"]:  # may be a mount of its own here, or below a volume's place (/tmp)
    os.makedirs(root + path, exist_ok=True)
    mount("--bind", path, root + path)
    if pod["read_only"]: mount("-o", "remount,bind,ro", root + path)
if pod["read_only"]: mount("-o", "remount,bind,ro", root)
os.chroot(root)
os.chdir("/")
with open("/proc/sys/kernel/cap_last_cap") as file: last = int(file.read())
for number in set(range(last + 1)) - set(pod["kept"]): prctl(24, number)  # PR_CAPBSET_DROP
prctl(8, 1)  # PR_SET_KEEPCAPS: up to its start only, for a Python that lies where root alone may look (/root)
os.setgroups(pod["groups"])
os.setresgid(*[pod["gid"]] * 3)
os.setresuid(*[pod["uid"]] * 3)
head, data = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()  # _LINUX_CAPABILITY_VERSION_3
libc.capget(head, data)
data[0], data[3] = data[1], data[4]  # effective = permitted
libc.capset(head, data)
if pod["no_new_privs"]: prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
os.execvpe(pod["argv"][0], pod["argv"], pod["env"])
"""


@dataclass(frozen=True)
class Image:
    """An image's files, and the environment that it gives its processes."""

    root: Path
    env: Mapping[str, str]


def rights(pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any]:
    """What the securityContexts leave to the process."""
    whole, own = pod["securityContext"], container["securityContext"]
    assert own["capabilities"]["drop"] == ["ALL"]
    groups = [*whole.get("supplementalGroups", [])]
    groups += [whole["fsGroup"]] if "fsGroup" in whole else []
    return {
        "uid": whole["runAsUser"],
        "gid": whole["runAsGroup"],
        "groups": groups,
        "kept": [_NUMBERS[name] for name in own["capabilities"].get("add", [])],
        "no_new_privs": not own["allowPrivilegeEscalation"],
        "read_only": own["readOnlyRootFilesystem"],
    }


def mounts(
    pod: Mapping[str, Any], container: Mapping[str, Any], node: Mapping[str, Path]
) -> list[list[Any]]:
    """Place in the container, directory on this machine (None: empty), whether it is read-only."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    found: list[list[Any]] = []
    for mount in container["volumeMounts"]:
        host = volumes[mount["name"]].get("hostPath")
        source = node[host["path"]] if host else node.get(mount["name"])
        source = None if source is None else str(source)
        found.append([mount["mountPath"], source, mount.get("readOnly", False)])
    return found


def this_machine(argv: Sequence[str]) -> dict[str, Any]:
    """This machine's files in place of an image: jobwatt is where this Python is."""
    tools = Path(sys.executable).parent
    found = str(tools / argv[0])
    return {
        "root": "/",
        "holds": [sys.prefix, str(Path(__file__).resolve().parent.parent)],
        "argv": [found if Path(found).exists() else argv[0], *argv[1:]],
        "env": {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
    }


@contextmanager
def running(
    pod: Mapping[str, Any],
    node: Mapping[str, Path],
    scratch: Path,
    argv: Sequence[str] = (),
    image: Image | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """The pod's first container; ``node``: what stands for each hostPath and volume; ``argv`` instead of its own command."""
    container = pod["containers"][0]
    scratch.mkdir()
    command = list(argv) or [*container["command"], *container["args"]]
    files = {"root": str(image.root), "holds": [], "argv": command, "env": dict(image.env)} if image else this_machine(command)  # fmt: skip
    told = {
        "scratch": str(scratch),
        "mounts": mounts(pod, container, node),
        **rights(pod, container),
        **files,
    }
    enter = ["unshare", "--mount", "--propagation=private", sys.executable, "-c", _ENTER]
    with subprocess.Popen(
        [*enter, json.dumps(told)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
