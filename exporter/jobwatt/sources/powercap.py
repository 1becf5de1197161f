"""
The powercap tree: which RAPL zones there are and what each one is the energy of.

Zones are told by their ``name`` file, never by their number, which is hexadecimal and says nothing
(Documentation/power/powercap/powercap.rst, drivers/powercap/powercap_sys.c):

    package-N, package-N-die-M   CPU, added up
    dram below a package         DRAM, added up (AMD has none: absent, not 0)
    core, uncore                 inside their package: shown, not added
    psys                         beside the packages and contains them: shown, not added

``intel-rapl-mmio`` is the same package again through another door; it counts only where the MSR
door ``intel-rapl`` does not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..model import Device, Domain
from .procstat import dies

if TYPE_CHECKING:
    from pathlib import Path

Topology = dict[tuple[int, int], frozenset[int]]  # (package, die) -> logical CPUs

_ZONE = re.compile(r"(intel-rapl|intel-rapl-mmio)((?::[0-9a-f]+)+)")
_PACKAGE = re.compile(r"package-(\d+)(?:-die-(\d+))?")

# Names inside and beside a package: domain, whether it is added up.
_INNER = {
    "dram": (Domain.DRAM, True),
    "core": (Domain.CPU, False),
    "uncore": (Domain.CPU, False),
    "psys": (Domain.NODE, False),
}

# More than this a zone cannot draw, where the kernel does not tell. Packages: twice the 500 W of
# the largest server processors sold (AMD EPYC 9965, Intel Xeon 6980P). DRAM: 16 DIMMs a socket at
# 10 W, and a margin. psys: two such packages with their DRAM.
_MAX_POWER_UW = {Domain.CPU: 1_000_000_000, Domain.DRAM: 200_000_000, Domain.NODE: 2_400_000_000}
# A zone's declared limit is believed down to this: 16 DIMMs at the 5 W that CodeCarbon measures
# for one, and a margin; firmware declares less for memory that draws more.
_LEAST_MAX_POWER_UW = 100_000_000


@dataclass(frozen=True, slots=True)
class Zone:
    """A powercap zone as its files describe it. ``path`` is its directory."""

    device: Device
    path: Path
    wrap_uj: int
    max_power_uw: int


def find_zones(sysfs: Path, source: str) -> list[Zone]:
    """
    The zones that count, parents first; those without a readable ``name`` are left out.

    ``wrap_uj`` is ``max_energy_range_uj``: a wrapped delta is now + range - before. The register's
    own modulus is one count more (61 uJ in 262 kJ of a package), which the file does not tell.
    """
    base = sysfs / "class" / "powercap"
    try:
        names = [match[0] for entry in base.iterdir() if (match := _ZONE.fullmatch(entry.name))]
    except OSError:
        return []
    described = {name: text for name in sorted(names) if (text := _read(base / name / "name"))}
    topology = dies(sysfs) if described else {}
    zones: dict[str, Zone] = {}
    for name in _chosen(described):
        parent = zones.get(name.rpartition(":")[0])
        shell = Device(
            Domain.OTHER, name, source, parent.device.id if parent else "", described[name]
        )
        cpus = parent.device.cpus if parent else frozenset()
        device = describe(shell, cpus, topology)
        wrap_uj = _number(base / name / "max_energy_range_uj")
        zones[name] = Zone(device, base / name, wrap_uj, _max_power_uw(base / name, device.domain))
    return list(zones.values())


def _chosen(described: dict[str, str]) -> list[str]:
    """One control type, parents first: the MSR zones, unless none of them is a package."""
    msr = [zone for zone in described if zone.startswith("intel-rapl:")]
    packages = any(_PACKAGE.fullmatch(described[zone]) for zone in msr)
    return sorted(msr if packages else described, key=lambda zone: zone.count(":"))


def describe(shell: Device, parent_cpus: frozenset[int], topology: Topology) -> Device:
    """
    ``shell`` with what its name tells: domain, whether it is added up, the CPUs it feeds. A name
    not known here is shown, not added.
    """
    if match := _PACKAGE.fullmatch(shell.name):
        package, die = int(match[1]), match[2]
        mine = [cpus for (p, d), cpus in topology.items() if p == package and die in (None, str(d))]
        return replace(shell, domain=Domain.CPU, cpus=frozenset[int]().union(*mine))
    domain, summed = _INNER.get(shell.name, (Domain.OTHER, False))
    return replace(shell, domain=domain, summed=summed, cpus=parent_cpus)


def _max_power_uw(path: Path, domain: Domain) -> int:
    """
    The largest ``constraint_K_max_power_uw``, else the greatest that such a device can draw. The
    meter itself allows twice that before it calls a gap ambiguous.
    """
    limits = path.glob("constraint_*_max_power_uw")
    declared = max((_number(entry) for entry in limits), default=0)
    if declared <= 0:
        return _MAX_POWER_UW.get(domain, _MAX_POWER_UW[Domain.CPU])
    return max(declared, _LEAST_MAX_POWER_UW)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _read(path)
    return int(text) if text.isascii() and text.isdigit() else 0
