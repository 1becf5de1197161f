"""
The node's own BMC, through IPMI in-band or through Redfish, asked in the background.

A BMC takes from a tenth of a second to many; it is asked every ``every_ns`` and never waited for.
Both ways look at the same meter, so only one of them is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S

from . import ipmi, redfish
from .polled import Polled

if TYPE_CHECKING:
    from pathlib import Path

# The tool's and the requests' own deadlines come first; the end of a killed child takes a second.
_MORE_S = 2.0


@dataclass(frozen=True, slots=True)
class RedfishAccess:
    """Where the BMC's Redfish service is and how it is entered; see redfish.Bmc."""

    url: str
    credentials: Path | None = None
    ca_file: Path | None = None
    verify: bool = True


def open_source(
    way: str | RedfishAccess, *, every_ns: int, timeout_ns: int, includes_gpu: bool
) -> Polled:
    """
    The source ``bmc``; ``way`` is an IPMI tool (ipmi.TOOLS, or ``auto``) or how to speak Redfish.

    Args:
        every_ns: from one question to the next.
        timeout_ns: a question that takes longer is given up.
        includes_gpu: whether the BMC's figure includes the GPUs.
    """
    timeout_s, every_s = timeout_ns / NS_PER_S, every_ns / NS_PER_S
    if isinstance(way, str):
        inband = ipmi.Inband(way, every_ns=every_ns, timeout_s=timeout_s, includes_gpu=includes_gpu)
        return Polled(ipmi.NAME, inband.look, every_s, timeout_s + _MORE_S, stop=inband.stop)
    service = redfish.Bmc(
        way.url,
        credentials=way.credentials,
        ca_file=way.ca_file,
        verify=way.verify,
        timeout_s=timeout_s,
        every_ns=every_ns,
        includes_gpu=includes_gpu,
    )
    return Polled(
        ipmi.NAME, service.look, every_s, timeout_s + _MORE_S, service.close, service.stop
    )
