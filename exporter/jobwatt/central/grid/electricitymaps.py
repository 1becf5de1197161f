"""
Electricity Maps, API v3: most of the world, hourly, with a token.

Flow-traced: what is consumed in the zone, imports included. Average; life cycle unless direct factors
are asked for (https://app.electricitymaps.com/developer-hub/api/reference). ``isEstimated`` comes with
hours that nobody has measured yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from .answers import mapping, moment_s
from .headers import token
from .intensity import GridError, Intensity, checked

if TYPE_CHECKING:
    from .fetch import Get
    from .settings import SourceConfig

URL = "https://api.electricitymaps.com"


class ElectricityMaps:
    """Asks for the zone's latest hour."""

    def __init__(self, config: SourceConfig) -> None:
        self._zone, self._scope, self._token = config.region, config.scope, config.token_file
        asked = urlencode({"zone": config.region, "emissionFactorType": config.scope})
        self._url = f"{config.url}/v3/carbon-intensity/latest?{asked}"

    def ask(self, get: Get, now_s: float) -> Intensity:
        """Return the latest hour's figure."""
        headers = {"auth-token": token(self._token)} if self._token else {}
        return parse(get(self._url, headers), self._zone, self._scope, now_s)


def parse(answer: object, zone: str, scope: str, now_s: float) -> Intensity:
    """Take the figure out of the answer, if it is of the zone and the scope that were asked for."""
    said = mapping(answer)
    # where it has none of that name, the API falls back on the one that the caller's address is in
    if said.get("zone") != zone:
        raise GridError("mismatch", f"the answer is of another zone than {zone}")
    if said.get("emissionFactorType", "lifecycle") != scope:
        raise GridError("mismatch", f"the answer's emission factors are not {scope}")
    return checked(
        said.get("carbonIntensity"),
        moment_s(said.get("datetime")),
        now_s,
        estimated=said.get("isEstimated") is True,
    )
