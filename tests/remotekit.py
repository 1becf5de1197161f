"""Another jobwatt's page of meters, served by a real web server, and the source that asks for it."""

from __future__ import annotations

import contextlib
import time

from daemon import wait
from jobwatt.model import NS_PER_S
from jobwatt.sources import remote_page
from jobwatt.sources.remote import Access, Remote
from jobwatt.web import WebServer
from webkit import FixedSite

S = NS_PER_S
NOW = "@now@"  # the reading of a meter that is well is as old as the page


class LiveSite(FixedSite):
    """A page whose meters have just been read whenever it is asked for."""

    def metrics(self, openmetrics, names):
        return super().metrics(openmetrics, names).replace(NOW.encode(), b"%.3f" % time.time())


def row(metric, value, meter="1", node="gpu01", source="wattmeter"):
    return f'{metric}{{source="{source}",meter="{meter}",node="{node}"}} {value}\n'


def meter(meter="1", joules=None, watts=None, read_s=None, up=1, **labels):
    """A meter's rows, as exposition.py writes them."""
    shown = {
        remote_page.ENERGY: joules,
        remote_page.POWER: watts,
        remote_page.READ: NOW if read_s is None else read_s,
        remote_page.UP: up,
    }
    return "".join(row(n, v, meter, **labels) for n, v in shown.items() if v is not None)


@contextlib.contextmanager
def serving(text="", config=None):
    site = LiveSite(text.encode())
    server = WebServer("127.0.0.1:0", site, config)
    server.start()
    try:
        yield site, f"http{'s' if config else ''}://127.0.0.1:{server.address[1]}/metrics"
    finally:
        server.stop()


@contextlib.contextmanager
def asking(url, interval_s=0.1, node="gpu01", **access):
    source = Remote(Access(url, **access), node, int(interval_s * S))
    try:
        yield source
    finally:
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < 20  # those that hang do so for 40 s
    assert not source._polled._thread.is_alive()


def answer(source):
    """The first reading."""
    return wait(lambda: source.read(full=True).readings)[0]


def failure(source):
    (found,) = wait(lambda: source.read(full=True).failures)
    assert "\n" not in found.message
    assert found.source == "remote"
    return found
