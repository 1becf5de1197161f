"""What looks at RAPL's trees share: devices by id, and a process without rights."""

from __future__ import annotations

import ctypes
import json
import os
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jobwatt.model import Reading, SourceResult
    from trees import Node

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="giving up rights takes root")
NOW = {"rescan_ns": 0, "first_retry_ns": 0}  # look for changes at every read


def by_id(result: SourceResult) -> dict[str, Reading]:
    found = {reading.device.id: reading for reading in result.readings}
    assert len(found) == len(result.readings)
    return found


def as_nobody(read: Callable[[], SourceResult], *, perf: bool) -> dict[str, object]:
    """What ``read`` gives to a process without any right (``perf``: but CAP_PERFMON)."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _drop_rights(keep_perfmon=perf)
            result = read()
            said = {
                "ids": [r.device.id for r in result.readings],
                "failures": [(f.reason, f.message, f.device) for f in result.failures],
            }
            os.write(theirs, json.dumps(said).encode())
        except BaseException:  # noqa: BLE001 - whatever it is, the parent's failure shows it
            os.write(theirs, json.dumps({"raised": traceback.format_exc()}).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    said = dict(json.loads(data))
    assert "raised" not in said, said["raised"]
    return said


def _drop_rights(*, keep_perfmon: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    perfmon = 38  # CAP_PERFMON, include/uapi/linux/capability.h
    assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    high = 1 << (perfmon - 32) if keep_perfmon else 0
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = (ctypes.c_uint32 * 6)(0, 0, 0, high, high, 0)
    assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())


def denied(tmp_path: Path, node: Node) -> None:
    """energy_uj as since Linux 5.10: 0400 root; the way to it open to everybody."""
    for zone in node.rapl.values():
        (zone.path / "energy_uj").chmod(0o400)
    for directory in (tmp_path, *list(tmp_path.parents)[:-2]):
        directory.chmod(0o755)
