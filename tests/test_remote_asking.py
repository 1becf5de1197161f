"""Wall power from another jobwatt: real web servers, real TLS, settings, and two daemons."""

from __future__ import annotations

import os
import time

import bcrypt
import pytest

import netfaults
import wattmetre
import webcerts
from daemon import BOOT_ID, Daemon, wait
from jobwatt.config import ConfigError, from_flags
from jobwatt.model import Domain, Kind
from jobwatt.sources import remote_page
from remotekit import S, answer, asking, failure, meter, serving
from trees import Node
from wattmetre import ROWS, Box, energy


def test_both_supplies_are_one_node():
    """Both power supplies' counters are summed to one device; rows of other nodes are not ours."""
    page = meter("2", "10.000001", 50) + meter("10", "5.5", 70) + meter("3", 999, 999, node="gpu02")
    with serving(page) as (site, url), asking(url) as source:
        reading = answer(source)
        result = source.read(full=True)
    device = reading.device
    assert (device.domain, device.id, device.source) == (
        Domain.NODE,
        "remote:wattmeter:2+10",
        "wattmeter",
    )
    assert (device.name, device.summed, device.node) == ("2+10", True, "")
    assert (reading.kind, reading.value, reading.epoch) == (Kind.ENERGY, 15_500_001, 0)
    assert reading.every_ns == S // 10
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert now_ns - 5 * S < reading.t_ns <= now_ns
    assert [(s.metric, s.labels, s.value) for s in result.samples] == [
        ("jobwatt_wall_power_watts", ("wattmeter", "2+10"), 120.0)
    ]
    assert site.asked[0] == frozenset(remote_page.NAMES)


def test_wattmeter_before_bmc():
    """Of two sources the wattmeter counts; where it is down, the BMC does, in a new epoch."""
    bmc = meter("bmc", None, 400, source="bmc")
    with serving(meter("1", 7, 70) + bmc) as (site, url), asking(url) as source:
        reading = answer(source)
        assert (reading.device.source, reading.kind) == ("wattmeter", Kind.ENERGY)
        site.text = (meter("1", 7, None, up=0) + bmc).encode()
        reading = wait(
            lambda: next((r for r in source.read(full=True).readings if r.kind is Kind.POWER), None)
        )
    assert (reading.device.source, reading.value, reading.epoch) == ("bmc", 400_000_000, 1)


@pytest.mark.slow
def test_tls_and_password(tmp_path):
    """Over TLS with a password: with the right ones it answers; without, one line says which is wrong."""
    ca = webcerts.make("ca")
    ca_file, _ = ca.write(tmp_path, "ca")
    webcerts.make("server", ca).write(tmp_path, "server")
    hashed = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    config = tmp_path / "web.yml"
    config.write_text(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
        f"basic_auth_users:\n  gpu01: {hashed}\n"
    )
    secret = tmp_path / "secret"
    secret.write_text("gpu01:s3cret\n")
    secret.chmod(0o600)
    with serving(meter("1", 7, 70), config) as (_, url):
        with asking(url, credentials=secret, ca_file=ca_file) as source:
            assert answer(source).value == 7_000_000
            secret.chmod(0o644)
            refused = failure(source)
            assert (refused.reason, "chmod 600" in refused.message) == ("credentials_file", True)
            secret.chmod(0o600)
            secret.write_text("gpu01:wr0ng\n")
            wait(lambda: [f for f in source.read(full=True).failures if f.reason == "refused"])
            said = failure(source).message + repr(source._access)
            assert "wr0ng" not in said
            secret.write_text("gpu01:s3cret\n")
            wait(lambda: source.read(full=True).failures == ())
        with asking(url, ca_file=ca_file) as source:
            assert failure(source).reason == "refused"
        with asking(url, credentials=secret) as source:
            assert failure(source).reason == "certificate"
        with asking(url.replace("https", "http")) as source:
            assert failure(source).reason in {"status", "garbled", "unreachable"}


def test_certificates_are_renewed(tmp_path):
    """When the other side has a certificate of another CA, a new remote.ca-file is taken without a restart."""
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n")

    def renew():
        ca = webcerts.make("ca")
        ca.write(tmp_path, "ca")
        webcerts.make("server", ca).write(tmp_path, "server")

    renew()
    with (
        serving(meter("1", 7, 70), config) as (_, url),
        asking(url, ca_file=tmp_path / "ca.crt") as source,
    ):
        answer(source)
        renew()
        os.utime(tmp_path / "server.crt", (1, time.time() + 5))
        wait(lambda: len(source.read(full=True).failures) == 0 and source.read(full=True).readings)
        time.sleep(0.5)
        wait(lambda: source.read(full=True).failures == ())


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("gpu01", "gpu01", True),
        ("gpu01", "gpu01.site.org", True),
        ("gpu01", "gpu01x.site.org", False),
        ("gpu01.site.org", "gpu01.site.org", True),
        ("gpu01.site.org", "gpu01", False),
        ("gpu01.site.org", "gpu01.other.org", False),
    ],
)
def test_a_nodes_name(asked, there, found):
    """Names are compared up to their first dot; one that is asked for with a dot, as it is."""
    page = meter("1", 7, 70, 1e9, node=there).encode()
    assert bool(remote_page.meters(page, asked)) == found
    with serving(meter("1", 7, 70, node=there)) as (_, url), asking(url, node=asked) as source:
        if found:
            assert answer(source).value == 7_000_000
        else:
            message = failure(source).message
            assert asked in message
            assert "bmc-proxy" in message  # the other side may be one


