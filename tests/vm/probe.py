"""In the machine of systemdvm.py, under the unit's own rules: what a daemon that was taken over could do."""

# ruff: noqa: SIM115  each is an attempt, mostly refused
import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
OTHER = int(open("/guest/other.pid").read())  # a process of another user's


def call(name, *args):
    result = libc[name](*args)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def perf():
    # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, all processes of CPU 0: what RAPL's PMU asks for as well
    attr = struct.pack("=IIQQQQQIIQ", 1, 64, 0, 0, 0, 0, 0, 0, 0, 0)
    call("syscall", 298, attr, -1, 0, -1, 8)


TRIES = {
    # what the daemon needs
    "read /proc/PID/stat of others": lambda: open(f"/proc/{OTHER}/stat").read(),
    "read /proc/PID/cgroup of others": lambda: open(f"/proc/{OTHER}/cgroup").read(),
    "read /proc/stat": lambda: open("/proc/stat").read(),
    "list cgroups": lambda: os.listdir("/sys/fs/cgroup/system.slice"),
    "load a library": lambda: ctypes.CDLL("libc.so.6"),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    # what a drop-in opens
    "perf on a CPU": perf,
    "read /proc/PID/environ of others": lambda: open(f"/proc/{OTHER}/environ").read(),
    # what it never may
    "read /etc/shadow": lambda: open("/etc/shadow").read(),
    "read /guest/root-only": lambda: open("/guest/root-only").read(),
    "write /etc": lambda: open("/etc/jobwatt/x", "w"),
    "write /usr": lambda: open("/usr/lib/jobwatt/x", "w"),
    "write a cgroup": lambda: os.mkdir("/sys/fs/cgroup/system.slice/mine"),
    "write /proc/sys": lambda: open("/proc/sys/kernel/core_pattern", "w"),
    "read in /root": lambda: open("/root/secret").read(),
    "see /home": lambda: os.listdir("/home/alice"),
    "open a device open to all": lambda: open("/dev/kmsg-like", "rb"),
    "kill a job": lambda: os.kill(OTHER, 9),
    "trace a job": lambda: call("ptrace", 16, OTHER, 0, 0),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "a namespace": lambda: call("unshare", 0x10000000),
    "a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "become root": lambda: os.setuid(0),
    "memory to write and run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "a set-uid file": lambda: os.chmod("/var/lib/jobwatt", 0o4750),
    "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
}


def attempt(what):
    try:
        what()
    except OSError as err:
        return errno.errorcode.get(err.errno, str(err.errno))
    return "ok"


json.dump({name: attempt(what) for name, what in TRIES.items()}, sys.stdout)
