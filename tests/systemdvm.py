"""
A small Debian with systemd as its first process: what a package and a unit really do.

    root = debian(tmp / "root")              # mmdebstrap, then a copy of it
    inside(root, "dpkg", "-i", "/x.deb")     # a command in there, with a /proc of its own
    boot(root, "check.py")                   # User Mode Linux over that directory; runs it, powers off

The kernel is Debian's user-mode-linux: cgroup v2, seccomp and udev are real, nothing of this machine's
is touched. Two things differ from a node: a file that is made below ``/`` belongs to root, whoever makes
it (hostfs), so what the daemon writes is put on a tmpfs; and there is no hardware.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

# nothing that the package should bring itself: Python, systemd, and udev for the rule
PACKAGES = "python3,systemd,systemd-sysv,udev"
_STATE = "tmpfs /var/lib/jobwatt tmpfs mode=0755 0 0\n"


def debian(root: Path) -> Path:
    """This machine's Debian, from where its apt gets it, in a directory of its own."""
    release = Path("/etc/os-release").read_text()
    suite = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)[1]
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"],
        check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    mirror = next(line.split()[0] for line in listed if line.split()[1:] == [suite])
    subprocess.run(
        [
            # mounts of its own: where it is killed, none are left for somebody's rm to walk through
            *("unshare", "--mount", "--propagation", "private"),
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={PACKAGES}",
            suite,
            root,
            mirror,
        ],
        check=True,
    )
    return root


def copy(root: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", root, to], check=True)
    return to


def inside(root: Path, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in ``root`` as its root; its own /proc, for systemd's tools want one."""
    mounted = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", mounted, root, *argv],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def boot(root: Path, script: Path, limit_s: float = 450) -> str:
    """Boot ``root``, run ``script`` there with Python once all is up, power off; returns what it printed."""
    guest = root / "guest"
    guest.mkdir(exist_ok=True)
    for file in script.parent.iterdir():
        if file.is_file():
            shutil.copy(file, guest)
    (root / "etc/fstab").write_text(_STATE)
    units = root / "etc/systemd/system"
    (units / "check.service").write_text(
        "[Unit]\nAfter=multi-user.target\nSuccessAction=poweroff\nFailureAction=poweroff\n"
        "[Service]\nType=exec\n"
        f"ExecStart=/usr/bin/python3 -u /guest/{script.name}\n"
        "StandardOutput=truncate:/guest/out\nStandardError=inherit\nTimeoutStopSec=5\n"
    )
    wants = units / "graphical.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "check.service").symlink_to("../check.service")
    (root / "uml").mkdir(exist_ok=True)
    argv = [
        "linux.uml",
        "mem=768M",
        "root=/dev/root",
        "rootfstype=hostfs",
        f"rootflags={root}",
        "rw",
    ]
    argv += ["con=null", "con0=fd:0,fd:1", "init=/lib/systemd/systemd", f"uml_dir={root}/uml"]
    console = root.with_suffix(".console")
    with console.open("wb") as out:
        machine = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            machine.wait(limit_s)
        finally:  # each process of the guest is one of this machine's, and outlives its kernel
            with suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
    try:
        return (guest / "out").read_text()
    except FileNotFoundError:
        raise AssertionError(
            f"nothing ran: {console.read_text(errors='replace')[-3000:]}"
        ) from None
