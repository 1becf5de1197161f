"""
WattTime, API v3: the marginal rate (MOER), every five minutes, with an account.

The CO2 of the stations that would follow one more kWh: for shifting load, not for accounting, and
never chosen unless the configuration asks for marginal figures (https://docs.watttime.org). The login
gives a token for half an hour. ``signal-index`` gives percentiles, which are no intensities: the rate
itself is in ``historical``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from .answers import mapping, moment_s, sequence
from .headers import basic
from .intensity import GridError, Intensity, checked, number

if TYPE_CHECKING:
    from .fetch import Get
    from .settings import SourceConfig

URL = "https://api.watttime.org"
_UNITS = "lbs_co2_per_mwh"
_GRAMS_PER_KWH = (
    0.45359237  # of 1 lb/MWh: the international pound is 453.59237 g, a MWh is 1000 kWh
)
_TOKEN_S = 25 * 60.0  # tokens live for 30 minutes
_WINDOW_S = 2 * 3600.0


class WattTime:
    """Asks for the rates of the last two hours and takes the newest."""

    def __init__(self, config: SourceConfig) -> None:
        self._base, self._region = config.url, config.region
        self._credentials = config.credentials_file
        self._token, self._until_s = "", 0.0

    def ask(self, get: Get, now_s: float) -> Intensity:
        """Return the newest rate; logs in again where the token is no longer taken."""
        fresh = not self._token or time.monotonic() >= self._until_s
        if fresh:
            self._log_in(get)
        try:
            return parse(self._rates(get, now_s), self._region, now_s)
        except GridError as err:
            if err.reason != "unauthorized":
                raise
            self._token = ""
            if fresh:
                raise
        self._log_in(get)
        return parse(self._rates(get, now_s), self._region, now_s)

    def _rates(self, get: Get, now_s: float) -> object:
        asked = {
            "region": self._region,
            "signal_type": "co2_moer",
            "start": _written(now_s - _WINDOW_S),
            "end": _written(now_s),
        }
        url = f"{self._base}/v3/historical?{urlencode(asked)}"
        return get(url, {"Authorization": f"Bearer {self._token}"})

    def _log_in(self, get: Get) -> None:
        if self._credentials is None:
            raise GridError("credentials", "credentials_file is not set")
        answer = get(f"{self._base}/login", basic(self._credentials))
        token = mapping(answer).get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise GridError("malformed", "the login gives no token")
        self._token, self._until_s = token, time.monotonic() + _TOKEN_S


def parse(answer: object, region: str, now_s: float) -> Intensity:
    """Take the newest rate out of the answer, if it is one and of the region asked for."""
    meta = mapping(mapping(answer).get("meta"))
    if meta.get("region", region) != region:
        raise GridError("mismatch", f"the answer is of another region than {region}")
    if meta.get("units") != _UNITS:
        raise GridError("mismatch", f"the answer is not in {_UNITS}")
    points = [mapping(point) for point in sequence(mapping(answer).get("data"))]
    known = [
        (moment_s(one.get("point_time")), one["value"])
        for one in points
        if one.get("value") is not None
    ]
    if not known:
        raise GridError("null", "the answer has no figure yet (null)")
    t_s, pounds = max(known, key=lambda pair: pair[0])
    return checked(number(pounds) * _GRAMS_PER_KWH, t_s, now_s)


def _written(t_s: float) -> str:
    return datetime.fromtimestamp(t_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
