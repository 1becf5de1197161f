"""
Thermal design power of CPUs that are common in GPU nodes, cloud machines and laptops.

A processor that is not here is estimated by its threads, and ``estimate.tdp`` beats the table.

Origin of the watts: the makers' product pages (ark.intel.com, amd.com), as gathered in CodeCarbon
3.3.0, codecarbon/data/hardware/cpu_power.csv (MIT); where Green Algorithms v3.0's TDP_cpu.csv (CC-BY)
has the model as well, both agree. Those marked † are made for one cloud and have no product page: theirs
is CodeCarbon's figure alone. Threads: the makers' pages; for † the cloud's largest machine of that model.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Tdp(NamedTuple):
    """Of one processor: watts, and threads (SMT on)."""

    watts: int
    threads: int


_TABLE = {
    # Intel, servers
    "Intel Xeon E5-2630 v3": Tdp(85, 16),
    "Intel Xeon E5-2650 v4": Tdp(105, 24),
    "Intel Xeon E5-2680 v3": Tdp(120, 24),
    "Intel Xeon E5-2680 v4": Tdp(120, 28),
    "Intel Xeon E5-2690 v4": Tdp(135, 28),
    "Intel Xeon E5-2698 v4": Tdp(135, 40),  # DGX-1
    "Intel Xeon Gold 6130": Tdp(125, 32),
    "Intel Xeon Gold 6148": Tdp(150, 40),
    "Intel Xeon Gold 6154": Tdp(200, 36),
    "Intel Xeon Gold 6226R": Tdp(150, 32),
    "Intel Xeon Gold 6240": Tdp(150, 36),
    "Intel Xeon Gold 6248": Tdp(150, 40),  # Jean Zay's V100 nodes
    "Intel Xeon Gold 6248R": Tdp(205, 48),
    "Intel Xeon Gold 6338": Tdp(205, 64),
    "Intel Xeon Platinum 8168": Tdp(205, 48),  # DGX-2
    "Intel Xeon Platinum 8260": Tdp(165, 48),
    "Intel Xeon Platinum 8268": Tdp(205, 48),
    "Intel Xeon Platinum 8280": Tdp(205, 56),
    "Intel Xeon Platinum 8358": Tdp(250, 64),
    "Intel Xeon Platinum 8360Y": Tdp(250, 72),
    "Intel Xeon Platinum 8462Y+": Tdp(300, 64),
    "Intel Xeon Platinum 8468": Tdp(350, 96),  # Jean Zay's H100 nodes
    "Intel Xeon Platinum 8480+": Tdp(350, 112),
    "Intel Xeon Platinum 8558": Tdp(330, 96),
    "Intel Xeon Platinum 8592+": Tdp(350, 128),
    # AMD, servers
    "AMD EPYC 7302": Tdp(155, 32),
    "AMD EPYC 7402": Tdp(180, 48),
    "AMD EPYC 7452": Tdp(155, 64),
    "AMD EPYC 7543": Tdp(225, 64),
    "AMD EPYC 7713": Tdp(225, 128),
    "AMD EPYC 7742": Tdp(225, 128),  # DGX A100
    "AMD EPYC 7763": Tdp(280, 128),
    "AMD EPYC 9334": Tdp(210, 64),
    "AMD EPYC 9534": Tdp(280, 128),
    "AMD EPYC 9554": Tdp(360, 128),
    "AMD EPYC 9654": Tdp(360, 192),
    # clouds
    "Intel Xeon E5-2686 v4": Tdp(145, 36),  # † AWS p3, 18 cores
    "Intel Xeon Platinum 8175M": Tdp(240, 48),  # † AWS m5: 96 threads on two
    "Intel Xeon Platinum 8259CL": Tdp(210, 48),  # † AWS g4dn: 96 threads on two
    "Intel Xeon Platinum 8375C": Tdp(300, 64),  # † AWS m6i: 128 threads on two
    "AMD EPYC 7B12": Tdp(240, 128),  # † Google n2d: 64 cores
    "AMD EPYC 7R13": Tdp(225, 96),  # † AWS m6a: 192 threads on two
    # work stations and laptops
    "AMD Ryzen 9 5950X": Tdp(105, 32),
    "AMD Ryzen Threadripper PRO 5995WX": Tdp(280, 128),
    "AMD Ryzen 7 5800U": Tdp(15, 16),
    "AMD Ryzen 7 7840U": Tdp(28, 16),
    "Intel Core i5-8250U": Tdp(15, 8),
    "Intel Core i7-8565U": Tdp(15, 8),
    "Intel Core i7-10510U": Tdp(15, 8),
    "Intel Core i7-1165G7": Tdp(28, 8),
    "Intel Core i7-12700H": Tdp(45, 20),
    "Intel Core i9-13900K": Tdp(125, 32),
}

# What /proc/cpuinfo adds to a model's name: "(R)", "CPU", "@ 2.60GHz", "64-Core Processor", "11th Gen",
# "with Radeon Graphics", "w/ Radeon 780M Graphics".
_ADDED = re.compile(
    r"\((?:r|tm)\)|\bcpu\b|@.*|\b\d+-cores?\b|\bprocessor\b|\b\d+th gen\b|\bw(?:ith|/).*"
)


def tdp_of(model_name: str) -> Tdp | None:
    """The processor's row, by the ``model name`` of /proc/cpuinfo; None where it is not in the table."""
    return _BY_NAME.get(_bare(model_name))


def _bare(name: str) -> str:
    return " ".join(_ADDED.sub(" ", name[:128].lower()).split())


_BY_NAME = {_bare(name): tdp for name, tdp in _TABLE.items()}
