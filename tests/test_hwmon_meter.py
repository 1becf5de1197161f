"""hwmon from trees of real files: ACPI power meters, one or several, are the node."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from hwmonkit import add_grace, add_meter, meter_result, until
from jobwatt.meter import measure
from jobwatt.model import Domain, Kind, Step
from jobwatt.sources.hwmon import HwmonSource, open_source
from jobwatt.sources.hwmon_chips import find_sensors
from treefiles import write
from trees import Node

if TYPE_CHECKING:
    from pathlib import Path

ACPI = "LNXSYSTM:00/LNXSYBUS:00/ACPI000D:00"


@pytest.mark.parametrize("inside", [False, True])
def test_the_acpi_meter_is_the_node(tmp_path: Path, inside: bool) -> None:
    """Its power in uW, wherever the driver has its attributes, under the name of its place."""
    node = Node(tmp_path)
    add_meter(node, 4, 431.0, place=ACPI, inside=inside)
    result = meter_result(node)
    (reading,) = result.readings
    device = reading.device
    assert (reading.kind, reading.value, reading.every_ns) == (Kind.POWER, 431_000_000, 10**9)
    assert (device.domain, device.id, device.source) == (
        Domain.NODE,
        f"hwmon:{ACPI}/power1",
        "hwmon",
    )
    assert (device.name, device.summed, device.includes_gpu) == ("power_meter:power1", True, True)
    assert [(s.metric, s.labels, s.value) for s in result.samples] == [
        ("jobwatt_hwmon_power_watts", ("power_meter", "power1"), 431.0),
        ("jobwatt_wall_power_watts", ("hwmon", "power_meter:power1"), 431.0),
    ]
    assert result.failures == ()


def test_whether_the_meter_sees_the_gpus_is_the_sites_to_say(tmp_path: Path) -> None:
    """hwmon.includes-gpu reaches the device."""
    node = Node(tmp_path)
    add_meter(node, 0, 431.0)
    assert not meter_result(node, includes_gpu=False).readings[0].device.includes_gpu


def test_several_meters_are_one_node(tmp_path: Path) -> None:
    """Two supplies: their sum is the one device that is added up, and each is shown."""
    node = Node(tmp_path)
    add_meter(node, 0, 300.0)
    add_meter(node, 1, 310.5)
    result = meter_result(node, 3)
    total, *parts = sorted(result.readings, key=lambda r: not r.device.summed)
    assert (total.value, total.device.domain) == (610_500_000, Domain.NODE)
    assert [(p.device.summed, p.device.parent) for p in parts] == [(False, total.device.id)] * 2
    assert total.t_ns == max(part.t_ns for part in parts)
    assert len({sample.labels for sample in result.samples}) == 3
    (wall,) = (s for s in result.samples if s.metric == "jobwatt_wall_power_watts")
    assert wall.value == 610.5


def test_a_sum_with_an_unknown_part_is_unknown(tmp_path: Path) -> None:
    """One supply that says 0: not half a node, but none, and the reason."""
    node = Node(tmp_path)
    add_meter(node, 0, 300.0)
    add_meter(node, 1, 0)
    source = open_source(node.sys)
    result = until(source, lambda found: bool(found.readings))
    source.close()
    assert [(r.value, r.device.summed) for r in result.readings] == [(300_000_000, False)]
    assert [f.reason for f in result.failures] == ["no_value"]


@pytest.mark.parametrize("value", [0, 4_294_967_295_000, 2**64 - 1])
def test_no_value_is_unknown(tmp_path: Path, value: int) -> None:
    """0, firmware's -1 (0xFFFFFFFF mW) and garbage give no reading, and are told."""
    node = Node(tmp_path)
    write(add_meter(node, 0, 1.0) / "power1_average", value)
    source = open_source(node.sys)
    result = until(source, lambda found: bool(found.failures))
    source.close()
    assert result.readings == ()
    assert result.samples == ()
    assert [f.reason for f in result.failures] == ["no_value"]
    assert "hwmon0/device/power1_average" in result.failures[0].message


def test_a_meter_of_a_battery_is_not_the_node(tmp_path: Path) -> None:
    """power1_is_battery."""
    node = Node(tmp_path)
    base = add_meter(node, 0, 10.0)
    write(base / "power1_is_battery", 1)
    assert find_sensors(node.sys, "hwmon", includes_gpu=True) == []


def test_a_meter_that_hangs_stops_nothing(tmp_path: Path) -> None:
    """Its firmware does not answer (a FIFO nobody writes to): rails go on being read meanwhile."""
    node = Node(tmp_path)
    add_grace(node)
    base = add_meter(node, 9, 900.0)
    (base / "power1_average").unlink()
    os.mkfifo(base / "power1_average")
    source = HwmonSource(node.sys)
    assert len(source.read(full=True).readings) == 4
    assert len(source.read(full=True).readings) == 4
    unblock = os.open(base / "power1_average", os.O_RDWR | os.O_NONBLOCK)
    source.close()
    os.close(unblock)


def test_it_is_measured_through_the_meter(tmp_path: Path) -> None:
    """The meter's power becomes energy by the trapezoid of its own moments; a reading again adds nothing."""
    node = Node(tmp_path)
    add_meter(node, 0, 100.0)
    source = HwmonSource(node.sys, meter_s=0.05)
    first = until(source, lambda found: bool(found.readings))
    again = until(source, lambda found: found.readings[0].t_ns > first.readings[0].t_ns)
    source.close()
    cursors = measure({}, first.readings, 10**9).cursors
    (delta,) = measure(cursors, again.readings, 10**9).booked
    assert delta.step is Step.NORMAL
    assert delta.energy_uj == 100_000_000 * delta.dt_ns // 10**9 > 0
    (repeated,) = measure(
        measure(cursors, again.readings, 10**9).cursors, again.readings, 10**9
    ).booked
    assert repeated.energy_uj == 0
