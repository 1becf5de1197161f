"""
Runs a rendered pod's container on this machine as a kubelet would have a runtime do it, as far as the pod's rights go.

A mount namespace with this machine's files under an overlay (the image), remounted read-only; the pod's volumes bound
into it; uid, group, bounding set and no_new_privs as the securityContext says. Not done: seccomp, cgroups, networks, the
runtime's own masks. Needs root, and a kernel that lets it mount.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# $1: the pod as JSON. Runs in a new mount namespace; what it mounts ends with it.
_ENTER = r"""
import json, os, subprocess, sys
pod = json.loads(sys.argv[1])
def mount(*args): subprocess.run(["mount", *args], check=True)
base = pod["scratch"]
mount("-t", "tmpfs", "tmpfs", base)
root = base + "/root"
for name in ("upper", "work", "root"): os.mkdir(f"{base}/{name}")
mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={base}/upper,workdir={base}/work", root)
for path in ("/dev", "/proc"): mount("--rbind", path, root + path)
for place, source, read_only in pod["mounts"]:
    os.makedirs(root + place, exist_ok=True)
    if source is None: mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root + place)
    else: mount("--bind", source, root + place)
    if read_only: mount("-o", "remount,bind,ro", root + place)
for path in pod["image"]:  # what the image holds, and may be a mount of its own here, or below a volume's place (/tmp)
    os.makedirs(root + path, exist_ok=True)
    mount("--bind", path, root + path)
    if pod["read_only"]: mount("-o", "remount,bind,ro", root + path)
if pod["read_only"]: mount("-o", "remount,bind,ro", root)
os.chroot(root)
os.chdir("/")
os.execvpe("setpriv", ["setpriv", *pod["rights"], *pod["argv"]], {**os.environ, **pod["env"]})
"""


def rights(pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    """The securityContexts as setpriv's arguments."""
    whole, own = pod["securityContext"], container["securityContext"]
    assert own["capabilities"]["drop"] == ["ALL"]
    kept = "".join(f",+{name.lower()}" for name in own["capabilities"].get("add", []))
    groups = [*whole.get("supplementalGroups", [])]
    groups += [whole["fsGroup"]] if "fsGroup" in whole else []
    return [
        f"--reuid={whole['runAsUser']}",
        f"--regid={whole['runAsGroup']}",
        f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups",
        f"--bounding-set=-all{kept}",
        "--inh-caps=-all",
        *(["--no-new-privs"] if not own["allowPrivilegeEscalation"] else []),
    ]


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


@contextmanager
def running(
    pod: Mapping[str, Any], node: Mapping[str, Path], scratch: Path, argv: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """The pod's first container; ``node``: what stands for each hostPath and volume; ``argv`` instead of its own command."""
    container = pod["containers"][0]
    scratch.mkdir()
    command = [*container["command"], *container["args"]]
    tools = Path(sys.executable).parent
    told = {
        "scratch": str(scratch),
        "image": [sys.prefix, str(Path(__file__).resolve().parent.parent)],
        "mounts": mounts(pod, container, node),
        "read_only": container["securityContext"]["readOnlyRootFilesystem"],
        "rights": rights(pod, container),
        "argv": list(argv) or [str(tools / command[0]), *command[1:]],
        "env": {"PATH": f"{tools}:{os.environ['PATH']}"},
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
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
