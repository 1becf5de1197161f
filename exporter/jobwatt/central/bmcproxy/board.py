"""What the proxy serves (web.Site): the BMCs' power and energy, and a page of how each of them fares."""

from __future__ import annotations

import threading
import time
from html import escape
from typing import TYPE_CHECKING

from ... import __version__
from ...encoder import Encoder
from ...metrics import CATALOGUE, Metric
from ...ownmetrics import own_metrics

if TYPE_CHECKING:
    from ...exposition import Rows
    from .meter import Shown
    from .poll import Poller

# A thousand nodes may each ask for their own row every few seconds: the page is made once a second.
_KEPT_S = 1.0
_KEPT_PAGES = 16
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .8rem .2rem 0;"
    "border-bottom:1px solid #ddd;vertical-align:top}td.n{text-align:right;white-space:nowrap}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}td,th{border-color:#333}}"
)


class BmcBoard:
    """Shows a poller's meters."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._encoder = Encoder()
        self._lock = threading.Lock()
        self._kept: dict[tuple[bool, frozenset[str]], tuple[float, bytes]] = {}

    def metrics(self, openmetrics: bool, names: frozenset[str]) -> bytes:
        """Return the page; where ``names`` is not empty, only these families."""
        known = frozenset(name for name in names if name in CATALOGUE)
        if names and not known:
            return b"# EOF\n" if openmetrics else b""
        asked, now_s = (openmetrics, known), time.monotonic()
        with self._lock:
            made_s, page = self._kept.get(asked, (-_KEPT_S, b""))
            if now_s - made_s >= _KEPT_S:
                page = self._encoder.encode(self._families(known), openmetrics=openmetrics)
                if len(self._kept) >= _KEPT_PAGES:
                    self._kept.clear()
                self._kept[asked] = now_s, page
            return page

    def page(self) -> str:
        """Return the landing page, as HTML."""
        shown = self._shown()
        rows = "".join(_row(one) for one in shown)
        up = sum(one.up for one in shown)
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>jobwatt bmc-proxy</title>"
            f"<style>{_STYLE}</style><h1>jobwatt bmc-proxy</h1>"
            f"<p>{up} of {len(shown)} BMCs deliver. <a href=metrics>metrics</a></p><table><tr>"
            f"<th>node<th>power<th>from<th>age<th>what is amiss</tr>{rows}</table></html>"
        )

    def health(self) -> tuple[bool, str]:
        """Tell whether BMCs are being asked."""
        stalled = self._poller.stalled()
        return not stalled, "no BMC is asked any more" if stalled else "BMCs are asked"

    def ready(self) -> tuple[bool, str]:
        """Tell whether any BMC has been asked."""
        ready = any(one.answered for one in self._shown())
        return ready, "ready" if ready else "no BMC has been asked yet"

    def _shown(self) -> list[Shown]:
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return [meter.shown(now_ns) for meter in self._poller.meters]

    def _families(self, names: frozenset[str]) -> list[tuple[Metric, Rows]]:
        rows: dict[str, Rows] = {name: {} for name in _FAMILIES}
        for one in self._shown():
            _fill(rows, one)
        for reason, count in sorted(self._poller.errors().items()):
            rows["jobwatt_source_errors_total"]["bmc", reason] = str(count)
        rows["jobwatt_build_info"][(__version__,)] = "1"
        page = [(CATALOGUE[name], found) for name, found in rows.items()]
        if names:
            return [(metric, found) for metric, found in page if metric.name in names]
        return page + own_metrics()


_FAMILIES = (
    "jobwatt_meter_power_watts",
    "jobwatt_meter_energy_joules_total",
    "jobwatt_meter_reading_timestamp_seconds",
    "jobwatt_meter_up",
    "jobwatt_source_errors_total",
    "jobwatt_build_info",
)


def _fill(rows: dict[str, Rows], one: Shown) -> None:
    """
    Add a BMC's rows: of the place its figure stands now, and of no other.

    An old power is not shown as that of now; its energy so far and its time stay.
    """
    if not one.answered:
        return
    labels = ("bmc", one.place, one.node)
    rows["jobwatt_meter_up"][labels] = str(int(one.up))
    if not one.place:
        return
    if one.up:
        rows["jobwatt_meter_power_watts"][labels] = _micro(one.power_uw)
    rows["jobwatt_meter_energy_joules_total"][labels] = _micro(one.energy_uj)
    rows["jobwatt_meter_reading_timestamp_seconds"][labels] = f"{one.read_s:.3f}"


def _micro(value: int) -> str:
    """uJ as J, uW as W: exact."""
    return f"{value // 1_000_000}.{value % 1_000_000:06d}"


def _row(one: Shown) -> str:
    age = f"{max(time.time() - one.read_s, 0):.0f} s" if one.place else ""
    power = f"{one.power_uw / 1e6:.0f} W" if one.up else ""
    return (
        f"<tr><td>{escape(one.node)}<td class=n>{power}<td>{escape(one.place)}"
        f"<td class=n>{age}<td>{escape(one.message)}</tr>"
    )
