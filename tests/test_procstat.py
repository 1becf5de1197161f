"""The node's CPU time, memory, boot and sockets, from real files and from this very machine."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.kernelfiles import parse_cpulist
from jobwatt.model import NodeUsage
from jobwatt.sources.procstat import (
    ProcStat,
    dies,
    parse_meminfo,
    parse_stat,
)
from treefiles import TICK_NS, cpulist
from trees import BOOT_ID, Node


def test_busy_time_is_user_nice_system_irq_softirq() -> None:
    """Guest is inside user; idle, iowait and steal are not busy; the sum line is no CPU."""
    line = b"cpu  9 9 9 9 9 9 9 9 9 9\ncpu3 1000 200 30 999999 888888 4 5 777777 600 50\nintr 7"
    assert parse_stat(line) == {3: 1239 * TICK_NS}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"cpu",
        b"cpu0",
        b"cpu0 1 2",
        b"cpu0 1 2 3 4 5 6 7",
        b"cpux 1 2 3 4 5 6 7 8",
        b"cpu0 a b c d e f g h",
    ],
)
def test_a_line_that_does_not_parse_is_left_out(text: bytes) -> None:
    """Unknown is not 0."""
    assert parse_stat(text) == {}


def test_ticks_that_pass_are_reported_on_the_cpu_they_passed_on(tmp_path: Path) -> None:
    """The file is kept open and still shows what was written after; idle adds nothing."""
    node = Node(tmp_path, cpus=4)
    stat = ProcStat(node.proc)
    assert stat.read().cpu_busy_ns == dict.fromkeys(range(4), 0)
    node.burn_system(500 * TICK_NS, [1])
    node.idle(10**9)
    first = stat.read()
    node.burn_system(100 * TICK_NS, [1, 2])
    second = stat.read()
    stat.close()
    assert first.cpu_busy_ns == {0: 0, 1: 500 * TICK_NS, 2: 0, 3: 0}
    assert second.cpu_busy_ns == {0: 0, 1: 550 * TICK_NS, 2: 50 * TICK_NS, 3: 0}
    assert stat.read() == second  # opens again after close


def test_all_cpus_of_a_large_machine_are_seen(tmp_path: Path) -> None:
    """1024 CPUs with large counts: several times the first buffer."""
    node = Node(tmp_path, cpus=1024)
    node.idle(10**18)
    node.burn_system(1024 * 10**17)
    usage = ProcStat(node.proc).read()
    assert usage.cpu_busy_ns == dict.fromkeys(range(1024), 10**17)


def test_an_offline_cpu_has_no_figure(tmp_path: Path) -> None:
    """Absent is absent, not 0."""
    node = Node(tmp_path, cpus=4)
    node.write_stat(offline=[2])
    assert set(ProcStat(node.proc).read().cpu_busy_ns) == {0, 1, 3}


def test_memory_in_use_leaves_page_cache_out(tmp_path: Path) -> None:
    """MemTotal - MemAvailable, in bytes."""
    node = Node(tmp_path, mem_total=512 << 30)
    node.set_mem_used(100 << 30)
    usage = ProcStat(node.proc).read()
    assert (usage.mem_total_bytes, usage.mem_used_bytes) == (512 << 30, 100 << 30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", (0, None)),
        (b"MemTotal:  1024 kB\nMemFree: 1 kB\n", (1024 << 10, None)),
        (b"MemTotal:  1024 kB\nMemAvailable:  24 kB\n", (1024 << 10, 1000 << 10)),
        (b"MemTotal:", (0, None)),
        (b"MemTotal: x kB\n", (0, None)),
    ],
)
def test_memory_that_is_not_told_is_unknown(text: bytes, expected: tuple[int, int | None]) -> None:
    """A missing line is None, never 0 in use."""
    assert parse_meminfo(text) == expected


def test_nothing_readable_is_an_empty_usage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No procfs at all: no figure, no exception, and the log says it once for each file."""
    stat = ProcStat(tmp_path / "proc")
    assert stat.read() == stat.read() == NodeUsage()
    assert stat.boot_id() == ""
    assert len([r for r in caplog.records if "proc/stat" in r.getMessage()]) == 1


def test_a_file_that_appears_later_is_read(tmp_path: Path) -> None:
    """A failure is not for ever."""
    stat = ProcStat(tmp_path / "proc")
    stat.read()
    Node(tmp_path, cpus=2)
    assert set(stat.read().cpu_busy_ns) == {0, 1}


def test_boot_id(tmp_path: Path) -> None:
    """Without its newline."""
    node = Node(tmp_path)
    assert ProcStat(node.proc).boot_id() == BOOT_ID


def test_sockets_and_dies(tmp_path: Path) -> None:
    """Every CPU is in exactly one die of one socket."""
    node = Node(tmp_path, cpus=8, sockets=2, dies=2)
    assert dies(node.sys) == {
        (0, 0): frozenset({0, 1}),
        (0, 1): frozenset({2, 3}),
        (1, 0): frozenset({4, 5}),
        (1, 1): frozenset({6, 7}),
    }


def test_a_cpu_without_topology_is_in_no_socket(tmp_path: Path) -> None:
    """Offline CPUs lose their topology directory; -1 means that the platform does not know."""
    node = Node(tmp_path, cpus=4)
    base = node.sys / "devices/system/cpu"
    (base / "cpu2/topology/physical_package_id").unlink()
    (base / "cpu3/topology/physical_package_id").write_text("-1\n")
    (base / "cpu0/topology/die_id").unlink()
    assert dies(node.sys) == {(0, 0): frozenset({0, 1})}


@given(st.frozensets(st.integers(0, 300)))
def test_cpulist_round_trip(cpus: frozenset[int]) -> None:
    """What the kernel's format can write, it reads back."""
    assert parse_cpulist(cpulist(cpus) + "\n") == cpus


def test_this_machine() -> None:
    """The real /proc and /sys: work done on one CPU shows on it, and all CPUs are in a socket."""
    stat = ProcStat(Path("/proc"))
    before = stat.read()
    worker = threading.Thread(target=lambda: sum(range(20_000_000)))
    worker.start()
    worker.join()
    after = stat.read()
    assert sum(after.cpu_busy_ns.values()) - sum(before.cpu_busy_ns.values()) >= 5 * TICK_NS
    assert set(after.cpu_busy_ns) <= set(range(os.cpu_count() or 0))
    assert 0 < (after.mem_used_bytes or 0) < after.mem_total_bytes
    assert stat.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("name", ["stat", "meminfo"])
def test_a_file_replaced_by_a_rename_is_read_anew(tmp_path: Path, name: str) -> None:
    """The open descriptor shows the old file for ever: it is let go of once it has no name."""
    node = Node(tmp_path, cpus=2)
    stat = ProcStat(node.proc)
    before = stat.read()
    texts = {
        "stat": b"cpu0 7 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\nintr 1\n",
        "meminfo": b"MemTotal: 1 kB\nMemAvailable: 0 kB\n",
    }
    (tmp_path / "new").write_bytes(texts[name])
    (tmp_path / "new").rename(node.proc / name)
    after = stat.read()
    stat.close()
    if name == "stat":
        assert after.cpu_busy_ns == {0: 7 * TICK_NS, 1: 0}
    else:
        assert (before.mem_total_bytes, after.mem_total_bytes) != (1024, before.mem_total_bytes)
        assert after.mem_total_bytes == 1024
