"""hwmon from trees of real files: chips that are renumbered, vanish, or hold what is no number."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmonkit import NOW, add_chip, add_grace, add_meter, until
from jobwatt import assembly
from jobwatt.config import Config
from jobwatt.sources.hwmon import HwmonSource, parse_value, present
from treefiles import write
from trees import Node

if TYPE_CHECKING:
    from pathlib import Path


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
