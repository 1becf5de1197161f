"""A BMC that is slow, hangs or is not there: each look ends in time, and says why."""

from __future__ import annotations

import time

import pytest

import redfishkit
from redfishkit import POWER, reason, watts
from redfishmock import Bmc

certs, secret, opened = redfishkit.certs, redfishkit.secret, redfishkit.opened  # fixtures


@pytest.mark.slow
def test_a_slow_answer_is_given_up(certs, opened):
    """A BMC that would answer after 40 s costs half of a look's time, and the session stays."""
    let_go = []

    def slow():
        while not let_go:
            time.sleep(0.05)
        return {"PowerControl": [{"PowerConsumedWatts": 500}]}

    with Bmc(certs.good) as bmc:
        client = opened(bmc, timeout_s=3.0)
        watts(client.look())
        bmc.tree[POWER] = slow
        began = time.monotonic()
        assert reason(client.look()) == "timeout"
        assert time.monotonic() - began < 30
        let_go.append(True)
        assert watts(client.look()) == 500
        assert bmc.logins() == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", ["header", "body"])
def test_a_drip_is_given_up(certs, opened, part):
    """A byte now and then keeps every read alive; the request ends all the same."""
    over = []

    def drip(handler):
        if handler.path != POWER:
            return False
        if part == "body":
            handler.send_response(200)
            handler.send_header("Content-Length", "100000")
            handler.end_headers()
        while not over:
            handler.wfile.write(b"x")
            time.sleep(0.1)
        return True

    with Bmc(certs.good) as bmc:
        bmc.on_request = drip
        client = opened(bmc, timeout_s=1.0)
        began = time.monotonic()
        assert reason(client.look()) == "timeout"
        assert time.monotonic() - began < 30
        over.append(True)


def test_a_look_is_ended_from_another_thread(certs, opened):
    """A daemon that stops need not wait for a BMC that hangs; its session is deleted all the same."""
    import threading

    over = threading.Event()
    with Bmc(certs.good) as bmc:
        client = opened(bmc, timeout_s=120.0)
        watts(client.look())
        bmc.on_request = lambda handler: handler.path == POWER and (over.wait(120) or True)
        found = []
        thread = threading.Thread(target=lambda: found.append(client.look()))
        asked = len(bmc.seen)
        thread.start()
        while len(bmc.seen) == asked:
            time.sleep(0.01)
        client.stop()
        thread.join(60)
        assert reason(found[0]) == "timeout"
        client.close()
        assert not bmc.sessions
        assert reason(client.look()) == "timeout"
        over.set()


def test_a_bmc_that_hangs_in_the_handshake(certs, opened):
    """A port that accepts and says nothing is a timeout."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert reason(opened(None, url=url, timeout_s=1.0).look()) == "timeout"
        assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_slow_tree_is_walked_in_parts(certs, opened):
    """Where the walk does not fit into one look, the next goes on from what is known."""
    with Bmc(certs.good) as bmc:
        for path, resource in list(bmc.tree.items()):
            if path != "/redfish/v1":
                bmc.tree[path] = lambda found=resource: (time.sleep(0.3), found)[1]
        client = opened(bmc, timeout_s=1.0)
        for _ in range(60):
            result = client.look()
            if result.readings:
                break
            assert reason(result) == "timeout"
        assert watts(result) == 500


def test_nobody_there(opened):
    """A closed port is unreachable, with the system's own word for it."""
    result = opened(None, url="https://127.0.0.1:1").look()
    assert reason(result) == "unreachable"
    assert "refused" in result.failures[0].message


def test_no_tls_there(opened):
    """A port that speaks something else is told from one that is closed."""
    import http.server
    import threading

    plain = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=plain.serve_forever, args=(0.05,), daemon=True).start()
    url = f"https://127.0.0.1:{plain.server_address[1]}"
    result = opened(None, url=url).look()
    plain.shutdown()
    plain.server_close()
    assert reason(result) == "unreachable"
    assert "TLS" in result.failures[0].message
