"""hwmon from trees of real files: ACPI power meters, NVIDIA Grace, amd_energy beside RAPL."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt import assembly
from jobwatt.config import Config
from jobwatt.meter import measure
from jobwatt.model import Domain, Kind, Reading, SourceResult, Step
from jobwatt.sources.hwmon import HwmonSource, open_source, parse_value, present
from jobwatt.sources.hwmon_chips import find_sensors, parse_rail
from test_estimate import once, value
from test_rapl import as_nobody, denied, root_only
from trees import Node, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NOW = {"rescan_ns": 0, "first_retry_ns": 0}  # look for changes at every read
ACPI = "LNXSYSTM:00/LNXSYBUS:00/ACPI000D:00"
AMD = "platform/amd_energy.0"


def add_chip(
    node: Node,
    number: int,
    name: str,
    place: str,
    files: Mapping[str, str | int],
    *,
    inside: bool = False,
) -> Path:
    """
    hwmonN of the device at ``place``; its attributes in the device, or ``inside`` hwmonN, where newer
    drivers have them. Returns the directory with the attributes.
    """
    device = node.sys / "devices" / place
    here = device / "hwmon" / f"hwmon{number}"
    here.mkdir(parents=True, exist_ok=True)
    (here / "device").symlink_to(device)
    base = here if inside else device
    for file, text in {"name": name + "\n", **files}.items():
        write(base / file, text)
    link = node.sys / "class/hwmon" / f"hwmon{number}"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(here)
    return base


def remove_chip(node: Node, number: int) -> None:
    """The driver is unloaded: hwmonN and the attributes are gone, the device stays."""
    link = node.sys / "class/hwmon" / f"hwmon{number}"
    here = link.resolve()
    device = (here / "device").resolve()
    link.unlink()
    shutil.rmtree(here)
    for file in device.iterdir():
        if file.is_file():
            file.unlink()


def add_meter(
    node: Node, number: int, watts: float, oem: str = "", place: str = "", *, inside: bool = False
) -> Path:
    place = place or f"LNXSYSTM:00/LNXSYBUS:00/ACPI000D:{number:02x}"
    files = {
        "power1_average": int(watts * 1e6),
        "power1_average_interval": 1000,
        "power1_is_battery": 0,
        "power1_oem_info": oem + "\n",
    }
    return add_chip(node, number, "power_meter", place, files, inside=inside)


GRACE_W = {"Module": 610.0, "Grace": 250.0, "CPU": 180.0, "SysIO": 30.0}


def add_grace(node: Node, sockets: int = 1, *, first: int = 1) -> None:
    """One meter a rail and socket, as NVIDIA's ACPI tables have them."""
    number = first
    for socket in range(sockets):
        for rail, watts in GRACE_W.items():
            add_meter(node, number, watts + socket, f"{rail} Power Socket {socket}")
            number += 1


def add_amd(node: Node, energies: Mapping[str, int], number: int = 3) -> Path:
    files: dict[str, str | int] = {}
    for n, (label, uj) in enumerate(energies.items(), start=1):
        files |= {f"energy{n}_input": uj, f"energy{n}_label": label + "\n"}
    return add_chip(node, number, "amd_energy", AMD, files, inside=True)


def until(source: HwmonSource, ok: Callable[[SourceResult], bool]) -> SourceResult:
    """A meter is read in a thread of its own: wait for what it says."""
    end = time.monotonic() + 60
    while not ok(result := source.read(full=True)):
        assert time.monotonic() < end, result
        time.sleep(0.02)
    return result


def meter_result(node: Node, count: int = 1, **settings: bool) -> SourceResult:
    source = open_source(node.sys, **settings)
    try:
        return until(source, lambda result: len(result.readings) >= count)
    finally:
        source.close()


def by_name(result: SourceResult) -> dict[str, Reading]:
    found = {reading.device.name: reading for reading in result.readings}
    assert len(found) == len(result.readings)
    return found


# --- the node's meter --------------------------------------------------------------------------


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


# --- NVIDIA Grace ------------------------------------------------------------------------------


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


# --- amd_energy --------------------------------------------------------------------------------

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


# --- what changes ------------------------------------------------------------------------------


def test_a_renumbered_hwmon_is_the_same_device(tmp_path: Path) -> None:
    """hwmonN is another number after a boot or a reload: ids are the device's place."""
    node = Node(tmp_path)
    add_grace(node, first=1)
    source = HwmonSource(node.sys, **NOW)
    before = {r.device for r in source.read(full=True).readings}
    links = sorted((node.sys / "class/hwmon").iterdir(), key=lambda e: int(e.name[5:]))
    for link in reversed(links):  # hwmon4 -> hwmon14 ...
        here = link.resolve()
        number = int(link.name[5:]) + 10
        link.unlink()
        here.rename(here.with_name(f"hwmon{number}"))
        link.with_name(f"hwmon{number}").symlink_to(here.with_name(f"hwmon{number}"))
    result = source.read(full=True)
    source.close()
    assert {r.device for r in result.readings} == before
    assert len(before) == 4
    assert result.failures == ()


