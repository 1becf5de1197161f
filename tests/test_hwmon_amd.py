"""hwmon from trees of real files: amd_energy, beside RAPL and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwmonkit import NOW, add_amd, by_name
from jobwatt.model import Domain, Kind, SourceResult
from jobwatt.sources.hwmon import HwmonSource, open_source
from raplkit import as_nobody, denied, root_only
from treefiles import write
from trees import Node

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ROME = {"Ecore000": 11, "Ecore001": 12, "Esocket0": 1_000_000, "Esocket1": 2_000_000}


def add_numa(node: Node, cpulists: Mapping[int, str]) -> None:
    for number, cpus in cpulists.items():
        write(node.sys / f"devices/system/node/node{number}/cpulist", cpus + "\n")


def test_amd_energy_where_rapl_cannot_be_read(tmp_path: Path) -> None:
    """Sockets are added up; cores are inside them and left out; CPUs are the sockets'."""
    node = Node(tmp_path, cpus=4, sockets=2)
    add_numa(node, {0: "0-1", 1: "2-3"})
    base = add_amd(node, ROME)
    source = open_source(node.sys)
    found = by_name(source.read(full=True))
    assert {name: r.value for name, r in found.items()} == {
        "amd_energy:Esocket0": 1_000_000,
        "amd_energy:Esocket1": 2_000_000,
    }
    assert all(r.device.domain is Domain.CPU and r.device.summed for r in found.values())
    assert found["amd_energy:Esocket1"].device.cpus == frozenset({2, 3})
    assert found["amd_energy:Esocket1"].kind is Kind.ENERGY
    write(base / "energy4_input", 2_500_000)
    assert by_name(source.read(full=False))["amd_energy:Esocket1"].value == 2_500_000
    source.close()


def test_amd_energy_beside_powercap_is_not_counted_twice(tmp_path: Path) -> None:
    """The same register behind both: RAPL's package is there, so hwmon gives nothing."""
    node = Node(tmp_path, cpus=4, sockets=2)
    node.add_amd(sockets=2)
    add_amd(node, ROME)
    source = HwmonSource(node.sys, **NOW)
    for _ in range(2):
        assert source.read(full=True) == SourceResult()
    source.close()


def test_amd_energy_gives_way_when_rapl_opens_and_never_takes_back(tmp_path: Path) -> None:
    """In the very sample in which RAPL may read; after that RAPL's counter bridges what it missed."""
    node = Node(tmp_path, cpus=4, sockets=2)
    add_amd(node, ROME)
    source = open_source(node.sys)  # no rescan within a minute
    assert len(source.read(full=True).readings) == 2
    node.add_amd(sockets=2)
    assert source.read(full=True).readings == ()
    node.remove_rapl("intel-rapl:0")
    node.remove_rapl("intel-rapl:1")
    assert source.read(full=True).readings == ()
    source.close()


def test_amd_energy_where_rapl_is_switched_off(tmp_path: Path) -> None:
    """--no-source.rapl: nobody else reads the register."""
    node = Node(tmp_path, cpus=4, sockets=2)
    node.add_amd(sockets=2)
    add_amd(node, ROME)
    assert len(open_source(node.sys, rapl=False).read(full=True).readings) == 2


def test_a_package_in_several_numa_nodes_is_counted_once(tmp_path: Path) -> None:
    """NPS4: the driver shows every package four times, since its sockets are NUMA nodes."""
    node = Node(tmp_path, cpus=16, sockets=2)
    add_numa(node, {n: f"{2 * n}-{2 * n + 1}" for n in range(8)})
    add_amd(node, {f"Esocket{n}": 1_000_000 + 7 * (n // 4) for n in range(8)})
    readings = open_source(node.sys).read(full=True).readings
    assert [r.value for r in readings] == [1_000_000, 1_000_007]
    assert frozenset().union(*(r.device.cpus for r in readings)) == frozenset(range(16))


@root_only
def test_permission_denied_names_file_and_mend(tmp_path: Path) -> None:
    """amd_energy's files are 0440 root (CVE-2020-12912): one failure a socket, with what mends it."""
    node = Node(tmp_path, cpus=4, sockets=2)
    base = add_amd(node, ROME)
    denied(tmp_path, node)
    for file in base.glob("energy*_input"):
        file.chmod(0o440)
    said = as_nobody(lambda: open_source(node.sys).read(full=True), perf=False)
    assert said["ids"] == []
    assert [f[0] for f in said["failures"]] == ["permission", "permission"]
    assert "energy3_input" in said["failures"][0][1]
    assert "jobwatt" in said["failures"][0][1]


def test_a_garbage_counter_is_refused(tmp_path: Path) -> None:
    """More than the ledger can hold is no energy."""
    node = Node(tmp_path)
    add_amd(node, {"Esocket0": 2**63})
    result = open_source(node.sys).read(full=True)
    assert result.readings == ()
    assert [f.reason for f in result.failures] == ["no_value"]
