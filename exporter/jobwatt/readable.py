"""Figures as a person reads them."""

from __future__ import annotations

J_PER_KWH = 3_600_000.0
DASH = "\N{EN DASH}"  # unknown, or nothing to say


def power(watts: float | None) -> str:
    """Watts for a person: ``734 W``, ``8.4 W``, ``12.3 kW``; a dash where unknown."""
    if watts is None:
        return DASH
    if abs(watts) >= 9_999.5:
        return f"{watts / 1000:.1f} kW"
    return f"{watts:.0f} W" if abs(watts) >= 9.95 or watts == 0 else f"{watts:.1f} W"


def energy(joules: float) -> str:
    """Joules for a person: ``0.8 J``, ``312 kJ``, from a tenth of a kWh on in kWh."""
    if joules >= J_PER_KWH / 10:
        return f"{_figures(joules / J_PER_KWH)} kWh"
    if joules >= 999.5:
        return f"{_figures(joules / 1000)} kJ"
    return f"{joules:.0f} J" if joules >= 9.95 or joules == 0 else f"{joules:.1f} J"


def _figures(value: float) -> str:
    """At least three figures, and never a power of ten."""
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def duration(seconds: float | None) -> str:
    """``h:mm`` from an hour on, ``12 min`` or ``45 s`` below; a dash where unknown."""
    if seconds is None:
        return DASH
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    days, rest = divmod(whole // 60, 1440)
    clock = f"{rest // 60}:{rest % 60:02d} h"
    return f"{days} d {clock}" if days else clock