@pytest.mark.slow
def test_a_names_addresses_share_the_deadline(monkeypatch):
    """Where a name has addresses that never answer, the one that does is asked within the same deadline."""
    with serving(meter("1", 7, 70)) as (_, url):
        port = int(url.split(":")[2].partition("/")[0])
        with (
            netfaults.silent_first(monkeypatch, "meter.test", port),
            asking(f"http://meter.test:{port}/metrics", limit_s=1) as source,
        ):
            began_s = time.monotonic()
            assert answer(source).value == 7_000_000
            assert time.monotonic() - began_s < 9  # one deadline each would be ten seconds


def test_proxies_are_not_asked(monkeypatch):
    """A proxy of the environment is none of this page's business."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(meter("1", 7, 70)) as (_, url), asking(url) as source:
        assert answer(source).value == 7_000_000


@pytest.mark.slow
def test_one_answer_lost():
    """Where one answer is lost the last one stays, and is dropped when three are."""
    with serving(meter("1", 7, 70)) as (site, url), asking(url, interval_s=1) as source:
        first = answer(source)
        site.text = b""
        lost = wait(lambda: (found := source.read(full=True)).failures and found)
        assert lost.readings == (first,)
        wait(lambda: not source.read(full=True).readings)
        site.text = meter("1", 9, 70).encode()
        later = wait(lambda: source.read(full=True).readings)[0]
    assert (first.value, later.value) == (7_000_000, 9_000_000)
    assert later.epoch == first.epoch  # the counter went on there: what it shows was measured


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"remote.url": "meter:9816"}, "must be http"),
        ({"remote.url": "ftp://meter/metrics"}, "must be http"),
        ({"remote.url": "http://u:pa55@meter/metrics"}, "remote.credentials"),
        ({"remote.url": "http://u:pa55/word@meter/metrics"}, "must be http"),
        ({"remote.url": "http://meter:99999/"}, "must be http"),
        ({"remote.url": "http://meter/", "remote.credentials": "/s"}, "in the clear"),
        ({"remote.interval": "61s"}, "silent for a minute is not waited for"),
        ({"remote.interval": "500ms"}, "not between 1s and 60s"),
    ],
)
def test_settings_that_are_refused(flags, words):
    """What cannot be used is refused at the start, without repeating a password."""
    with pytest.raises(ConfigError) as err:
        from_flags(flags)
    assert words in str(err.value)
    assert "pa55" not in str(err.value)


def test_default_path():
    """A URL without a path means its metrics page."""
    assert (
        from_flags({"remote.url": "https://meter:9816"}).remote_url == "https://meter:9816/metrics"
    )


@pytest.mark.slow
def test_two_daemons(tmp_path):
    """A daemon reads the meter, another one, of the node it feeds, takes its wall energy from there, to the microjoule."""
    nodes = []
    for name in ("meter", "gpu01"):
        (tmp_path / name).mkdir()
        made = Node(tmp_path / name, cpus=4, boot_id=BOOT_ID)
        made.add_intel(sockets=1, psys=False, mmio=False)
        nodes.append(made)
    box = Box(tmp_path / "ttyUSB0")
    box.plug()
    reads = [
        f"--wattmeter.input={wattmetre.command(box.path)}",
        "--wattmeter.ports=1=gpu01,5=gpu01",
    ]
    with Daemon(nodes[0], tmp_path / "s0", *reads) as host:
        asks = [f"--remote.url={host.url}", "--remote.node=gpu01", "--remote.interval=2s"]
        with Daemon(nodes[1], tmp_path / "s1", *asks) as there:
            box.play(
                ROWS[:1]
            )  # all the others within three intervals, or it is too old to go on from
            there.until(lambda page: page.find("jobwatt_wall_power_watts", meter="1+5"))
            there.samples(2)
            box.play(ROWS[1:300], pace=1.0)
            expected = energy(ROWS[:300], "1") + energy(ROWS[:300], "5")
            metric = "jobwatt_wall_energy_joules_total"
            there.until(lambda page: page.micro(metric, meter="1+5") == expected)
            assert not host.scrape().find("jobwatt_wall_power_watts")
            host.kill()
            there.until(lambda page: page.value("jobwatt_source_up", source="remote") == 0)
            assert there.scrape().micro(metric, meter="1+5") == expected
