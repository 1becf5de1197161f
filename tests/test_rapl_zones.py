"""RAPL from trees of real files: which zones there are, what they are called and which are added up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jobwatt.model import Domain, Kind, Reading
from jobwatt.sources.rapl import RaplSource, open_source
from raplkit import by_id
from trees import AMD_RANGE_UJ, INTEL_DRAM_RANGE_UJ, INTEL_PACKAGE_RANGE_UJ, Node

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def summed(readings: Iterable[Reading]) -> dict[Domain, int]:
    totals: dict[Domain, int] = {}
    for reading in readings:
        if reading.device.summed:
            totals[reading.device.domain] = totals.get(reading.device.domain, 0) + reading.value
    return totals


def test_dual_socket_intel(tmp_path: Path) -> None:
    """Packages and dram are added, once each; core and psys are shown; mmio is not there at all."""
    node = Node(tmp_path, cpus=8, sockets=2)
    node.add_intel(sockets=2)
    for number, zone in enumerate(sorted(node.rapl)):
        node.advance_rapl(zone, 10**number)
    result = open_source(node.sys).read(full=True)
    found = by_id(result)
    assert result.failures == ()
    assert sorted(found) == sorted(z for z in node.rapl if "mmio" not in z)
    assert {zone: reading.value for zone, reading in found.items()} == {
        zone: node.rapl[zone].total_uj for zone in found
    }
    package, dram, core = (
        found[z].device for z in ("intel-rapl:1", "intel-rapl:1:1", "intel-rapl:1:0")
    )
    assert (package.domain, package.summed, package.parent, package.name) == (
        Domain.CPU,
        True,
        "",
        "package-1",
    )
    assert (dram.domain, dram.summed, dram.parent, dram.name) == (
        Domain.DRAM,
        True,
        "intel-rapl:1",
        "dram",
    )
    assert (core.domain, core.summed, core.parent) == (Domain.CPU, False, "intel-rapl:1")
    assert package.cpus == dram.cpus == core.cpus == frozenset({4, 5, 6, 7})
    psys = found["intel-rapl:2"].device
    assert (psys.domain, psys.summed, psys.name) == (Domain.NODE, False, "psys")
    assert summed(found.values()) == {
        Domain.CPU: sum(node.rapl[z].total_uj for z in ("intel-rapl:0", "intel-rapl:1")),
        Domain.DRAM: sum(node.rapl[z].total_uj for z in ("intel-rapl:0:1", "intel-rapl:1:1")),
    }


def test_ranges_and_greatest_power(tmp_path: Path) -> None:
    """Each zone has its own range; a declared power is believed, a missing or a silly one is not."""
    node = Node(tmp_path)
    node.add_intel(sockets=1)
    found = by_id(RaplSource(node.sys).read(full=True))
    package, core, dram = (found[z] for z in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1"))
    assert (package.kind, package.wrap_uj) == (Kind.ENERGY, INTEL_PACKAGE_RANGE_UJ)
    assert (package.max_power_uw, core.max_power_uw) == (250_000_000, 1_000_000_000)
    assert (dram.wrap_uj, dram.max_power_uw) == (INTEL_DRAM_RANGE_UJ, 100_000_000)


def test_amd_has_no_dram(tmp_path: Path) -> None:
    """Absent is absent: no dram device, not one of 0 J."""
    node = Node(tmp_path, sockets=2)
    node.add_amd(sockets=2)
    result = RaplSource(node.sys).read(full=True)
    assert {reading.device.domain for reading in result.readings} == {Domain.CPU}
    assert [r.device.name for r in result.readings if r.device.summed] == ["package-0", "package-1"]
    assert result.readings[0].wrap_uj == AMD_RANGE_UJ
    assert result.failures == ()


def test_zone_numbers_are_hexadecimal(tmp_path: Path) -> None:
    """The eleventh zone is intel-rapl:a and named package-10."""
    node = Node(tmp_path, cpus=22, sockets=11)
    node.add_many_packages(11)
    found = by_id(RaplSource(node.sys).read(full=True))
    assert len(found) == 11
    assert found["intel-rapl:a"].device.name == "package-10"
    assert found["intel-rapl:a"].device.cpus == frozenset({20, 21})


def test_zones_per_die(tmp_path: Path) -> None:
    """package-N-die-M feeds that die's CPUs only; together they feed all, none twice."""
    node = Node(tmp_path, cpus=16, sockets=2, dies=2)
    node.add_dies(sockets=2, dies=2)
    devices = [r.device for r in RaplSource(node.sys).read(full=True).readings]
    assert [d.name for d in devices] == [f"package-{p}-die-{d}" for p in (0, 1) for d in (0, 1)]
    assert [sorted(d.cpus) for d in devices] == [list(range(n, n + 4)) for n in (0, 4, 8, 12)]
    assert all(d.summed for d in devices)


def test_mmio_counts_where_msr_does_not_exist(tmp_path: Path) -> None:
    """The twin is the only door to the package then; a psys beside it does not shut it."""
    node = Node(tmp_path)
    node.add_rapl("intel-rapl-mmio:0", "package-0", energy_uj=7)
    node.add_rapl("intel-rapl:0", "psys", energy_uj=9)
    assert summed(RaplSource(node.sys).read(full=True).readings) == {Domain.CPU: 7}


def test_an_unknown_name_is_shown_and_not_added(tmp_path: Path) -> None:
    """What a zone is can be told from its name only."""
    node = Node(tmp_path)
    node.add_intel(sockets=1, psys=False)
    node.add_rapl("intel-rapl:0:2", "accelerator", energy_uj=5)
    device = by_id(RaplSource(node.sys).read(full=True))["intel-rapl:0:2"].device
    assert (device.domain, device.summed, device.parent) == (Domain.OTHER, False, "intel-rapl:0")


def test_each_reading_carries_its_own_moment(tmp_path: Path) -> None:
    """Zones are not read at one moment; times lie within the read and in order."""
    node = Node(tmp_path)
    node.add_intel()
    source = RaplSource(node.sys)
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    times = [reading.t_ns for reading in source.read(full=False).readings]
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before <= times[0] < times[-1] <= after
    assert times == sorted(times)
