"""All targets, by name."""

from __future__ import annotations

from fuzz import grid, kernel, sd, sensors, settings, slurm, store, web  # noqa: F401  each registers its own
from fuzz.base import TARGETS

__all__ = ["TARGETS"]
