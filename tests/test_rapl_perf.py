"""RAPL where energy_uj may not be read: what is said, and perf counters that the kernel really opens."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from jobwatt.model import Domain, Kind, SourceResult
from jobwatt.sources.perf import PerfPower, _perf_event_open, parse_config, read_events
from jobwatt.sources.rapl import RaplSource
from raplkit import NOW, as_nobody, by_id, denied, root_only
from trees import Node

if TYPE_CHECKING:
    from pathlib import Path


def _perf_refused() -> bool:
    """Whether this machine refuses perf_event_open of a whole CPU (no root, or a container)."""
    try:
        os.close(_perf_event_open(1, 0, 0))
    except OSError as err:
        return err.errno in (errno.EACCES, errno.EPERM, errno.ENOSYS)
    return False


perf_only = pytest.mark.skipif(
    _perf_refused(), reason="perf_event_open of a whole CPU is refused here"
)


@root_only
def test_permission_denied_names_file_and_mend(tmp_path: Path) -> None:
    """One failure for all zones, not one each, and one for perf, which is closed as well."""
    node = Node(tmp_path)
    node.add_intel(sockets=2)
    node.add_perf_power({"energy-pkg": "event=0x00"})
    denied(tmp_path, node)
    said = as_nobody(lambda: RaplSource(node.sys).read(full=True), perf=False)
    assert said["ids"] == []
    (reason, message, device), (perf_reason, perf_message, _) = said["failures"]
    assert (reason, device, perf_reason) == ("permission", "", "permission")
    assert str(node.sys / "class/powercap/intel-rapl:0/energy_uj") in message
    assert "tmpfiles.d" in message
    assert "CAP_PERFMON" in message
    assert "\n" not in message
    assert "CAP_PERFMON" in perf_message


@root_only
def test_permission_denied_for_one_socket_only(tmp_path: Path) -> None:
    """The readable socket stays, and the other says why it is missing."""
    node = Node(tmp_path)
    node.add_many_packages(2)
    denied(tmp_path, node)
    (node.rapl["intel-rapl:0"].path / "energy_uj").chmod(0o444)
    said = as_nobody(lambda: RaplSource(node.sys).read(full=True), perf=False)
    assert said["ids"] == ["intel-rapl:0"]
    assert [(f[0], f[2]) for f in said["failures"]] == [("permission", "intel-rapl:1")]


@root_only
@perf_only
def test_perf_takes_over_with_cap_perfmon(tmp_path: Path) -> None:
    """powercap denied, CAP_PERFMON held: perf counts, the reason is told once, and no zone twice."""
    node = Node(tmp_path)
    node.add_intel(sockets=1)
    node.add_perf_power({"energy-pkg": "event=0x00", "energy-ram": "event=0x01"})
    denied(tmp_path, node)
    source = RaplSource(node.sys)
    first = as_nobody(lambda: source.read(full=True), perf=True)
    assert first["ids"] == ["perf:power/energy-pkg/cpu0", "perf:power/energy-ram/cpu0"]
    assert [f[0] for f in first["failures"]] == ["permission"]

    def second() -> SourceResult:
        source.read(full=True)
        return source.read(full=True)

    again = as_nobody(second, perf=True)
    assert again["ids"] == first["ids"]
    assert again["failures"] == []


@perf_only
def test_powercap_is_taken_up_again_when_it_opens(tmp_path: Path) -> None:
    """perf is let go of in the same read: at no moment are both counted."""
    node = Node(tmp_path)
    node.add_perf_power({"energy-pkg": "event=0x00"})
    source = RaplSource(node.sys, **NOW)
    result = source.read(full=True)
    assert list(by_id(result)) == ["perf:power/energy-pkg/cpu0"]
    assert [f.reason for f in result.failures] == ["no_powercap"]
    node.add_intel(sockets=1, psys=False, mmio=False)
    result = source.read(full=True)
    assert sorted(by_id(result)) == ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1"]
    assert result.failures == ()
    node.remove_rapl("intel-rapl:0")
    assert list(by_id(source.read(full=True))) == ["perf:power/energy-pkg/cpu0"]
    source.close()


@perf_only
def test_a_broken_powercap_is_not_hammered_while_perf_delivers(tmp_path: Path) -> None:
    """Told once, looked at again a rescan later: nothing is amiss that has to be soon mended."""
    node = Node(tmp_path)
    node.add_perf_power({"energy-pkg": "event=0x00"})
    (node.add_rapl("intel-rapl:0", "package-0").path / "energy_uj").write_text("nonsense\n")
    source = RaplSource(node.sys)
    assert [f.reason for f in source.read(full=True).failures] == ["garbled"]
    assert source.read(full=True).failures == ()
    assert source._next_scan_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME) > 50 * 10**9
    source.close()


@perf_only
def test_perf_counts_exactly_what_the_kernel_counts(tmp_path: Path) -> None:
    """cpu-clock through the same call: 1 count is 1 ns; scale 1e-9 J makes a watt of it, exactly."""
    node = Node(tmp_path, cpus=2)
    node.add_perf_power({"energy-pkg": "event=0x00"}, scale="1e-9", cpumask="0-1")
    perf = PerfPower(node.sys, "rapl")
    assert perf.open() == ()
    first, _ = perf.read()
    time.sleep(0.2)
    second, failures = perf.read()
    perf.close()
    assert failures == []
    assert [r.device.id for r in second] == [f"perf:power/energy-pkg/cpu{n}" for n in (0, 1)]
    for a, b in zip(first, second, strict=True):
        assert b.epoch == a.epoch > 0
        assert (b.wrap_uj, b.kind) == (0, Kind.ENERGY)
        watts = (b.value - a.value) * 1000 / (b.t_ns - a.t_ns)
        assert watts == pytest.approx(1, rel=0.05)


@perf_only
def test_perf_devices(tmp_path: Path) -> None:
    """pkg and ram are added; cores, gpu and psys are not; one of each a socket, with its CPUs."""
    node = Node(tmp_path, cpus=2, sockets=2)
    events = {f"energy-{n}": "event=0x00" for n in ("pkg", "ram", "cores", "gpu", "psys")}
    node.add_perf_power(events, cpumask="0,1")
    perf = PerfPower(node.sys, "rapl")
    assert perf.open() == ()
    devices = {r.device.id: r.device for r in perf.read()[0]}
    perf.close()
    assert len(devices) == 10
    package, ram = (devices[f"perf:power/energy-{n}/cpu1"] for n in ("pkg", "ram"))
    assert (package.name, package.domain, package.cpus) == ("package-1", Domain.CPU, frozenset({1}))
    assert (ram.domain, ram.parent, ram.cpus) == (Domain.DRAM, package.id, frozenset({1}))
    assert {d.id.split("/")[1] for d in devices.values() if d.summed} == {
        "energy-pkg",
        "energy-ram",
    }


@perf_only
def test_an_event_the_cpu_does_not_have_is_absent(tmp_path: Path) -> None:
    """Listed and yet refused by the kernel (AMD before 5.17): the package stays."""
    node = Node(tmp_path)
    node.add_perf_power({"energy-pkg": "event=0x00", "energy-ram": "event=0xfe"})
    perf = PerfPower(node.sys, "rapl")
    assert perf.open() == ()
    assert [r.device.id for r in perf.read()[0]] == ["perf:power/energy-pkg/cpu0"]
    perf.close()


@perf_only
def test_a_second_opening_is_another_epoch(tmp_path: Path) -> None:
    """A count begins at 0 when opened, so no delta may be taken across it."""
    node = Node(tmp_path)
    node.add_perf_power({"energy-pkg": "event=0x00"})
    epochs = set()
    for _ in range(2):
        perf = PerfPower(node.sys, "rapl")
        perf.open()
        epochs.add(perf.read()[0][0].epoch)
        perf.close()
    assert len(epochs) == 2


def test_perf_scale_is_exact(tmp_path: Path) -> None:
    """2^-32 J is a fraction, not a float: 2^63 counts come out to the microjoule."""
    node = Node(tmp_path)
    base = node.add_perf_power({"energy-pkg": "event=0x02"})
    (event,) = read_events(base / "events")
    assert event.config == 2
    assert event.uj * 2**32 == 10**6
    assert (2**63 - 1) * event.uj.numerator // event.uj.denominator == (2**63 - 1) * 10**6 // 2**32


@pytest.mark.parametrize("text", ["", "event", "event=pkg", "edge=1", "event=0x02,inv=1"])
def test_perf_config_that_is_not_understood_is_refused(text: str) -> None:
    """Counting another event than the one meant would be worse than none."""
    with pytest.raises(ValueError):  # noqa: PT011 - int() and parse_config word it differently
        parse_config(text)


@pytest.mark.parametrize(
    ("file", "text"),
    [("energy-pkg.unit", "Watts"), ("energy-pkg.scale", "big"), ("energy-pkg", "x=1")],
)
def test_a_pmu_that_is_not_understood_is_one_failure(tmp_path: Path, file: str, text: str) -> None:
    """Whatever is in the files, nothing is raised."""
    node = Node(tmp_path)
    base = node.add_perf_power({"energy-pkg": "event=0x00"})
    (base / "events" / file).write_text(text + "\n")
    (failure,) = PerfPower(node.sys, "rapl").open()
    assert failure.reason == "no_perf"
