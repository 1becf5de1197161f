"""
HTTPS to a BMC within bounds: of time, of size, and to its own host only.

The bounds are set where every wait ends up, at the socket: timeouts of libraries are of one read, these
are of a whole request and of a whole look, slow drips and the handshake included (not the name
server's time). requests takes them as an adapter. The only importer of ``requests`` and ``urllib3``.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import threading
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import requests
import requests.adapters
import urllib3.exceptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A resource with power in it has 2 to 100 kB, and a first look asks for ten or twenty of all kinds;
# parsed, JSON takes up to thirty times as much.
MAX_BYTES = 1 << 20
# How soon a wait notices that its look was ended from another thread.
_SLICE_S = 0.25

# Said once by whoever switched the check off, not at each request.
warnings.filterwarnings("ignore", category=urllib3.exceptions.InsecureRequestWarning)


class RedfishError(Exception):
    """What went wrong: ``reason``, a closed word, and one line of text without any secret."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True)
class Budget:
    """What is left to a look, and what used it up (``spent``: timeout, garbage or "")."""

    until_s: float = 0.0
    request_s: float = 0.0
    bytes_left: int = 0
    spent: str = ""

    def wait_s(self) -> float:
        """Time that the request in progress may still take."""
        left = min(self.until_s, self.request_s) - time.monotonic()
        if left <= 0:
            self.spent = "timeout"
            raise TimeoutError("the time of this request is over")
        return left

    def took(self, count: int) -> None:
        """Count bytes that came in."""
        self.bytes_left -= count
        if self.bytes_left < 0:
            self.spent = "garbage"
            raise OSError("more than is believed")


class _Look(threading.local):
    """The budget of the look that this thread is at: contexts, and their sockets' class, are shared."""

    budget = Budget()


LOOK = _Look()


class _Socket(ssl.SSLSocket):
    """Every wait ends with the look's budget, wherever below it is called from."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """As the base class's, in slices."""
        while True:
            self.settimeout(min(LOOK.budget.wait_s(), _SLICE_S))
            try:
                count = super().recv_into(*args, **kwargs)
            except TimeoutError:
                continue
            LOOK.budget.took(count)
            return count

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        """As the base class's; what is sent is short."""
        self.settimeout(LOOK.budget.wait_s())
        super().sendall(*args, **kwargs)


class Adapter(requests.adapters.HTTPAdapter):
    """Our context, our host, no proxy; what ``verify`` says has been settled in the context."""

    def __init__(self, base: str, context: ssl.SSLContext) -> None:
        self._base, self._context = base, context
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Every connection uses our context."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """Of what this asks for, the host alone: TLS is the context's."""
        hosts, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return hosts, {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the pool takes everything from the context."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]  # all by name
        """Ask our host, directly, for plain JSON; RedfishError where it points elsewhere."""
        self._check_host(str(request.url))
        request.headers.update({"Accept-Encoding": "identity", "Accept": "application/json"})
        response = super().send(request, **{**kwargs, "proxies": None, "cert": None})
        if response.is_redirect:  # to plain HTTP it would not come through here again
            self._check_host(urljoin(str(request.url), response.headers["Location"]))
        if response.headers.get("Content-Encoding", "identity") != "identity":
            # what a few kilobytes would unpack to is not bounded by anything
            raise RedfishError("garbage", "the BMC sent a compressed answer that was not asked for")
        return response

    def _check_host(self, url: str) -> None:
        if not url.startswith(f"{self._base}/"):
            raise RedfishError("garbage", "the BMC points to another host")


def make_context(ca_file: Path | None, *, verify: bool) -> ssl.SSLContext:
    """
    TLS as a client; RedfishError where ``ca_file`` cannot be used.

    Shared by the BMCs with the same settings: the system's certificates take about 1 MB each time.
    """
    changed_ns = 0
    if ca_file and verify:
        with contextlib.suppress(OSError):  # told below
            changed_ns = ca_file.stat().st_mtime_ns
    return _context(ca_file, changed_ns, verify=verify)


@functools.lru_cache(maxsize=64)
def _context(ca_file: Path | None, _changed_ns: int, *, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file and verify else None)
    except (OSError, ValueError) as err:  # ssl.SSLError is an OSError
        text = f"cannot read certificates from {ca_file} ({getattr(err, 'strerror', None) or 'not PEM'})"
        raise RedfishError("certificate", text) from err
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.sslsocket_class = _Socket
    return context


def explained(err: BaseException, spent: str) -> RedfishError:
    """
    Say what an exception of requests, urllib3 or the socket means; ``spent``: of the look's budget.

    To be raised ``from None``: what these exceptions hold (requests, headers, bodies) must not reach a log.
    """
    causes = list(_causes(err))
    for cause in causes:
        if isinstance(cause, RedfishError):
            return cause
    if spent == "garbage":
        return RedfishError("garbage", "the BMC sends more than is believed")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"the BMC's certificate is not accepted ({cause.verify_message})"
            return RedfishError("certificate", text)
    if spent or any(isinstance(cause, TimeoutError) for cause in causes):
        return RedfishError("timeout", "the BMC did not answer in time")
    return RedfishError("unreachable", f"cannot reach the BMC ({_cause_text(causes)})")


def _causes(err: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it was made from; requests and urllib3 nest them in arguments."""
    waiting: list[Any] = [err]
    seen: set[int] = set()
    while waiting and len(seen) < 100:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _cause_text(causes: list[BaseException]) -> str:
    """The system's own word for it; never an exception's text, which may repeat the request."""
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return "it does not speak TLS as this system does"
        if isinstance(cause, OSError) and isinstance(cause.strerror, str) and cause.errno:
            return cause.strerror
    return "the connection broke"
