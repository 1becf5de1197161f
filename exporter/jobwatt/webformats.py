"""In which format a page is given: what a client's headers ask for."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Prometheus's text format and OpenMetrics:
# https://prometheus.io/docs/instrumenting/exposition_formats/
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# 500 kB of job series: 3 ms and 121 kB at level 1, 24 ms and 105 kB at level 9.
GZIP_LEVEL = 1


def compress(page: bytes) -> bytes:
    """Return the page in gzip's format; equal pages give equal bytes."""
    return gzip.compress(page, GZIP_LEVEL, mtime=0)


def _choices(header: str) -> Iterator[tuple[str, str, float]]:
    """Values of an Accept header with their ``version`` and weight (RFC 9110, section 12.4.2)."""
    for entry in header.lower().split(","):
        value, *parameters = (part.strip() for part in entry.split(";"))
        options = {key: text for key, _, text in (part.partition("=") for part in parameters)}
        try:
            weight = float(options.get("q", "1"))
        except ValueError:
            weight = 0.0
        yield value, options.get("version", ""), weight


def wants_openmetrics(accept: str) -> bool:
    """Tell whether the client would rather have OpenMetrics 1 than the text format."""
    openmetrics = text = 0.0
    for kind, version, weight in _choices(accept):
        if kind == "application/openmetrics-text" and (not version or version.startswith("1.")):
            openmetrics = max(openmetrics, weight)
        elif kind in ("text/plain", "text/*", "*/*"):
            text = max(text, weight)
    return openmetrics > 0 and openmetrics >= text


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether the client takes gzip."""
    weights = {value: weight for value, _, weight in _choices(accept_encoding)}
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
