"""The estimate: both published formulas by hand, and whole machines from trees of real files."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.config import ConfigError, from_flags
from jobwatt.meter import measure
from jobwatt.model import NS_PER_S, Domain, Kind, SourceResult, Step
from jobwatt.sources.estimate import (
    Assumed,
    EstimateSource,
    assume,
    cpu_energy,
    dram_energy,
    open_source,
)
from jobwatt.sources.tdp import Tdp, tdp_of
from treefiles import write
from trees import Node

HOUR_NS = 3600 * NS_PER_S
MS = 1_000_000


def cpuinfo(
    model: str, *, threads: int, sockets: int = 1, hypervisor: bool = False, smt: int = 2
) -> str:
    """/proc/cpuinfo as x86 writes it."""
    flags = "fpu vme sse2" + (" hypervisor" if hypervisor else "")
    rows = [
        f"processor\t: {cpu}\nvendor_id\t: X\nmodel name\t: {model}\n"
        f"physical id\t: {cpu * sockets // threads}\nsiblings\t: {threads // sockets}\n"
        f"cpu cores\t: {threads // sockets // smt}\nflags\t\t: {flags}\n\n"
        for cpu in range(threads)
    ]
    return "".join(rows)


def energies(result: SourceResult) -> dict[Domain, int]:
    return {reading.device.domain: reading.value for reading in result.readings}


# --- the formulas ------------------------------------------------------------------------------


def test_green_algorithms_by_hand() -> None:
    """
    Lannelongue et al. 2021: t * (n_c * P_c * u_c + n_mem * 0.3725). A Xeon Gold 6148 (v3.0's TDP_cpu.csv:
    20 cores of 7.5 W), all busy for an hour, 64 GB: 20 * 7.5 + 64 * 0.3725 = 173.84 W = 173.84 Wh.
    """
    tdp = tdp_of("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz")
    assert tdp == Tdp(20 * 7.5, 40)
    cpu = cpu_energy(150_000_000, 40 * HOUR_NS, 40, HOUR_NS)
    dram = dram_energy(64 << 30, HOUR_NS)
    assert (cpu + dram) / NS_PER_S == 173.84 * 3600 * 1e6  # uJ


def test_green_algorithms_with_a_usage_factor() -> None:
    """u_c = 0.35: 20 * 7.5 * 0.35 = 52.5 W; memory is the same whether used or not."""
    assert cpu_energy(150_000_000, 40 * HOUR_NS * 35 // 100, 40, HOUR_NS) == 52_500_000 * HOUR_NS
    assert dram_energy(64 << 30, HOUR_NS) == 23_840_000 * HOUR_NS


@pytest.mark.parametrize(("load", "watts"), [(0, 3.2), (5, 3.2), (10, 3.2), (50, 16), (100, 32)])
def test_codecarbon_by_hand(load: int, watts: float) -> None:
    """
    CodeCarbon 3.3.0: a CPU that is not in its table has 4 W a thread (cpu.py), here 8 of them; its power is
    max(tdp * load, tdp * 0.1) (hardware.py, _calculate_power_from_cpu_load).
    """
    assumed = assume(cpuinfo("Some CPU", threads=8).encode(), 8, None)
    assert assumed == Assumed("Some CPU", 32_000_000, "per_thread")
    energy = cpu_energy(assumed.tdp_uw, 8 * HOUR_NS * load // 100, 8, HOUR_NS)
    assert energy == int(watts * 1e6) * HOUR_NS


@given(
    st.integers(1, 10**10),
    st.integers(0, 10**15),
    st.integers(1, 1024),
    st.integers(1, 10**13),
)
def test_between_a_tenth_and_the_whole(tdp_uw: int, busy: int, threads: int, dt_ns: int) -> None:
    """Never below the floor; never above TDP while no thread is busier than time."""
    energy = cpu_energy(tdp_uw, min(busy, threads * dt_ns), threads, dt_ns)
    assert tdp_uw * dt_ns // 10 <= energy <= tdp_uw * dt_ns


# --- what is assumed of the machine ------------------------------------------------------------

XEON = "Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz"  # 250 W, 64 threads


def test_every_socket_counts_whole() -> None:
    """Two sockets, SMT on or off: 500 W."""
    for threads, smt in ((128, 2), (64, 1)):
        text = cpuinfo(XEON, threads=threads, sockets=2, smt=smt).encode()
        assert assume(text, threads, None) == Assumed(XEON, 500_000_000, "table")


def test_a_virtual_machine_has_its_threads_share() -> None:
    """16 vCPUs of a processor with 64 threads: a quarter of its TDP, however many sockets it shows."""
    for sockets in (1, 16):
        text = cpuinfo(XEON, threads=16, sockets=sockets, hypervisor=True).encode()
        assert assume(text, 16, None) == Assumed(XEON, 62_500_000, "table")


def test_the_setting_beats_the_table() -> None:
    """estimate.tdp is of the whole machine."""
    text = cpuinfo(XEON, threads=128, sockets=2).encode()
    assert assume(text, 128, 400_000_000) == Assumed(XEON, 400_000_000, "setting")


def test_arm_has_no_name() -> None:
    """aarch64 shows numbers of implementer and part only: 4 W a thread."""
    text = b"processor\t: 0\nBogoMIPS\t: 2000.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"
    assert assume(text, 72, None) == Assumed("unknown", 288_000_000, "per_thread")
    assert assume(b"", 2, 5_000_000) == Assumed("unknown", 5_000_000, "setting")


@pytest.mark.parametrize(
    ("model", "watts"),
    [
        ("Intel(R) Xeon(R) CPU E5-2698 v4 @ 2.20GHz", 135),
        ("INTEL(R) XEON(R) PLATINUM 8592+", 350),
        ("AMD EPYC 7742 64-Core Processor", 225),
        ("AMD EPYC 9654 96-Core Processor", 360),
        ("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", 28),
        ("AMD Ryzen 7 5800U with Radeon Graphics", 15),
        ("AMD Ryzen 7 7840U w/ Radeon  780M Graphics", 28),
        ("AMD Ryzen Threadripper PRO 5995WX 64-Cores", 280),
        ("AMD EPYC 7B12", 240),
    ],
)
def test_names_as_processors_write_them(model: str, watts: int) -> None:
    """What /proc/cpuinfo adds to the model does not hide it."""
    found = tdp_of(model)
    assert found is not None
    assert found.watts == watts


@pytest.mark.parametrize(
    "model",
    [
        "",
        "AMD EPYC",
        "AMD EPYC Processor",
        "Intel Xeon Processor (Skylake, IBRS)",
        "Intel(R) Xeon(R) CPU @ 2.20GHz",
        "QEMU Virtual CPU version 2.5+",
        "Intel(R) Xeon(R) Gold 62480 CPU",
        "AMD EPYC 7742X 64-Core Processor",
    ],
)
def test_a_name_that_does_not_tell_is_not_guessed(model: str) -> None:
    """A virtual machine's made-up name, or a near miss, is in no table."""
    assert tdp_of(model) is None


