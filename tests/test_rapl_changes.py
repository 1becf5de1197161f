"""RAPL from trees of real files: counters that wrap, and zones that break, go and come while they are read."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jobwatt.meter import measure
from jobwatt.model import Failure, Step
from jobwatt.sources.rapl import RaplSource, open_source
from raplkit import NOW, by_id
from trees import Node

if TYPE_CHECKING:
    from collections.abc import Callable


def test_wrap_is_unwrapped_exactly(tmp_path: Path) -> None:
    """Through the meter, the sum of deltas is the simulated truth, wraps or not."""
    node = Node(tmp_path)
    node.add_rapl("intel-rapl:0", "package-0", range_uj=1_000_003, energy_uj=999_999)
    source = RaplSource(node.sys)
    cursors, total, steps = {}, 0, set()
    for n in range(50):
        if n:
            node.advance_rapl("intel-rapl:0", 77_777 * n % 1_000_003)
        metered = measure(cursors, source.read(full=True).readings, 10**12)
        cursors = metered.cursors
        total += metered.booked[0].energy_uj
        steps.add(metered.booked[0].step)
    assert total == node.rapl["intel-rapl:0"].total_uj > 2 * 1_000_003
    assert steps == {Step.FIRST, Step.NORMAL, Step.WRAPPED}


def test_a_file_is_opened_once(tmp_path: Path) -> None:
    """Reading again costs no descriptor, and close gives them all back."""
    node = Node(tmp_path)
    node.add_intel()
    open_fds = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731 - said once, used thrice
    start = open_fds()
    source = RaplSource(node.sys, **NOW)
    source.read(full=True)
    once = open_fds()
    for _ in range(20):
        source.read(full=True)
    assert open_fds() == once == start + 7
    source.close()
    assert open_fds() == start
    assert len(source.read(full=True).readings) == 7  # and opens them again
    source.close()


def test_a_garbled_zone_is_its_own_failure(tmp_path: Path) -> None:
    """The other zones stay, the failure lasts while its cause does, and the zone comes back."""
    node = Node(tmp_path)
    node.add_intel(sockets=2, psys=False, mmio=False)
    source = RaplSource(node.sys, **NOW)
    source.read(full=True)
    file = node.rapl["intel-rapl:1:1"].path / "energy_uj"
    file.write_text("nonsense\n")
    for _ in range(3):
        result = source.read(full=True)
        assert "intel-rapl:1:1" not in by_id(result)
        assert len(result.readings) == 5
        assert result.failures == (
            Failure(
                "rapl",
                "garbled",
                f"{source._powercap}/intel-rapl:1:1/energy_uj holds no number",
                "intel-rapl:1:1",
            ),
        )
    file.write_text("42\n")
    result = source.read(full=True)
    assert by_id(result)["intel-rapl:1:1"].value == 42
    assert result.failures == ()


def test_a_zone_that_vanishes_takes_only_itself(tmp_path: Path) -> None:
    """Module unloaded for one socket: gone is said until it is back; the other socket stays."""
    node = Node(tmp_path)
    node.add_intel(sockets=2, psys=False, mmio=False)
    source = RaplSource(node.sys, **NOW)
    source.read(full=True)
    node.remove_rapl("intel-rapl:1")
    for _ in range(3):
        result = source.read(full=True)
        assert sorted(by_id(result)) == ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1"]
        assert {(f.reason, f.device) for f in result.failures} == {
            ("gone", zone) for zone in ("intel-rapl:1", "intel-rapl:1:0", "intel-rapl:1:1")
        }
    node.add_rapl("intel-rapl:1", "package-1", energy_uj=5)
    result = source.read(full=True)
    assert by_id(result)["intel-rapl:1"].value == 5
    assert {f.device for f in result.failures} == {"intel-rapl:1:0", "intel-rapl:1:1"}


def test_a_new_zone_is_found_by_the_rescan(tmp_path: Path) -> None:
    """And not before: a read between two rescans lists no directory."""
    node = Node(tmp_path)
    node.add_rapl("intel-rapl:0", "package-0")
    source = RaplSource(node.sys, rescan_ns=1_000_000_000)
    source.read(full=True)
    node.add_rapl("intel-rapl:1", "package-1")
    assert len(source.read(full=True).readings) == 1
    _until_scan(source)
    assert len(source.read(full=True).readings) == 2


def _until_scan(source: RaplSource) -> None:
    while time.clock_gettime_ns(time.CLOCK_BOOTTIME) < source._next_scan_ns:
        time.sleep(0.01)


def test_a_replaced_zone_is_read_anew(tmp_path: Path) -> None:
    """Module unloaded and loaded between two rescans: same path, another file."""
    node = Node(tmp_path)
    node.add_rapl("intel-rapl:0", "package-0", energy_uj=1)
    source = RaplSource(node.sys, **NOW)
    source.read(full=True)
    node.remove_rapl("intel-rapl:0")
    node.add_rapl("intel-rapl:0", "package-0", energy_uj=2)
    assert by_id(source.read(full=True))["intel-rapl:0"].value == 2


def test_retries_grow_rarer(tmp_path: Path) -> None:
    """A zone that stays broken is tried after 1, 2, 4 ... periods, not at each read."""
    node = Node(tmp_path)
    node.add_rapl("intel-rapl:0", "package-0")
    file = node.add_rapl("intel-rapl:1", "package-1").path / "energy_uj"
    file.unlink()
    source = RaplSource(node.sys, first_retry_ns=500_000_000)
    assert [f.reason for f in source.read(full=True).failures] == ["unreadable"]
    file.write_text("3\n")
    assert len(source.read(full=True).failures) == 1  # not tried yet, still said
    _until_scan(source)
    assert source.read(full=True).failures == ()
    delays = []
    file.unlink()
    source.close()
    for _ in range(3):
        source._next_scan_ns = 0
        source.read(full=True)
        delays.append(source._next_scan_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    assert delays[0] * 3 // 2 < delays[1] < delays[2] * 2 // 3


def test_no_powercap(tmp_path: Path) -> None:
    """A virtual machine: no reading, and it is said what is missing, in powercap and in perf."""
    node = Node(tmp_path)
    source = RaplSource(node.sys)
    for _ in range(2):
        result = source.read(full=True)
        assert result.readings == ()
        assert [f.reason for f in result.failures] == ["no_powercap", "no_perf"]
        assert str(node.sys / "class/powercap") in result.failures[0].message


def test_a_read_is_lean(tmp_path: Path) -> None:
    """Four zones in well under 100 us on files in memory, and no file is opened for it."""
    node = Node(tmp_path)
    node.add_intel(sockets=2, psys=False, mmio=False)
    node.remove_rapl("intel-rapl:0:0")
    node.remove_rapl("intel-rapl:1:0")
    source = RaplSource(node.sys)
    assert len(source.read(full=True).readings) == 4
    best = min(_seconds(lambda: source.read(full=False)) for _ in range(200))
    assert best < 100e-6


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_this_machine() -> None:
    """The real /sys: either it measures, or it says why not; it never raises."""
    source = RaplSource(Path("/sys"))
    result = source.read(full=True)
    assert bool(result.readings) != any(f.device == "" for f in result.failures)
    source.close()


def test_an_empty_counter_is_tried_again(tmp_path: Path) -> None:
    """A file being written anew is empty for a moment: no reading, no failure, no 0."""
    node = Node(tmp_path)
    node.add_intel(1)
    source = open_source(node.sys)
    before = by_id(source.read(full=True))
    zone, path = next((z, node.rapl[z].path / "energy_uj") for z in node.rapl if z in before)
    path.write_text("")
    during = source.read(full=True)
    path.write_text("123456\n")
    after = source.read(full=True)
    source.close()
    assert (zone in by_id(during), during.failures) == (False, ())
    assert by_id(during).keys() == before.keys() - {zone}
    assert by_id(after)[zone].value == 123456


def test_a_counter_replaced_by_a_rename_is_found_at_once(tmp_path: Path) -> None:
    """A value that stays, in a file without a name: the next read has the new file's."""
    node = Node(tmp_path)
    node.add_intel(1)
    source = open_source(node.sys)
    before = by_id(source.read(full=True))
    zone, path = next((z, node.rapl[z].path / "energy_uj") for z in node.rapl if z in before)
    (tmp_path / "new").write_text("123456\n")
    (tmp_path / "new").rename(path)
    source.read(full=True)
    result = source.read(full=True)
    source.close()
    assert result.failures == ()
    assert by_id(result)[zone].value == 123456
