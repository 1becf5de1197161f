"""A node's power through IPMI, in-band: a reading, what is missing, and children that misbehave."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from ipmikit import DATA, inband, reason, script
from jobwatt.model import NS_PER_S, Domain, Kind
from jobwatt.sources.ipmi_child import Runner

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="giving up rights takes root")


def running(mark: str) -> list[int]:
    """Processes with ``mark`` in their command line; a zombie has none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_reading_of_this_nodes_bmc(tmp_path: Path) -> None:
    """Power in uW of the node, at the moment of the answer, with the interval of the questions."""
    script(tmp_path / "ipmitool", f"cat {DATA}/ipmitool-active.txt")
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    result = inband(tmp_path, includes_gpu=False).look()
    (reading,), (sample,) = result.readings, result.samples
    assert (reading.kind, reading.value, reading.every_ns) == (
        Kind.POWER,
        1_287_000_000,
        10 * NS_PER_S,
    )
    assert before < reading.t_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    device = reading.device
    assert (device.domain, device.id, device.source, device.name) == (
        Domain.NODE,
        "bmc",
        "bmc",
        "dcmi",
    )
    assert (device.summed, device.includes_gpu) == (True, False)
    assert (sample.metric, sample.labels, sample.value) == (
        "jobwatt_wall_power_watts",
        ("bmc", "dcmi"),
        1287.0,
    )


def test_a_child_gets_nothing_of_ours(tmp_path: Path) -> None:
    """No environment but the locale and a path, no descriptor, empty stdin, a group of its own."""
    said = tmp_path / "said"
    script(
        tmp_path / "ipmitool",
        f"{{ env; ls /proc/self/fd; cat; cut -d' ' -f5 /proc/$$/stat; }} >{said} 2>&1",
    )
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    os.environ["JOBWATT_SECRET"] = "s3cret"
    try:
        inband(tmp_path).look()
    finally:
        os.close(held)
        del os.environ["JOBWATT_SECRET"]
    lines = said.read_text().split()
    assert "LC_ALL=C" in lines
    assert "s3cret" not in said.read_text()
    assert [word for word in lines if word.isdigit()][:4] == ["0", "1", "2", "3"]  # 3: ls's own
    assert int(lines[-1]) != os.getpgrp()


@pytest.mark.parametrize(
    ("tool", "expected"),
    [("auto", "no_tool"), ("ipmitool", "no_tool")],
)
def test_no_tool(tmp_path: Path, tool: str, expected: str) -> None:
    """Said, with what to install."""
    assert reason(inband(tmp_path, tool).look()) == expected


def test_no_device(tmp_path: Path) -> None:
    """Without the kernel's driver no tool is started, and modprobe is named."""
    started = tmp_path / "started"
    script(tmp_path / "ipmitool", f"touch {started}")
    result = inband(tmp_path, device=tmp_path / "ipmi0").look()
    assert reason(result) == "no_device"
    assert "modprobe -a ipmi_devintf ipmi_si" in result.failures[0].message
    assert not started.exists()


@root_only
def test_no_permission() -> None:
    """A device that the daemon's user may not open is said before a tool is started."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        device, started = Path(name) / "ipmi0", Path(name) / "started"
        device.touch(mode=0o600)
        script(Path(name) / "ipmitool", f"touch {started}")
        os.seteuid(65534)
        try:
            result = inband(Path(name), device=device).look()
        finally:
            os.seteuid(0)
        assert not started.exists()
    assert reason(result) == "permission"
    assert "udev" in result.failures[0].message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("exec sleep 1000.5", "timeout"),
        ("exec >&- 2>&-; exec sleep 1000.5", "timeout"),  # nothing to read and yet alive
        ("trap '' TERM HUP INT; while :; do sleep 1000.5; done", "timeout"),
        ("head -c 104857600 /dev/zero", "garbage"),
        ("head -c 104857600 /dev/zero >&2", "garbage"),
        ("yes", "garbage"),
        ("kill -SEGV $$", "failed"),
        ("exit 3", "failed"),
        ("true", "garbage"),
        ("printf '\\377\\376 Watts'", "garbage"),
        ("echo Could not open device at /dev/ipmi0: Permission denied >&2; exit 1", "permission"),
        ("echo Could not open device at /dev/ipmi0: No such file >&2; exit 1", "no_device"),
    ],
)
def test_a_child_that_misbehaves_costs_one_reading(
    tmp_path: Path, body: str, expected: str
) -> None:
    """Hanging, dying, endless or senseless: a reason, no descriptor more, no process left."""
    script(tmp_path / "ipmitool", body)
    bmc = inband(tmp_path, timeout_s=0.5 if expected == "timeout" else 60)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert reason(bmc.look()) == expected
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert _gone(str(tmp_path))
    script(tmp_path / "ipmitool", f"cat {DATA}/ipmitool-active.txt")
    assert inband(tmp_path).look().failures == ()


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    """What cannot be started is a reason like any other."""
    (tmp_path / "ipmitool").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "ipmitool").chmod(0o755)
    assert reason(inband(tmp_path).look()) == "no_tool"


def test_grandchildren_do_not_outlive_the_question(tmp_path: Path) -> None:
    """They hold the pipe open and hang: they are killed with the child, and not only the child."""
    mark = f"1000.{os.getpid()}1"
    script(tmp_path / "ipmitool", f"sleep {mark} & (sleep {mark} & sleep {mark}) & sleep {mark}")
    assert reason(inband(tmp_path, timeout_s=0.5).look()) == "timeout"
    assert _gone(mark)


def test_an_answer_is_not_waited_for_twice(tmp_path: Path) -> None:
    """A child that answered and left a process with the pipe open: its answer counts at once."""
    mark = f"1000.{os.getpid()}2"
    script(tmp_path / "ipmitool", f"sleep {mark} & cat {DATA}/ipmitool-active.txt")
    assert inband(tmp_path, timeout_s=60).look().readings[0].value == 1_287_000_000
    assert _gone(mark)


def test_one_that_left_the_group_is_not_waited_for(tmp_path: Path) -> None:
    """A process that made itself a session holds the pipe: the question ends all the same."""
    mark = f"3.{os.getpid()}3"
    script(tmp_path / "ipmitool", f"setsid sleep {mark} & cat {DATA}/ipmitool-active.txt")
    assert inband(tmp_path, timeout_s=60).look().failures == ()


def _gone(mark: str) -> bool:
    """Whether all processes with the mark end within a while: a kill takes its time."""
    deadline = time.monotonic() + 60
    while running(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running(mark)


def test_a_child_that_cannot_be_killed_is_not_joined_by_another(tmp_path: Path) -> None:
    """It waits in the kernel: no second one is started beside it until it is gone."""
    runner = Runner(60.0)
    with subprocess.Popen(["sleep", "1000"]) as unkillable:
        runner._left = unkillable
        assert runner.run(["/bin/true"], {}).trouble == "stuck"
        unkillable.kill()
        unkillable.wait()
        assert runner.run(["/bin/true"], {}).status == 0