@given(st.binary(max_size=400), st.integers(1, 4096))
def test_any_cpuinfo_gives_a_model(text: bytes, threads: int) -> None:
    """Whatever is in the file: a bounded printable name and a power above 0."""
    assumed = assume(b"model name\t: " + text, threads, None)
    assert assumed.tdp_uw > 0
    assert len(assumed.cpu) <= 64
    assert assumed.cpu.isprintable()


# --- the source --------------------------------------------------------------------------------


def test_energy_is_cpu_time_times_power_exactly(tmp_path: Path) -> None:
    """64 W over 8 threads are 8 W each: 0.8 s of CPU time are 6.4 J, whenever they are looked at."""
    node = Node(tmp_path, cpus=8)
    source = open_source(node.proc, 64_000_000)
    assert energies(source.read(full=True)) == {Domain.CPU: 0, Domain.DRAM: 0}
    time.sleep(0.05)
    node.burn_system(800 * MS)
    first = energies(source.read(full=True))
    assert first[Domain.CPU] == 6_400_000
    time.sleep(0.05)
    node.burn_system(400 * MS)
    assert energies(source.read(full=False))[Domain.CPU] == 9_600_000
    source.close()


def test_idle_is_the_floor(tmp_path: Path) -> None:
    """A tenth of 64 W, and 23.84 W of 64 GiB, for the time between the reads; steal is not busy."""
    node = Node(tmp_path, cpus=8, mem_total=64 << 30)
    source = open_source(node.proc, 64_000_000)
    before_ns = time.monotonic_ns()
    source.read(full=True)
    inner_ns = time.monotonic_ns()
    time.sleep(0.2)
    node.idle(NS_PER_S)  # with some steal
    least_ns = time.monotonic_ns() - inner_ns
    found = energies(source.read(full=True))
    most_ns = time.monotonic_ns() - before_ns
    source.close()
    assert 6_400_000 * least_ns // NS_PER_S <= found[Domain.CPU] <= 6_400_000 * most_ns // NS_PER_S
    assert (
        23_840_000 * least_ns // NS_PER_S <= found[Domain.DRAM] <= 23_840_000 * most_ns // NS_PER_S
    )


