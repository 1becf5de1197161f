"""
Redfish with one BMC: DMTF's client, and one session that is reused. The only importer of ``redfish``.

What the library leaves open (time, size, certificates, other hosts) is closed by the HTTPS adapter that
it lets its caller provide: redfish_https.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import time
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redfish

from . import redfish_power as power
from .redfish_https import LOOK, MAX_BYTES, Adapter, Budget, RedfishError, explained, make_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ("Client", "RedfishError", "UnauthorizedError")

# A request may take half of what the look may: a login again still fits in.
_REQUEST_SHARE = 0.5
# A connection is made, or the BMC is not there: two SYNs may be lost (after 1 s and 3 s).
_CONNECT_S = 5.0
# At the end the session is deleted, or expires on the BMC (30 minutes by default).
_LOGOUT_S = 3.0
_OK = frozenset({200, 201, 202, 204})
# No session service here, whatever the service root says.
_NO_SESSIONS = frozenset({404, 405, 501})
_REFUSED = frozenset({400, 401, 403})
# DSP0266 1.6 and later: the path where the service root names none.
_SESSIONS = "/redfish/v1/SessionService/Sessions"

# At debug level it logs headers with the session's token, and its mask of passwords can fail
# (a password with a quotation mark, by its own comment): nothing of it is ever logged.
logging.getLogger("redfish").setLevel(logging.CRITICAL + 1)


class UnauthorizedError(RedfishError):
    """HTTP 401: nobody, or no longer, logged in."""

    def __init__(self) -> None:
        super().__init__("wrong_credentials", "the BMC does not accept the login (HTTP 401)")


class Client:
    """
    One BMC's Redfish service, for one thread at a time.

    ``begin`` opens a look, ``end`` closes its connection; the session outlives it. All that is
    raised, by the constructor too, is RedfishError.
    """

    def __init__(self, base: str, ca_file: Path | None, *, verify: bool) -> None:
        self._budget = Budget()
        self._adapter = Adapter(base, make_context(ca_file, verify=verify))
        self._http = _http_client(base, self._adapter)
        self._root: dict[str, Any] | None = None
        self.basic = False  # user and password go with each request

    @property
    def logged_in(self) -> bool:
        """Whether requests carry a token, or user and password."""
        return self.basic or self._http.get_session_key() is not None

    def begin(self, timeout_s: float) -> None:
        """Allow so much time, and the bytes of one look, from now on."""
        self._budget.until_s = time.monotonic() + timeout_s
        self._request_s = timeout_s * _REQUEST_SHARE
        self._budget.bytes_left, self._budget.spent = MAX_BYTES, ""
        LOOK.budget = self._budget

    def stop(self) -> None:
        """End the look in progress; for another thread. A connection being made takes its time."""
        self._budget.until_s = 0.0

    def end(self) -> None:
        """
        Close the connection.

        The next look makes a new one: BMCs drop idle connections within seconds, some serve few at
        once, and a thousand kept open would be memory spent on silence.
        """
        self._adapter.close()

    def get(self, path: str) -> dict[str, Any] | None:
        """Return a resource; None where there is none of that name."""
        response = self._call(lambda: self._http.get(path, timeout=self._next_s()))
        if response.status in {404, 410}:
            return None
        self._expect(response.status)
        resource = _parsed(response.read)
        if not isinstance(resource, dict):
            raise RedfishError("garbage", "the BMC answers with something that is no resource")
        return resource

    def login(self, user: str, password: str) -> None:
        """
        Open a session, or use basic authentication where the BMC knows no sessions.

        A session that there still is, is deleted first: some BMCs answer 401 where the account may
        not read something, and would soon have no session left.
        """
        self._end_session()
        self._http.set_authorization_key(None)
        self.basic = False
        path = self._sessions_path()
        if path:
            body = {"UserName": user, "Password": password}
            response = self._call(lambda: self._http.post(path, body=body, timeout=self._next_s()))
            if response.status not in _NO_SESSIONS:
                self._take_session(response)
        if not self.logged_in:
            text = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._http.set_authorization_key(f"Basic {text}")
            self.basic = True

    def logout(self) -> None:
        """Delete the session, where there is one; nothing is raised."""
        if self._http.get_session_key() is None:
            return
        self.begin(_LOGOUT_S)
        self._request_s = _LOGOUT_S
        self._end_session()
        self.end()

    def _end_session(self) -> None:
        location = self._http.get_session_location()
        if self._http.get_session_key() is not None and location:
            with contextlib.suppress(RedfishError):  # then it expires on the BMC
                self._call(lambda: self._http.delete(location, timeout=self._next_s()))
        self._http.set_session_key(None)

    def _sessions_path(self) -> str | None:
        """Where sessions are made, by the service root, which is open to all; None: nowhere."""
        if self._root is None:
            self._root = self._read_root()
        path = power.link(self._root, "Links", "Sessions")
        if path is None and (not self._root or "SessionService" in self._root):
            return _SESSIONS
        return path

    def _read_root(self) -> dict[str, Any]:
        try:
            return self.get("/redfish/v1/") or {}
        except UnauthorizedError:
            return {}  # not as the standard has it; the usual place may be there all the same

    def _take_session(self, response: Any) -> None:
        if response.status in _REFUSED:
            raise _refusal(response)
        self._expect(response.status)
        self._http.set_session_key(response.getheader("X-Auth-Token"))
        self._http.set_session_location(self._session_path(response))

    def _session_path(self, response: Any) -> str | None:
        """Path of the new session: the Location header's, or the resource's that was sent back."""
        found = None
        with contextlib.suppress(ValueError):
            location = urlsplit(
                response.getheader("Location") or ""
            ).path  # its host is the BMC's idea of itself
            found = power.path_of({"@odata.id": location})
        if found is None and response.read:
            with contextlib.suppress(RedfishError):
                found = power.path_of(_parsed(response.read))
        return found

    def _next_s(self) -> tuple[float, float]:
        """Begin a request: how long connecting and one wait may take; the socket looks at the whole."""
        self._budget.request_s = time.monotonic() + self._request_s
        wait_s = self._budget.wait_s()
        return min(wait_s, _CONNECT_S), wait_s

    def _expect(self, status: int) -> None:
        if status in _OK:
            return
        if status == 401:
            raise UnauthorizedError
        if status == 403:
            raise RedfishError("forbidden", "the account may not read power (HTTP 403)")
        if status in {429, 500, 502, 503, 504}:
            raise RedfishError("busy", f"the BMC is not ready to answer (HTTP {status})")
        raise RedfishError("garbage", f"the BMC answers with HTTP {int(status)}")

    def _call(self, request: Callable[[], Any]) -> Any:
        """Do it; whatever the library, urllib3 or the socket raise becomes a RedfishError."""
        try:
            return request()
        except RedfishError:
            raise
        except Exception as err:  # noqa: BLE001  its exceptions are as many as its dependencies'
            raise explained(err, self._budget.spent) from None


def _http_client(base: str, adapter: Adapter) -> Any:
    http = redfish.redfish_client(
        base_url=base, max_retry=0, https_adapter=adapter, check_connectivity=False
    )
    # A proxy of the environment is never the way to a BMC, and ~/.netrc never its password.
    http._session.trust_env = False  # noqa: SLF001  there is no other way to say so
    # Nor are its cookies kept: a session is its token, and a jar has no bounds.
    http._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # noqa: SLF001
    return http


def _refusal(response: Any) -> RedfishError:
    try:
        found = set(power.message_ids(_parsed(response.read)))
    except RedfishError:
        found = set()
    if "SessionLimitExceeded" in found:
        return RedfishError("busy", "the BMC has no session left")
    if "PasswordChangeRequired" in found:
        return RedfishError("wrong_credentials", "the BMC wants the password changed first")
    return RedfishError("wrong_credentials", f"the BMC refuses the login (HTTP {response.status})")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RedfishError("garbage", "the BMC's answer is not JSON") from None
