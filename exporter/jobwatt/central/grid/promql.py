"""
Any figure that a Prometheus has (or what speaks its API): a site's own meter, contract or exporter.

The query must give one value in g CO2e per kWh; what it means (scope, average or marginal) is for the
configuration to say. Its time is the time of the answer: Prometheus forgets a series five minutes after
its last sample, unless the query makes it last longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from .answers import mapping, sequence
from .headers import basic, token
from .intensity import GridError, Intensity, checked

if TYPE_CHECKING:
    from .fetch import Get
    from .settings import SourceConfig

URL = ""  # every site's is another


class PromQl:
    """Asks an instant query."""

    def __init__(self, config: SourceConfig) -> None:
        self._url = f"{config.url}/api/v1/query?{urlencode({'query': config.query})}"
        self._token, self._credentials = config.token_file, config.credentials_file

    def ask(self, get: Get, now_s: float) -> Intensity:
        """Return the query's value."""
        return parse(get(self._url, self._header()), now_s)

    def _header(self) -> dict[str, str]:
        if self._token:
            return {"Authorization": f"Bearer {token(self._token)}"}
        if self._credentials:
            return basic(self._credentials)
        return {}


def parse(answer: object, now_s: float) -> Intensity:
    """Take the one value out of the answer: of a scalar, or of a vector that has one series."""
    data = mapping(mapping(answer).get("data"))
    result: Any = sequence(data.get("result"))
    if data.get("resultType") == "vector":
        if len(result) > 1:
            raise GridError("several", f"the query gives {len(result)} series; make it one")
        result = sequence(mapping(result[0]).get("value"))
    elif data.get("resultType") != "scalar":
        raise GridError("malformed", "the query gives neither a scalar nor a vector")
    try:
        t_s, value = float(result[0]), float(result[1])
    except (ValueError, TypeError, LookupError, OverflowError):
        raise GridError("malformed", "the answer's figure is no number") from None
    return checked(value, t_s, now_s)
