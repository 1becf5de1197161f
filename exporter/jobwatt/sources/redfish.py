"""
A BMC asked for its node's power through Redfish.

For sources/bmc.py (one BMC, this node's own, behind polled.py)::

    bmc = redfish.Bmc(url, credentials=path, timeout_s=20, every_ns=10 * NS_PER_S)
    Polled("bmc", bmc.look, every_s=10, limit_s=..., close=bmc.close)

Where the power stands is found once (redfish_tree.py: in which order, docs/bmc.md: why) and then
asked alone, until it is no longer there; where a better place had no figure, that is asked again in some
minutes. What is taken from a resource: redfish_power.py. HTTP and
sessions: redfish_client.py, imported at the first look.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from jobwatt.model import Device, Domain, Failure, Kind, Reading, Sample, SourceResult

from .redfish_tree import Place, UnclearError, places
from .redfish_url import parse_url
from .secrets import read_credentials

if TYPE_CHECKING:
    from pathlib import Path

    from .redfish_client import Client

_NAME = "bmc"
_UW_PER_W = 1_000_000
# BMCs lock an account after a few wrong passwords (Redfish: AccountService's AccountLockoutThreshold,
# counted anew after AccountLockoutCounterResetAfter, mostly 30 s to 300 s).
_REFUSED_S = 300.0
# How often better places are asked again, a GET or some each: a BMC that starts has its sensors within
# minutes, and a place that is null for good then costs one question in thirty (bmc.interval 10 s).
_ANEW_S = 300.0
# A look asks for at most so many resources: a tree that leads in circles ends.
_MAX_REQUESTS = 80
# After one of these another place of the same BMC may still answer.
_ELSEWHERE = frozenset({"busy", "garbage", "forbidden", "timeout"})

_MENDING = {
    "wrong_credentials": "see user and password in the credentials file",
    "certificate": "name the certificate of its issuer with ca-file, or set verify to false",
    "timeout": "the BMC is slow or hangs; a reset of the BMC (not of the node) often helps",
    "unreachable": "see the url, the network to the BMC, and that Redfish is enabled there",
    "no_power": "see whether its firmware can be updated; IPMI may know the power",
    "ambiguous": "name one in the url: https://BMC/redfish/v1/Systems/ID",
    "garbage": "see what it answers at this url; its firmware may need an update",
    "forbidden": "give the account the privilege Login on the BMC (role ReadOnly)",
    "busy": "it is asked again; close sessions on the BMC if it lasts",
}


class Bmc:
    """
    One BMC that speaks Redfish. ``look`` and ``close`` never raise and are not called at once;
    ``stop`` may be called beside them.

    Opening asks nothing: the BMC is first asked by ``look``.

    Args:
        url: ``https://bmc-gpu01``, ``https://10.0.0.7:8443``; with a path like
            ``/redfish/v1/Systems/Node2`` it names the system of a BMC that serves several, with one
            like ``/redfish/v1/Chassis/1`` the chassis. ValueError where it is no such URL.
        credentials: file with USER:PASSWORD (secrets.py says what is asked of it), read at each look.
        ca_file: certificates the BMC's is checked against; None: the system's.
        verify: False takes any certificate.
        timeout_s: a whole look, all its requests together, ends within this.
        every_ns: how far apart looks are; given on with each Reading.
        includes_gpu, node: given on with the Device.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: Path | None,
        ca_file: Path | None = None,
        verify: bool = True,
        timeout_s: float = 20.0,
        every_ns: int = 0,
        includes_gpu: bool = True,
        node: str = "",
    ) -> None:
        self._base, self._start = parse_url(url)
        self._credentials, self._ca_file, self._verify = credentials, ca_file, verify
        self._timeout_s, self._every_ns = timeout_s, every_ns
        self._includes_gpu, self._node = includes_gpu, node
        self._client: Client | None = None
        self._place: Place | None = None
        self._better: list[Place] = []  # they come before it, and had no figure
        self._anew_s = 0.0  # when they are asked again
        self._stood: tuple[str, tuple[str, ...]] | None = None  # where the last figure did
        self._epoch = 0  # places are sensors of their own: no energy from one to the other
        self._known: dict[str, dict[str, Any] | None] = {}  # resources on the way to a place
        self._asked = 0
        self._renewed = False
        self._stopping = False
        # As whom the client is logged in; what was refused, as a Failure, and until when it is not
        # tried again. Hashes, so that no password stays in memory between looks.
        self._user: int | None = None
        self._refused: tuple[int, Failure, float] | None = None

    def look(self) -> SourceResult:
        """
        Ask once: one Reading (Domain.NODE, Kind.POWER, uW) and what is shown of it, or one Failure of source ``bmc``.

        Reasons: ``wrong_credentials``, ``credentials_file``, ``certificate``, ``timeout``,
        ``unreachable``, ``no_power``, ``ambiguous``, ``garbage``, ``forbidden``, ``busy``,
        ``not_installed``.
        """
        try:
            from . import redfish_client  # noqa: PLC0415  an optional dependency
        except ImportError:
            return self._failed("not_installed", "pip install 'jobwatt[bmc]' (DMTF's redfish)")
        try:
            login = self._login()
        except ValueError as err:
            return self._failed("credentials_file", str(err))
        if (
            self._refused
            and self._refused[0] == hash(login)
            and time.monotonic() < self._refused[2]
        ):
            return SourceResult(failures=(self._refused[1],))
        try:
            return self._look(redfish_client, login)
        except redfish_client.RedfishError as err:
            return self._failure(err.reason, str(err), login)
        except UnclearError as err:
            return self._failure("ambiguous", str(err), login)
        except Exception as err:  # noqa: BLE001  its text may repeat a request, and so a secret
            return self._failed("exception", f"{type(err).__name__} in jobwatt; please report it")
        finally:
            if self._client:
                self._client.end()

    def stop(self) -> None:
        """End a look in progress, from another thread: within 5 s, even while it connects."""
        self._stopping = True
        if self._client:
            self._client.stop()

    def close(self) -> None:
        """Delete the session on the BMC (a BMC has few of them) and close the connection."""
        if self._client:
            self._client.logout()

    def _login(self) -> tuple[str, str]:
        if self._credentials is None:
            raise ValueError("no credentials file is named: credentials must name one")
        return read_credentials(self._credentials)

    def _look(self, library: Any, login: tuple[str, str]) -> SourceResult:
        if self._client is None:
            self._client = library.Client(self._base, self._ca_file, verify=self._verify)
        client: Client = self._client
        client.begin(self._timeout_s)
        self._asked, self._renewed = 0, False
        if self._stopping:  # after begin, which would undo what stop did
            client.stop()
        if self._user != hash(login):
            client.logout()
            client.begin(0.0 if self._stopping else self._timeout_s)
        if self._user != hash(login) or not client.logged_in:
            self._user = None
            client.login(*login)
            self._user = hash(login)

        def ask(path: str) -> dict[str, Any] | None:
            return self._ask(library, client, path, login)

        found = self._again(ask, library.RedfishError) or self._search(ask, library.RedfishError)
        self._refused = None
        labels = (_NAME, found.device.name)
        watts = Sample("jobwatt_wall_power_watts", labels, found.value / _UW_PER_W)
        return SourceResult((found,), samples=(watts,))

    def _ask(
        self, library: Any, client: Client, path: str, login: tuple[str, str]
    ) -> dict[str, Any] | None:
        """Get a resource; one login again, where the session is over."""
        self._asked += 1
        if self._asked > _MAX_REQUESTS:
            raise library.RedfishError("garbage", "the tree of its resources has no end")
        try:
            return client.get(path)
        except library.UnauthorizedError:
            if self._renewed or client.basic:
                raise
            self._renewed = True
        client.login(*login)
        return client.get(path)

    def _again(self, ask: Any, error: Any) -> Reading | None:
        """Ask where the power stood last, seldom where it better stood; None where it stands in neither."""
        if self._place is None:
            return None
        if time.monotonic() >= self._anew_s and (found := self._bettered(ask, error)):
            return found
        try:
            found = self._measured(ask, self._place)
        except error as err:
            if err.reason == "garbage":
                self._place = None
            raise
        if found is None:
            self._place = None
        return found

    def _bettered(self, ask: Any, error: Any) -> Reading | None:
        """Ask the better places again."""
        self._anew_s = time.monotonic() + _ANEW_S
        for number, place in enumerate(self._better):
            try:
                found = self._measured(ask, place)
            except error as err:
                if err.reason not in _ELSEWHERE:
                    raise
                if err.reason == "timeout":  # what is left is for the place that answers
                    return None
                found = None
            if found:
                self._place, self._better = place, self._better[:number]
                return found
        return None

    def _search(self, ask: Any, error: Any) -> Reading:
        """Find a place with power; what is known of the way is kept, so that a slow BMC is searched in parts."""
        trouble = None
        passed: list[Place] = []
        for place in places(lambda path: self._on_the_way(ask, path), self._start):
            try:
                found = self._measured(ask, place)
            except error as err:
                if err.reason not in _ELSEWHERE:
                    raise
                trouble, found = err, None
            if found:
                self._place, self._better = place, passed
                self._anew_s = time.monotonic() + _ANEW_S
                self._known.clear()
                return found
            passed.append(place)
        if trouble is None or trouble.reason != "timeout":
            self._known.clear()
        raise trouble or error("no_power", "the BMC tells no power of the node")

    def _on_the_way(self, ask: Any, path: str) -> dict[str, Any] | None:
        if path not in self._known:
            self._known[path] = ask(path)
        return self._known[path]

    def _measured(self, ask: Any, place: Place) -> Reading | None:
        before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        power_uw = place.figure([ask(path) for path in place.paths])
        if power_uw is None:
            return None
        stands = place.name, place.paths
        self._epoch += self._stood not in {None, stands}
        self._stood = stands
        after_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        device = Device(
            Domain.NODE,
            id=_NAME,
            source=_NAME,
            name=place.name,
            node=self._node,
            includes_gpu=self._includes_gpu,
        )
        # the BMC read its sensor at some moment while it was asked
        moment_ns = (before_ns + after_ns) // 2
        return Reading(
            device,
            Kind.POWER,
            power_uw,
            moment_ns,
            epoch=self._epoch,
            every_ns=self._every_ns,
        )

    def _failure(self, reason: str, text: str, login: tuple[str, str]) -> SourceResult:
        if reason == "certificate" and self._client:
            self._client.end()
            self._client = None  # the ca-file may be renewed until the next look
        mending = _MENDING[reason]
        if reason != "wrong_credentials":
            return self._failed(reason, f"{text}; {mending}")
        mending += f"; not tried again for {_REFUSED_S:.0f} s, unless that file changes"
        result = self._failed(reason, f"{text}; {mending}")
        self._refused = hash(login), result.failures[0], time.monotonic() + _REFUSED_S
        return result

    def _failed(self, reason: str, text: str) -> SourceResult:
        message = f"{_NAME}: {self._base}: {text}"
        return SourceResult(failures=(Failure(_NAME, reason, message, device=self._node),))
