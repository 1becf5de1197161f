"""
The energy of one interval is split between its owners, exactly.

Pure, on integers: the shares of a pool always add up to its energy (largest remainder, ties by
owner name, so the order of jobs does not matter). For a pool of energy E over dt with idle power I:

    E^s = min(E, I dt)      static: follows the reservation, what nobody reserved is `unallocated`
    E^d = E - E^s           dynamic: follows the use, what no job used is `system`

A GPU's dynamic energy has no `system` part: it goes to its holders by use, by reservation where
no use is known, and to `unallocated` where nobody holds it; so its sole holder pays all of it,
idle included. What the wall meter saw beyond the components is spread in proportion to them.
Sources: GHG Protocol scope 3 guidance on physical allocation; Google's reservation-and-usage split
(arXiv 2406.09645); conservation is the efficiency axiom of Shapley's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .model import NS_PER_S, Domain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SYSTEM = "system"
UNALLOCATED = "unallocated"

Key = tuple[str, Domain, str]  # owner, domain, device id


@dataclass(frozen=True, slots=True)
class Claim:
    """
    What one owner may claim of a pool.

    ``reserved`` is in units of the pool's ``capacity`` (CPU x ns, byte x ns, slice x ns), ``used`` in
    units of its ``busy`` (CPU ns, slice x activity x ns). ``used=None``: nobody knows.
    """

    owner: str
    reserved: int
    used: int | None


@dataclass(frozen=True, slots=True)
class Pool:
    """
    One device's energy in one interval and those who claim it.

    Attributes:
        idle_uw: calibrated or learnt idle power; 0 where it is not known (all is dynamic then).
        capacity: all there is to reserve; at least the sum of the claims is taken.
        busy: all that was used, jobs and system; None for a GPU, whose use is its holders' own.
    """

    domain: Domain
    device: str
    energy_uj: int
    dt_ns: int
    idle_uw: int
    capacity: int
    busy: int | None
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a wall meter saw beyond the components (wall.py); without GPUs, those who use them do not pay more for it."""

    meter: str
    energy_uj: int
    includes_gpu: bool = True


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who owns how much: ``rows`` {(owner, domain, device): uJ}."""

    rows: Mapping[Key, int]


def attribute(pools: Iterable[Pool], beyond: Beyond | None = None) -> Attribution:
    """
    Split every pool; and what the wall saw beyond them in proportion to each owner's part of them.

    Returns:
        rows whose sum is exactly that of the pools and of ``beyond``.
    """
    rows: Counter[Key] = Counter()
    for pool in pools:
        for owner, energy_uj in split_pool(pool).items():
            rows[owner, pool.domain, pool.device] += energy_uj
    if beyond is None:
        return Attribution(dict(rows))
    basis = {key: uj for key, uj in rows.items() if beyond.includes_gpu or key[1] is not Domain.GPU}
    for owner, energy_uj in split(beyond.energy_uj, by_owner(basis), rest=SYSTEM).items():
        rows[owner, Domain.OTHER, beyond.meter] += energy_uj
    return Attribution(dict(rows))


def by_owner(rows: Mapping[Key, int]) -> dict[str, int]:
    """Sum rows over domains and devices."""
    total: Counter[str] = Counter()
    for (owner, _, _), energy_uj in rows.items():
        total[owner] += energy_uj
    return dict(total)


def split_pool(pool: Pool) -> dict[str, int]:
    """Split one pool into {owner: uJ}; the values' sum is ``pool.energy_uj``."""
    static_uj = min(pool.energy_uj, pool.idle_uw * pool.dt_ns // NS_PER_S)
    shares = _static(pool, static_uj)
    for owner, energy_uj in _dynamic(pool, pool.energy_uj - static_uj).items():
        shares[owner] = shares.get(owner, 0) + energy_uj
    return shares


def _static(pool: Pool, energy_uj: int) -> dict[str, int]:
    reserved = {claim.owner: claim.reserved for claim in pool.claims}
    free = max(pool.capacity - sum(reserved.values()), 0)
    return split(energy_uj, {**reserved, UNALLOCATED: free}, rest=UNALLOCATED)


def _dynamic(pool: Pool, energy_uj: int) -> dict[str, int]:
    used = {claim.owner: claim.used or 0 for claim in pool.claims}
    if pool.busy is not None:
        daemons = max(pool.busy - sum(used.values()), 0)
        return split(energy_uj, {**used, SYSTEM: daemons}, rest=SYSTEM)
    if not any(used.values()) or any(claim.used is None for claim in pool.claims):
        used = {claim.owner: claim.reserved for claim in pool.claims}
    return split(energy_uj, used, rest=UNALLOCATED)


def split(energy_uj: int, weights: Mapping[str, int], rest: str) -> dict[str, int]:
    """
    Split an integer by integer weights, exactly (largest remainder; ties by owner name).

    ``rest`` receives it all where no weight is positive. Owners of weight 0 get an explicit 0.
    """
    total = sum(weights.values())
    if total <= 0:
        return {**dict.fromkeys(weights, 0), rest: energy_uj}
    shares = {owner: energy_uj * weight // total for owner, weight in weights.items()}
    missing = energy_uj - sum(shares.values())
    if missing:
        for owner in _by_remainder(energy_uj, weights, total)[:missing]:
            shares[owner] += 1
    return shares


def _by_remainder(energy_uj: int, weights: Mapping[str, int], total: int) -> Sequence[str]:
    return sorted(weights, key=lambda owner: (-(energy_uj * weights[owner] % total), owner))
