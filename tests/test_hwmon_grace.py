"""hwmon from trees of real files: the rails of NVIDIA Grace, and which of them is added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmonkit import GRACE_W, add_grace, add_meter, by_name, meter_result
from jobwatt.model import Domain
from jobwatt.sources.hwmon import open_source
from jobwatt.sources.hwmon_chips import parse_rail
from test_estimate import once, value
from treefiles import write
from trees import Node

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("sockets", [1, 2])
def test_grace_is_the_host_and_nothing_is_counted_twice(tmp_path: Path, sockets: int) -> None:
    """Of Module, Grace, CPU and SysIO of each socket only Grace is added up: never Module and GPU."""
    node = Node(tmp_path, cpus=8, sockets=sockets)
    add_grace(node, sockets)
    source = open_source(node.sys)
    result = source.read(full=True)
    source.close()
    assert result.failures == ()
    assert len(result.readings) == 4 * sockets
    added = [r for r in result.readings if r.device.summed]
    assert {r.device.domain for r in added} == {Domain.CPU}
    assert sum(r.value for r in added) == sum(
        int((GRACE_W["Grace"] + s) * 1e6) for s in range(sockets)
    )
    found = by_name(result)
    for socket in range(sockets):
        module, grace, cpu, sysio = (
            found[f"power_meter:{rail} Power Socket {socket}"].device for rail in GRACE_W
        )
        assert (module.domain, module.parent, module.summed) == (Domain.OTHER, "", False)
        assert (grace.parent, cpu.parent, sysio.parent) == (module.id, grace.id, grace.id)
        assert grace.cpus == frozenset(range(8 // sockets * socket, 8 // sockets * (socket + 1)))
    assert all(r.every_ns == 0 for r in result.readings)
    assert {s.labels for s in result.samples} == {
        ("power_meter", f"{rail} Power Socket {s}") for rail in GRACE_W for s in range(sockets)
    }


def test_its_successors_names(tmp_path: Path) -> None:
    """Total contains CPU rail, SoC rail and DRAM, and is the one that is added up."""
    node = Node(tmp_path)
    names = ("DRAM Power", "CPU Rail Input Power", "Total Power in uW", "SoC Rail Power")
    for number, name in enumerate(names):
        add_meter(node, number, 50 + number, f"{name} Socket 0")
    found = by_name(open_source(node.sys).read(full=True))
    total = found["power_meter:Total Power in uW Socket 0"]
    assert [r.value for r in found.values() if r.device.summed] == [52_000_000]
    assert {r.device.parent for r in found.values()} == {"", total.device.id}
    assert found["power_meter:DRAM Power Socket 0"].device.domain is Domain.DRAM


def test_a_second_meter_of_the_same_rail_is_shown(tmp_path: Path) -> None:
    """Two that both say Grace of socket 0: one is added up, and their series differ."""
    node = Node(tmp_path)
    add_meter(node, 0, 250.0, "Grace Power Socket 0")
    add_meter(node, 1, 250.0, "Grace Power Socket 0")
    result = open_source(node.sys).read(full=True)
    assert [r.device.summed for r in result.readings] == [True, False]
    assert len({sample.labels for sample in result.samples}) == 2


def test_an_unnamed_meter_beside_grace_is_shown(tmp_path: Path) -> None:
    """What it contains nobody can say, so it is not the node."""
    node = Node(tmp_path)
    add_grace(node)
    add_meter(node, 9, 900.0)
    result = meter_result(node, 5)
    assert [r.value for r in result.readings if r.device.summed] == [250_000_000]


def test_a_socket_whose_cpus_are_not_known_has_none(tmp_path: Path) -> None:
    """physical_package_id need not be the socket's number on ARM: then no CPU is claimed."""
    node = Node(tmp_path, cpus=2, sockets=2)
    for cpu in range(2):
        write(
            node.sys / f"devices/system/cpu/cpu{cpu}/topology/physical_package_id", 36 + 100 * cpu
        )
    add_grace(node, 2)
    assert {r.device.cpus for r in open_source(node.sys).read(full=True).readings} == {frozenset()}


@pytest.mark.parametrize(
    ("oem", "rail"),
    [
        ("Grace Power Socket 0", ("host", 0)),
        ("module power socket 1", ("module", 1)),
        ("CPU Power Socket 12", ("cores", 12)),
        ("SysIO Power Socket 3", ("io", 3)),
        ("NVSwitch Power Socket 0", ("any", 0)),
        ("", ("", 0)),
        ("Intel", ("", 0)),
        ("Grace Power Socket", ("", 0)),
    ],
)
def test_rails(oem: str, rail: tuple[str, int]) -> None:
    """A rail that is not known is in the module and never the node."""
    assert parse_rail(oem) == rail


@given(st.text(max_size=80))
def test_any_oem_text_is_a_rail_or_none(text: str) -> None:
    """Firmware's text never raises."""
    rail, socket = parse_rail(text)
    assert (rail == "") <= (socket == 0)
    assert 0 <= socket < 1000


def test_grace_on_the_page(tmp_path: Path) -> None:
    """`jobwatt once`: CPU energy is Grace's, measured by hwmon and not estimated; every rail is shown."""
    node = Node(tmp_path)
    add_grace(node)
    page = once(node)
    row = 'jobwatt_component_info{component="cpu",source="hwmon",quality="measured"}'
    assert value(page, row) == 1
    rails = {
        rail: value(
            page,
            f'jobwatt_hwmon_energy_joules_total{{chip="power_meter",sensor="{rail} Power Socket 0"}}',
        )
        for rail in GRACE_W
    }
    cpu = value(page, 'jobwatt_node_energy_joules_total{component="cpu"}')
    assert cpu == rails["Grace"]
    assert cpu > 0
    # each rail is read at a moment of its own, on a busy machine some of a second's hundredths apart
    assert rails["Module"] == pytest.approx(cpu * 610 / 250, rel=0.05)
    assert 'component="dram"' not in page
    assert "jobwatt_wall" not in "".join(
        line for line in page.splitlines() if not line.startswith("#")
    )
