"""Files of /proc and /sys: a kernel that is wrong, or one of tomorrow."""

from __future__ import annotations

from fuzz.base import count, escaped, figure, hold, joined, parts, place, put, shown, target
from jobwatt.kernelfiles import parse_cpulist
from jobwatt.model import NS_PER_S, Kind
from jobwatt.sources import hwmon, hwmon_chips, perf, powercap, procstat, tdp
from jobwatt.sources.estimate import assume, cpu_energy
from jobwatt.sources.rapl import RaplSource


@target("kernel.cpulist", [b"0-3,8\n", b"0-8191", b""], ValueError, share=1.5)
def cpulist(data: bytes) -> None:
    hold(len(parse_cpulist(escaped(data))) <= 1 << 17, "more CPUs than Linux can have")


@target(
    "kernel.stat",
    [
        b"cpu  10 0 10 100 0 1 1 0 0 0\ncpu0 5 0 5 50 0 1 0 0 0 0\ncpu1 5 0 5 50 0 0 1 0 0 0\nintr 1\n",
        b"MemTotal:       65842960 kB\nMemFree:  1 kB\nMemAvailable:   60000000 kB\n",
    ],
    share=1.5,
)
def stat(data: bytes) -> None:
    for cpu, busy_ns in procstat.parse_stat(data).items():
        hold(isinstance(cpu, int) and isinstance(busy_ns, int), "no number")
    total, used = procstat.parse_meminfo(data)
    hold(used is None or 0 <= used <= total, "more memory in use than there is")


@target(
    "kernel.cpuinfo",
    [
        b"processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8468 CPU @ 2.10GHz\nphysical id\t: 0\nflags\t\t: fpu hypervisor\n",
        b"model name\t: AMD EPYC 7742 64-Core Processor\nphysical id\t: 1\n\nmodel name : x\n",
    ],
)
def cpuinfo(data: bytes) -> None:
    for threads in (1, 64):
        found = assume(data, threads, None)
        shown(found.cpu, 64)
        count(found.tdp_uw, most=10**15)
        count(cpu_energy(found.tdp_uw, NS_PER_S, threads, NS_PER_S), most=10**30)
    tdp.tdp_of(escaped(data))


@target(
    "kernel.powercap",
    [
        joined(
            "package-0", "262143328850", "1234567\n", "dram", "65712999613", "99\n", "165000000"
        ),
        joined("package-1-die-0", "262143328850", "1\n", "psys", "0", "0", "0"),
    ],
    share=0.3,
)
def powercap_zones(data: bytes) -> None:
    names = ("name", "max_energy_range_uj", "energy_uj")
    found = parts(data, 7)
    zones = ("intel-rapl:0", "intel-rapl:0:0")
    for at, content in enumerate(found[:6]):
        put(f"rapl/class/powercap/{zones[at // 3]}/{names[at % 3]}", content)
    put("rapl/class/powercap/intel-rapl:0/constraint_0_max_power_uw", found[6])
    for zone in powercap.find_zones(place() / "rapl", "rapl"):
        hold(zone.wrap_uj >= 0 and zone.max_power_uw > 0, "a zone without an end")
    source = RaplSource(place() / "rapl")
    for reading in source.read(full=True).readings:
        hold(reading.kind is Kind.ENERGY, "no energy")
    source.close()


@target(
    "kernel.perf_events",
    [
        joined("0-1\n", "Joules\n", "2.3283064365386962890625e-10\n", "event=0x02\n"),
        joined("0", "Joules", "1/4294967296", "event=0x02,umask=0x01"),
    ],
    ValueError,
    ZeroDivisionError,
    share=0.5,
)
def perf_events(data: bytes) -> None:
    mask, unit, scale, event = parts(data, 4)
    base = place() / "perf"
    put("perf/energy-pkg.unit", unit)
    put("perf/energy-pkg.scale", scale)
    put("perf/energy-pkg", event)
    parse_cpulist(escaped(mask))
    for found in perf.read_events(base):
        hold(0 <= found.config < 1 << 64, f"config {found.config!r:.60}")
        hold(0 < found.uj < 10**12, f"scale {float(found.uj)}")


@target(
    "kernel.hwmon_words",
    [
        b"123456\n",
        b"Grace Power Socket 0",
        b"Total Power in uW Socket 0",
        b"CPU Rail Power Socket 11",
        b"Esocket0",
    ],
    ValueError,
    share=1.5,
)
def hwmon_words(data: bytes) -> None:
    rail, socket = hwmon_chips.parse_rail(escaped(data))
    hold(0 <= socket < 1000 and (rail == "" or rail in hwmon_chips._MEANING), "a rail of nobody")
    count(hwmon.parse_value(data), most=10**20)


@target(
    "kernel.hwmon_tree",
    [
        joined(
            "power_meter",
            "Grace Power Socket 0\n",
            "250000000\n",
            "0",
            "amd_energy",
            "Esocket0\n",
            "123456\n",
            "0-3\n",
        ),
        joined("power_meter", "", "350000000\n", "0", "power_meter", "", "", ""),
    ],
    share=0.2,
)
def hwmon_tree(data: bytes) -> None:
    name, info, power, battery, other, label, energy, cpus = parts(data, 8)
    base = "hw/class/hwmon"
    put(f"{base}/hwmon0/name", name)
    put(f"{base}/hwmon0/power1_oem_info", info)
    put(f"{base}/hwmon0/power1_average", power)
    put(f"{base}/hwmon0/power1_is_battery", battery)
    put(f"{base}/hwmon1/name", other)
    put(f"{base}/hwmon1/energy1_label", label)
    put(f"{base}/hwmon1/energy1_input", energy)
    put("hw/devices/system/node/node0/cpulist", cpus)
    put("hw/devices/system/cpu/cpu0/topology/physical_package_id", b"0")
    found = hwmon_chips.find_sensors(place() / "hw", "hwmon", includes_gpu=True)
    read = hwmon._Sensors(lambda: found, 0, NS_PER_S, NS_PER_S)
    result = read.look()
    read.close()
    for reading in result.readings:
        count(reading.value)
        shown(reading.device.name, 400)
    for sample in result.samples:
        figure(sample.value)
        for label_value in sample.labels:
            shown(label_value, 400)
