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

    from jobwatt.model import SourceResult

# The tool's and the requests' own deadlines come first; the end of a killed child takes a second.
_MORE_S = 2.0


@dataclass(frozen=True, slots=True)
class RedfishAccess:
    """Where the BMC's Redfish service is and how it is entered; see redfish.Bmc."""

    url: str
    credentials: Path | None = None
    ca_file: Path | None = None
    verify: bool = True


class InbandSource:
    """The source ``bmc`` through IPMI: asked in the background, and ended without waiting for it."""

    name = ipmi.NAME

    def __init__(self, inband: ipmi.Inband, every_s: float, limit_s: float) -> None:
        self._inband = inband
        self._polled = Polled(self.name, inband.look, every_s, limit_s)

    def read(self, *, full: bool) -> SourceResult:
        """Give the last answer."""
        return self._polled.read(full=full)

    @property
    def pending(self) -> bool:
        """Whether no answer has come yet."""
        return self._polled.pending

    def close(self) -> None:
        """End the tool if it runs: a daemon that ends has no 20 s for a BMC that hangs."""
        self._inband.stop()
        self._polled.close()


def open_source(
    way: str | RedfishAccess, *, every_ns: int, timeout_ns: int, includes_gpu: bool
) -> InbandSource | Polled:
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
        return InbandSource(inband, every_s, timeout_s + _MORE_S)
    service = redfish.Bmc(
        way.url,
        credentials=way.credentials,
        ca_file=way.ca_file,
        verify=way.verify,
        timeout_s=timeout_s,
        every_ns=every_ns,
        includes_gpu=includes_gpu,
    )
    return Polled(ipmi.NAME, service.look, every_s, timeout_s + _MORE_S, service.close)