def test_devices_and_info(tmp_path: Path) -> None:
    """Two devices that are added up, as estimates; and one sample with what is assumed."""
    node = Node(tmp_path, cpus=16)
    write(node.proc / "cpuinfo", cpuinfo(XEON, threads=16, hypervisor=True))
    result = open_source(node.proc).read(full=True)
    assert [
        (r.device.domain, r.device.id, r.device.source, r.device.summed, r.kind)
        for r in result.readings
    ] == [
        (Domain.CPU, "estimate:cpu", "estimate", True, Kind.ENERGY),
        (Domain.DRAM, "estimate:dram", "estimate", True, Kind.ENERGY),
    ]
    assert [(s.metric, s.labels, s.value) for s in result.samples] == [
        ("jobwatt_estimate_info", (XEON, "62.5", "table"), 1)
    ]
    assert result.failures == ()


def test_a_counter_only_grows(tmp_path: Path) -> None:
    """A CPU that goes offline, a counter that falls or jumps: never backwards, never beyond TDP."""
    node = Node(tmp_path, cpus=8)
    source = open_source(node.proc, 64_000_000)
    began_ns = time.monotonic_ns()
    last = {Domain.CPU: 0, Domain.DRAM: 0}
    node.burn_system(10**15)
    for step in range(6):
        node.busy_ns = [ns // 2 if step == 2 else ns * 7 for ns in node.busy_ns]
        node.write_stat(offline={7} if step in (1, 4) else ())
        found = energies(source.read(full=True))
        assert all(found[domain] >= last[domain] for domain in last)
        last = found
    slack_ns = 6 * NS_PER_S // 10  # a tick may be booked late, at each of the reads
    assert last[Domain.CPU] <= 64_000_000 * (time.monotonic_ns() - began_ns + slack_ns) // NS_PER_S
    source.close()


def test_a_restart_counts_nothing_twice(tmp_path: Path) -> None:
    """The next process begins at 0: its first delta is a reset of 0 J, then it goes on."""
    node = Node(tmp_path, cpus=8)
    old = open_source(node.proc, 64_000_000)
    old.read(full=True)
    time.sleep(0.05)
    node.burn_system(800 * MS)
    cursors = measure({}, old.read(full=True).readings, 10**10).cursors
    old.close()
    new = open_source(node.proc, 128_000_000)  # another setting
    metered = measure(cursors, new.read(full=True).readings, 10**10)
    assert [(d.energy_uj, d.step) for d in metered.booked] == [(0, Step.RESET)] * 2
    time.sleep(0.05)
    node.burn_system(80 * MS)
    cpu, _ = measure(metered.cursors, new.read(full=True).readings, 10**10).booked
    assert cpu.step is Step.NORMAL
    assert cpu.energy_uj >= 1_280_000
    new.close()


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    """No CPU time: nothing, and why; no MemTotal: CPU alone, and why. Never 0, never a raise."""
    empty = EstimateSource(tmp_path / "nowhere").read(full=True)
    assert (empty.readings, [f.reason for f in empty.failures]) == ((), ["no_cpu_time"])
    assert str(tmp_path / "nowhere/stat") in empty.failures[0].message
    node = Node(tmp_path)
    write(node.proc / "meminfo", "MemFree: 12 kB\n")
    result = EstimateSource(node.proc).read(full=True)
    assert [r.device.domain for r in result.readings] == [Domain.CPU]
    assert [(f.reason, f.device) for f in result.failures] == [("no_memory", "estimate:dram")]


def test_this_machine() -> None:
    """The real /proc: both energies grow, and the model is told."""
    source = EstimateSource(Path("/proc"))
    source.read(full=True)
    time.sleep(0.1)
    result = source.read(full=True)
    source.close()
    assert all(value > 0 for value in energies(result).values())
    assert len(result.readings) == 2
    assert result.samples[0].labels[2] in {"table", "per_thread"}


# --- the setting and the command ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "uw"), [("65", 65_000_000), ("12.5", 12_500_000), ("10000", 10**10), ("", None)]
)
def test_tdp_is_watts(text: str, uw: int | None) -> None:
    """In W on the command line, in uW inside."""
    assert from_flags({"estimate.tdp": text}).estimate_tdp == uw