def test_a_sensor_that_vanishes_takes_only_itself(tmp_path: Path) -> None:
    """Gone is said until it is back; the other socket stays."""
    node = Node(tmp_path, sockets=2)
    add_meter(node, 0, 250.0, "Grace Power Socket 0")
    add_meter(node, 1, 260.0, "Grace Power Socket 1")
    source = HwmonSource(node.sys, **NOW)
    assert len(source.read(full=True).readings) == 2
    remove_chip(node, 1)
    for _ in range(3):
        result = source.read(full=True)
        assert [r.value for r in result.readings] == [250_000_000]
        assert [f.reason for f in result.failures] == ["gone"]
    add_meter(node, 7, 261.0, "Grace Power Socket 1", "LNXSYSTM:00/LNXSYBUS:00/ACPI000D:01")
    result = source.read(full=True)
    assert [r.value for r in result.readings] == [250_000_000, 261_000_000]
    assert result.failures == ()
    source.close()


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n", "-5\n", "1e6\n", "9" * 30])
def test_garbage_is_its_own_failure(tmp_path: Path, text: str) -> None:
    """The other sensors stay, the failure lasts while its cause does, and the sensor comes back."""
    node = Node(tmp_path)
    add_meter(node, 0, 250.0, "Grace Power Socket 0")
    base = add_meter(node, 1, 180.0, "CPU Power Socket 0")
    source = HwmonSource(node.sys, **NOW)
    source.read(full=True)
    write(base / "power1_average", text)
    for _ in range(2):
        result = source.read(full=True)
        assert [r.value for r in result.readings] == [250_000_000]
        assert [f.reason for f in result.failures] == ["garbled"]
        assert "\n" not in result.failures[0].message
    write(base / "power1_average", 181_000_000)
    result = source.read(full=True)
    assert sorted(r.value for r in result.readings) == [181_000_000, 250_000_000]
    assert result.failures == ()
    source.close()


def test_a_broken_sensor_is_not_hammered(tmp_path: Path) -> None:
    """Tried after 1, 2, 4 ... periods; in between it is told and not touched."""
    node = Node(tmp_path)
    base = add_meter(node, 0, 250.0, "Grace Power Socket 0")
    write(base / "power1_average", "nonsense\n")
    source = HwmonSource(node.sys, first_retry_ns=200_000_000)
    assert [f.reason for f in source.read(full=True).failures] == ["garbled"]
    write(base / "power1_average", 250_000_000)
    assert [f.reason for f in source.read(full=True).failures] == ["garbled"]
    assert len(until(source, lambda found: bool(found.readings)).readings) == 1
    source.close()


def test_a_garbage_counter_is_refused(tmp_path: Path) -> None:
    """More than the ledger can hold is no energy."""
    node = Node(tmp_path)
    add_amd(node, {"Esocket0": 2**63})
    result = open_source(node.sys).read(full=True)
    assert result.readings == ()
    assert [f.reason for f in result.failures] == ["no_value"]


def test_files_are_opened_once_and_given_back(tmp_path: Path) -> None:
    """Reading again costs no descriptor; close gives them all back, and a read opens them again."""
    node = Node(tmp_path)
    add_grace(node)
    open_fds = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731 - said once, used thrice
    start = open_fds()
    source = HwmonSource(node.sys, **NOW)
    for _ in range(10):
        source.read(full=True)
    assert open_fds() == start + 4
    source.close()
    assert open_fds() == start
    assert len(source.read(full=True).readings) == 4
    source.close()


@given(st.binary(max_size=40))
def test_a_value_is_digits_or_refused(data: bytes) -> None:
    """Whatever a file holds: a number that fits a u64's digits, or ValueError."""
    try:
        value = parse_value(data)
    except ValueError:
        return
    assert 0 <= value < 10**20
    assert data.strip().decode().lstrip("0") == str(value).lstrip("0")


def test_a_source_is_opened_where_there_is_a_chip(tmp_path: Path) -> None:
    """Other chips (a fan, a disk) are none of ours: no source that has nothing to read is on the page."""
    node = Node(tmp_path)
    add_chip(node, 0, "nvme", "pci0000:00/nvme0", {"temp1_input": 40_000}, inside=True)
    config = Config(path_sysfs=node.sys, path_procfs=node.proc, source_nvml=False)
    assert not present(node.sys)
    assert [s.name for s in assembly.sources(config)] == ["rapl", "estimate"]
    add_meter(node, 1, 431.0)
    sources = assembly.sources(config)
    assert [s.name for s in sources] == ["rapl", "hwmon", "estimate"]
    for source in sources:
        source.close()


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
