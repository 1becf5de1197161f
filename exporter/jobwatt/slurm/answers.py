"""What is the same whichever way slurmctld is asked about a job: its states, the record, and that it cannot be asked."""

from __future__ import annotations

import re
from typing import Any

from jobwatt.slurm.text import clean

Record = dict[str, Any]

# what may be asked about: a job id, a SLUID
ASKABLE = re.compile(r"[0-9]{1,10}|s[0-9A-Za-z]{13}")

HOLDING = (
    "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "STOPPED", "RESIZING", "SIGNALING",
    "STAGE_OUT",
)  # fmt: skip
ENDED = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED",
    "BOOT_FAIL", "DEADLINE",
)  # fmt: skip


class AskError(Exception):
    """slurmctld could not be asked; the message says why."""


def plain(value: object) -> str:
    """A field as printable text; "" for what Slurm prints where there is nothing."""
    return "" if value in (None, "(null)", "N/A", "None") else clean(str(value))
