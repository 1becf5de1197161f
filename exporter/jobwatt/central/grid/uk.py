"""
The Carbon Intensity API of Great Britain's system operator (NESO): half hours, no key.

Direct (power stations and imports, no life cycle), average; for the nation what happened (``actual``)
once it is known and the forecast until then, for a region the forecast only
(https://carbon-intensity.github.io/api-definitions/). CC BY 4.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .answers import mapping, moment_s, sequence
from .intensity import GridError, Intensity, checked

if TYPE_CHECKING:
    from .fetch import Get
    from .settings import SourceConfig

URL = "https://api.carbonintensity.org.uk"


class UkGrid:
    """Asks for the half hour that runs."""

    def __init__(self, config: SourceConfig) -> None:
        self._regional = bool(config.postcode)
        path = f"/regional/postcode/{config.postcode}" if config.postcode else "/intensity"
        self._url = f"{config.url}{path}"

    def ask(self, get: Get, now_s: float) -> Intensity:
        """Return the running half hour's figure."""
        return parse(get(self._url), now_s, regional=self._regional)


def parse(answer: object, now_s: float, *, regional: bool) -> Intensity:
    """Take the newest half hour that has begun out of the answer."""
    entries = sequence(mapping(answer).get("data"))
    if regional:
        entries = sequence(mapping(entries[0]).get("data"))
    begun = [
        (began_s, entry)
        for began_s, entry in ((moment_s(mapping(one).get("from")), one) for one in entries)
        if began_s <= now_s
    ]
    if not begun:
        raise GridError("future", "the answer is of no half hour that has begun; check the clock")
    began_s, newest = max(begun, key=lambda pair: pair[0])
    intensity = mapping(newest.get("intensity"))
    actual = intensity.get("actual")
    if actual is not None:
        return checked(actual, began_s, now_s)
    return checked(intensity.get("forecast"), began_s, now_s, estimated=True)