@pytest.mark.parametrize("text", ["0", "-5", "65W", "1e3", "nan", "10001", "9" * 40, "0.0000000"])
def test_a_tdp_that_is_none_is_refused(text: str) -> None:
    """The message names the flag."""
    with pytest.raises(ConfigError, match=re.escape("--estimate.tdp")):
        from_flags({"estimate.tdp": text})


def once(node: Node, *flags: str) -> str:
    argv = [
        sys.executable,
        "-m",
        "jobwatt",
        "once",
        f"--path.sysfs={node.sys}",
        f"--path.procfs={node.proc}",
        f"--path.cgroupfs={node.cgroup}",
        f"--path.state={node.root}/state",
        "--sample.interval=100ms",
        "--no-source.nvml",
        "--no-slurm.rpc",
        *flags,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def value(page: str, series: str) -> float | None:
    match = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    return float(match[1]) if match else None


def test_a_machine_without_sensors_has_energies(tmp_path: Path) -> None:
    """`jobwatt once`: CPU and DRAM are there, told as estimated, and the model with them."""
    node = Node(tmp_path, cpus=8)
    write(node.proc / "cpuinfo", cpuinfo("AMD EPYC", threads=8, hypervisor=True))
    page = once(node)
    for component in ("cpu", "dram"):
        assert value(page, f'jobwatt_node_energy_joules_total{{component="{component}"}}')
        assert (
            value(
                page,
                f'jobwatt_component_info{{component="{component}",source="estimate",quality="estimated"}}',
            )
            == 1
        )
    assert (
        value(page, 'jobwatt_estimate_info{cpu="AMD EPYC",tdp_watts="32",basis="per_thread"}') == 1
    )


def test_a_machine_with_sensors_is_not_estimated(tmp_path: Path) -> None:
    """RAPL's packages are there: not a line of the estimate, though DRAM has no sensor (AMD)."""
    node = Node(tmp_path, cpus=8)
    node.add_amd(sockets=1)
    page = once(node)
    assert value(page, 'jobwatt_component_info{component="cpu",source="rapl",quality="measured"}')
    assert "estimate" not in "".join(line for line in page.splitlines() if not line.startswith("#"))


def test_no_estimate_where_it_is_switched_off(tmp_path: Path) -> None:
    """--no-source.estimate: absent is absent."""
    page = once(Node(tmp_path, cpus=8), "--no-source.estimate")
    assert 'component="cpu"' not in page
