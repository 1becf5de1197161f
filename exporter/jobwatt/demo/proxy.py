"""Prometheus's API for the dashboards, on the page's own origin: only what reads."""

from __future__ import annotations

import http.client
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "/prometheus"
_READS = re.compile(
    r"/api/v1/(?:query|query_range|series|labels|label/[A-Za-z_][A-Za-z0-9_]*/values|metadata|rules|alerts|status/buildinfo)"
)
_POSTED = {"query", "query_range", "series", "labels"}
_PASSED = ("accept", "accept-encoding", "content-type")
_BACK = ("Content-Encoding",)
_LIMIT_S = 120.0

Answered = tuple[int, str, bytes, dict[str, str]]  # status, type, body, headers


class Proxy:
    """A Prometheus at an address."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def ask(
        self, method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]
    ) -> Answered:
        """Hand a request on and return what comes back; 403 for what is not a known read."""
        inner = path.removeprefix(PREFIX)
        if not allowed(method, inner):
            return _text(HTTPStatus.FORBIDDEN, "only queries are handed on to Prometheus")
        target = f"{inner}?{query}" if query else inner
        passed = {name: headers[name] for name in _PASSED if name in headers}
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_LIMIT_S)
        try:
            connection.request(method, target, body or None, passed)
            answer = connection.getresponse()
            back = {name: value for name in _BACK if (value := answer.getheader(name))}
            return (
                answer.status,
                answer.getheader("content-type", "text/plain"),
                answer.read(),
                back,
            )
        except (http.client.InvalidURL, ValueError) as err:  # before anything was sent
            return _text(HTTPStatus.BAD_REQUEST, f"not a request that can be handed on ({err})")
        except (OSError, http.client.HTTPException) as err:
            return _text(HTTPStatus.BAD_GATEWAY, f"Prometheus does not answer ({err})")
        finally:
            connection.close()


def allowed(method: str, path: str) -> bool:
    """Whether this is a read that dashboards need."""
    if not _READS.fullmatch(path):
        return False
    return method in {"GET", "HEAD"} or (method == "POST" and path.rsplit("/", 1)[1] in _POSTED)


def _text(status: int, text: str) -> Answered:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode(), {}
