"""The wattmeter's source with a map of ports, and what it has read."""

from __future__ import annotations

from contextlib import contextmanager

from jobwatt.sources.wattmeter import Wattmeter

MAP = {"1": "here", "5": "here", "2": "gpu02"}
SOON = {"retry_s": (0.05, 0.2)}


@contextmanager
def reading(spec, ports=MAP, **more):
    source = Wattmeter(str(spec), ports, "here", **{**SOON, **more})
    try:
        yield source
    finally:
        source.close()
    assert not source._thread.is_alive()


def by_id(result):
    found = {r.device.id: r for r in result.readings}
    assert len(found) == len(result.readings)
    return found


def frames(source):
    return sum(source._state.outcomes.values())


def values(source, ports=MAP):
    """Energy by port as it stands, once it is known that no more comes."""
    return {port: source._state.ports[port].energy_uj for port in ports}


def lines(rows):
    return "".join(f"{row}\n" for row in rows).encode()
