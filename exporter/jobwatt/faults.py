"""What goes wrong is said once, and once more when it is over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .model import Failure

log = logging.getLogger(__name__)

# Hardware that is simply not there is no fault: one line at Info.
ABSENT = frozenset(
    {"no_powercap", "no_perf", "no_library", "driver_not_loaded", "no_gpu", "released"}
)


class FaultLog:
    """Remembers which faults have been said."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str, str], str] = {}

    def note(self, failures: Iterable[Failure]) -> None:
        """Log faults that are new, and the end of those that are gone."""
        now = {(f.source, f.reason, f.device): f.message for f in failures}
        for fault, message in now.items():
            if fault not in self._said:
                level = logging.INFO if fault[1] in ABSENT else logging.WARNING
                log.log(level, "%s", message)
        for source, reason, device in self._said.keys() - now.keys():
            log.info("%s: %s is over%s", source, reason, f" ({device})" if device else "")
        self._said = now
