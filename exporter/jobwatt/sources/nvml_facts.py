"""What a GPU is, as far as that does not change while the driver is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobwatt.sources.nvml_calls import Calls

# A GPU's power goes above its limit for some milliseconds; over a gap of a second or more twice
# the highest limit that can be set is out of reach. The limit is NVML's own figure.
_HEADROOM = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """
    A whole GPU. What could not be had is "" or None.

    Attributes:
        handle: NVML's, valid until the driver is closed.
        max_power_uw: more than this it cannot draw; 0 where no limit is known.
        memory_bytes: device memory.
    """

    handle: Any
    uuid: str
    index: int
    minor: int | None = None
    model: str = ""
    pci_bus_id: str = ""
    max_power_uw: int = 0
    memory_bytes: int | None = None

    @property
    def labels(self) -> tuple[str, str]:
        """The labels ``gpu`` and ``uuid``."""
        return (str(self.index), self.uuid)

    @property
    def minor_label(self) -> str:
        """The minor as a label."""
        return "" if self.minor is None else str(self.minor)


def read_facts(calls: Calls, handle: Any, uuid: str, index: int) -> Facts:
    """Ask for all of it; what fails is noted in ``calls`` and left unknown."""
    memory = calls.ask("nvmlDeviceGetMemoryInfo", handle)
    return Facts(
        handle=handle,
        uuid=uuid,
        index=index,
        minor=calls.ask("nvmlDeviceGetMinorNumber", handle),
        model=calls.text("nvmlDeviceGetName", handle) or "",
        pci_bus_id=_pci_bus_id(calls, handle),
        max_power_uw=_max_power_uw(calls, handle),
        memory_bytes=None if memory is None else memory.total,
    )


def _pci_bus_id(calls: Calls, handle: Any) -> str:
    pci = calls.ask("nvmlDeviceGetPciInfo_v3", handle)
    # From the numbers: the text of the structure is decoded strictly by pynvml.
    return "" if pci is None else f"{pci.domain:08X}:{pci.bus:02X}:{pci.device:02X}.0"


def _max_power_uw(calls: Calls, handle: Any) -> int:
    limits = calls.ask("nvmlDeviceGetPowerManagementLimitConstraints", handle)
    limit_mw = limits[1] if limits else calls.ask("nvmlDeviceGetEnforcedPowerLimit", handle)
    return _HEADROOM * 1000 * (limit_mw or 0)
