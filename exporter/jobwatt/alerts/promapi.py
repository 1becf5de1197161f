"""
Questions to Prometheus's HTTP API (or what speaks it: Thanos, Mimir, VictoriaMetrics).

Only reads. Credentials come from files and are never sent to another host: a redirect is refused.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MAX_POINTS = 11_000  # per series and query: a limit of Prometheus (web/api/v1/api.go)
_LONG = 4096  # characters of a query from which it goes into the body: proxies limit the URL
# What a server says of a query that asks for too much at once; a shorter range may do.
_TOO_MUCH = (
    "too many samples",
    "timed out",
    "timeout",
    "exceeded maximum",
    "limit exceeded",
    "too large",
)


class PrometheusError(ValueError):
    """The server cannot be asked or refuses to answer; one line says why."""


class QueryError(PrometheusError):
    """The server refuses this query."""


class TooMuchError(QueryError):
    """The query asks for more at once than the server gives."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: labels, and (Unix time, value) by time."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in: a user with a password, or a bearer token, each from a file; a CA's file."""

    user: str = ""
    password_file: Path | None = None
    bearer_token_file: Path | None = None
    ca_file: Path | None = None
    insecure: bool = False

    def header(self) -> dict[str, str]:
        """The request header; empty where no credentials are given."""
        if self.bearer_token_file is not None:
            return {"Authorization": f"Bearer {_secret(self.bearer_token_file)}"}
        if self.password_file is not None:
            pair = f"{self.user}:{_secret(self.password_file)}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return {}

    def tls(self) -> ssl.SSLContext:
        """Trust of servers over HTTPS."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as err:
            raise PrometheusError(f"{self.ca_file}: not a CA certificate ({err})") from err
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise PrometheusError(f"{path}: cannot be read ({err})") from err


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the credentials along to wherever a redirect leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Prometheus:
    """A server at ``url`` (with a path prefix where it has one)."""

    def __init__(self, url: str, access: Access | None = None, timeout_s: float = 120.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise PrometheusError(f"--prometheus {url}: not a URL such as http://prometheus:9090")
        if parts.username or parts.password:
            raise PrometheusError(
                "--prometheus: no password in a URL; see --prometheus.password-file"
            )
        access = access or Access()
        self.url, self._timeout_s, self._header = url.rstrip("/"), timeout_s, access.header()
        self._opener = urllib.request.build_opener(
            _NoRedirect(), urllib.request.HTTPSHandler(context=access.tls())
        )

    def query(self, expr: str, at: float) -> list[Series]:
        """An instant query's vector."""
        answer = self._ask("query", {"query": expr, "time": _time(at)})
        return [_series(one, lambda one: [one["value"]]) for one in _result(answer)]

    def query_range(
        self, expr: str, start: float, end: float, step: float, chunk_s: float = 86_400.0
    ) -> Iterator[Series]:
        """
        The series between two times, both included, in chunks: a series may come once per chunk.

        A chunk is at most ``chunk_s`` long, and is halved where the server says that it is too much.
        """
        at = start
        points = max(min(int(chunk_s // step), MAX_POINTS), 1)
        while at <= end:
            last = min(at + (points - 1) * step, end)
            try:
                found = self._range(expr, at, last, step)
            except TooMuchError:
                if points == 1:
                    raise
                points = max(points // 2, 1)
                continue
            yield from found
            at = last + step

    def _range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        asked = {"query": expr, "start": _time(start), "end": _time(end), "step": _time(step)}
        answer = _result(self._ask("query_range", asked))
        return [_series(one, lambda one: one["values"]) for one in answer]

    def has(self, selector: str, start: float, end: float) -> bool:
        """Whether any series matches in that time."""
        asked = {"match[]": selector, "start": _time(start), "end": _time(end), "limit": "1"}
        return bool(self._ask("series", asked))

    def _ask(self, what: str, asked: Mapping[str, str]) -> Any:
        body = urllib.parse.urlencode(asked)
        url = f"{self.url}/api/v1/{what}"
        if len(body) < _LONG:
            request = urllib.request.Request(f"{url}?{body}", headers=self._header)  # noqa: S310  http(s) only
        else:
            request = urllib.request.Request(url, body.encode(), self._header)  # noqa: S310
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return self._data(json.load(answer))
        except urllib.error.HTTPError as err:
            raise self._refusal(err) from err
        except urllib.error.URLError as err:
            why = getattr(err.reason, "strerror", None) or err.reason
            raise PrometheusError(
                f"{self.url}: cannot be reached ({_line(why)}); is it up, and is that its address?"
            ) from err
        except TimeoutError as err:
            raise TooMuchError(
                f"{self.url}: no answer within {self._timeout_s:g} s: timeout"
            ) from err
        except (OSError, http.client.HTTPException) as err:
            raise PrometheusError(f"{self.url}: broke off its answer ({_line(err)})") from err
        except (ValueError, RecursionError) as err:
            raise PrometheusError(f"{self.url}: its answer is not a Prometheus's") from err

    def _data(self, answer: Any) -> Any:
        if (
            not isinstance(answer, dict)
            or answer.get("status") != "success"
            or "data" not in answer
        ):
            raise PrometheusError(f"{self.url}: its answer is not a Prometheus's")
        return answer["data"]

    def _refusal(self, err: urllib.error.HTTPError) -> PrometheusError:
        """What the server has against it, in its own words where it has any."""
        if err.code in {401, 403}:
            hint = "; see --prometheus.user, .password-file and .bearer-token-file"
            return PrometheusError(
                f"{self.url}: lets nobody in like this ({err.code} {err.reason}){hint}"
            )
        try:
            said = str(json.load(err)["error"])
        except (ValueError, LookupError, TypeError, OSError, RecursionError):
            if err.code in {413, 414, 504}:
                return TooMuchError(f"{self.url}: {err.code} {err.reason}")
            return PrometheusError(f"{self.url}: {err.code} {err.reason}")
        too_much = any(words in said.lower() for words in _TOO_MUCH)
        return (TooMuchError if too_much else QueryError)(_line(said))


def _result(answer: Any) -> list[dict[str, Any]]:
    try:
        if answer["resultType"] in {"vector", "matrix"}:
            return list(answer["result"])
    except (LookupError, TypeError):
        pass
    raise PrometheusError("the answer is neither a vector nor a matrix")


def _series(one: Any, points: Callable[[Any], Any]) -> Series:
    """One series of an answer; PrometheusError where it has no labels, or points that are none."""
    try:
        if isinstance(one["metric"], dict):
            return Series(one["metric"], tuple(map(_point, points(one))))
    except (LookupError, TypeError, ValueError, OverflowError):
        pass
    raise PrometheusError("the answer's series are not a Prometheus's")


def _point(pair: Any) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"


def _line(what: object) -> str:
    """One printable line of at most 300 characters."""
    text = " ".join(str(what).split())
    return "".join(c if c.isprintable() else "?" for c in text)[:300]
