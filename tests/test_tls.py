"""The daemon and a real Prometheus over TLS: the recipe of docs/security.md, and all that may be wrong with a certificate."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys

import bcrypt
import pytest
import yaml

import secure
import webcerts
from daemon import wait
from jobwatt.passwords import PasswordCheck
from jobwatt.webconfig import parse
from prom import Prometheus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
]
NODE = "node.example.org"
OLD = datetime.timedelta(days=-1)
HASH = bcrypt.hashpw(secure.PASSWORD.encode(), bcrypt.gensalt(10)).decode()


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """What the guide's commands make; and an expired server and client, and a stranger's CA."""
    folder = tmp_path_factory.mktemp("certs")
    secure.certificates(folder, NODE)
    ca, stranger = webcerts.make("ca of the test"), webcerts.make("stranger")
    ca.write(folder, "test-ca")
    stranger.write(folder, "stranger-ca")
    webcerts.make("server", ca).write(folder, "fresh")
    webcerts.make("old server", ca, lasts=OLD).write(folder, "old")
    webcerts.make("old client", ca, ("prometheus",), lasts=OLD).write(folder, "old-client")
    webcerts.make("client", stranger, ("prometheus",)).write(folder, "strange-client")
    return folder


def web_yml(certs, **replaced):
    """The guide's web.yml, with a hash that is one, and files by their whole path."""
    config = yaml.safe_load(secure.block("### On the node"))
    config["basic_auth_users"] = {secure.USER: HASH}
    tls = config["tls_server_config"]
    tls.update(replaced)
    tls.update({key: str(certs / tls[key]) for key in tls if key.endswith("_file")})
    return yaml.safe_dump(config)


def job(name, certs, port, server=NODE, password=secure.PASSWORD, **files):
    """The guide's scrape job; ``files`` replace those of its tls_config, None leaves one out."""
    (found,) = yaml.safe_load(secure.block("### In Prometheus"))["scrape_configs"]
    tls = {key: str(certs / path.rpartition("/")[2]) for key, path in found["tls_config"].items()}
    tls.update({key: str(certs / path) if path else None for key, path in files.items()})
    secret = certs / f"password.{name}"
    secret.write_text(password)
    found |= {
        "job_name": name,
        "scheme": "http" if server is None else "https",
        "tls_config": {key: path for key, path in tls.items() if path} | {"server_name": server},
        "basic_auth": {**found["basic_auth"], "password_file": str(secret)},
        "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
    }
    return f"  - {found!r}\n".replace("None", "''")  # a flow mapping is YAML as Python writes it


def as_the_guide_has_it(certs, folder):
    daemon = secure.daemon(folder, web_yml(certs))
    daemon.context = secure.trusting(certs / "ca.crt", certs / "prometheus")
    daemon.context.check_hostname = False  # it is asked by address
    daemon.authorization = secure.basic()
    return daemon


@pytest.fixture(scope="module")
def guarded(certs, tmp_path_factory):
    """A daemon as the guide has it."""
    with as_the_guide_has_it(certs, tmp_path_factory.mktemp("guarded")) as daemon:
        yield daemon


@pytest.fixture
def unasked(certs, tmp_path):
    """Another one, in whose log nobody has been turned away yet."""
    with as_the_guide_has_it(certs, tmp_path / "unasked") as daemon:
        yield daemon


@pytest.mark.prometheus
def test_what_prometheus_is_let_in_by(certs, unasked, tmp_path):
    """
    One Prometheus, nine jobs: up where everything is as the guide has it, and nowhere else; and the node's log has
    one line for each reason, however often it was tried.
    """
    old = secure.daemon(
        tmp_path / "old", web_yml(certs, cert_file="old.crt", key_file="old.key", client_ca_file="test-ca.crt")
    )  # fmt: skip
    test_ca = secure.daemon(
        tmp_path / "test",
        web_yml(certs, cert_file="fresh.crt", key_file="fresh.key", client_ca_file="test-ca.crt"),
    )
    old_pair = {"cert_file": "old-client.crt", "key_file": "old-client.key"}
    with contextlib.ExitStack() as stack:
        for daemon in (old, test_ca):  # nobody in this test is let in there: it waits for no page
            stack.callback(daemon.start(ready=False).kill)
        jobs = [
            job("good", certs, unasked.port),
            job("wrong password", certs, unasked.port, password="guess"),
            job("no certificate", certs, unasked.port, cert_file=None, key_file=None),
            job("a server's certificate", certs, unasked.port, cert_file="node.crt", key_file="node.key"),
            job("another name", certs, unasked.port, server="other.example.org"),
            job("unknown CA", certs, unasked.port, ca_file="stranger-ca.crt"),
            job("stranger", certs, unasked.port, cert_file="strange-client.crt", key_file="strange-client.key"),
            job("expired server", certs, old.port, server="localhost", ca_file="test-ca.crt"),
            job("expired client", certs, test_ca.port, server="localhost", ca_file="test-ca.crt", **old_pair),
        ]  # fmt: skip
        with Prometheus(tmp_path / "prometheus", [], jobs="".join(jobs)) as prometheus:
            wait(lambda: len(prometheus.query("up")) == 9, why="for a scrape of each")
            wait(lambda: prometheus.value('up{job="good"}'), why="for a good one")
            wait(lambda: prometheus.value('min(count_over_time(up{job!="good"}[1m]))') >= 8)
            up = {dict(labels)["job"]: value for labels, value in prometheus.query("up").items()}
            assert up == {"good": 1.0} | {name: 0.0 for name in up if name != "good"}
            # the first may have had to wait for its password to be checked behind a wrong one
            assert prometheus.value('changes(up{job="good"}[1m])') <= 1
            assert prometheus.value('jobwatt_snapshot_timestamp_seconds{job="good"}') > 0
            assert not prometheus.query('jobwatt_snapshot_timestamp_seconds{job!="good"}')
        lines = sorted(line.partition(": ")[2] for line in unasked.said("^W"))
        assert lines == [
            "127.0.0.1: TLS refused: client certificate: unable to get local issuer certificate",
            "127.0.0.1: TLS refused: client certificate: unsuitable certificate purpose",
            "127.0.0.1: TLS refused: peer did not return a certificate",
            "127.0.0.1: TLS refused: the client says: bad certificate",
            "127.0.0.1: wrong user or password",
        ]
        assert len(old.said("the client says: bad certificate")) == 1
        assert len(test_ca.said("client certificate: certificate has expired")) == 1
    for daemon in (unasked, old, test_ca):
        assert secure.PASSWORD not in daemon.text()
        assert "guess" not in daemon.text()


def test_the_guides_hash(certs):
    """The guide's line of Python asks for a password and prints a hash of it that the daemon takes."""
    line = secure.block("### A password").replace("python3", sys.executable, 1)
    done = subprocess.run(
        ["sh", "-euc", line], input=f"{secure.PASSWORD}\n", capture_output=True, text=True,
        check=True, timeout=60, start_new_session=True,  # no terminal to ask at
    )  # fmt: skip
    config = parse(f"basic_auth_users: {{a: {done.stdout.strip()}}}", certs / "web.yml")
    assert PasswordCheck().allows(config.users, secure.basic("a"))


@pytest.mark.parametrize("version", ["tls1", "tls1_1"])
def test_old_tls_is_refused(certs, guarded, version):
    """TLS 1.0 and 1.1 get no connection, though the client would take the weakest cipher."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{guarded.port}", f"-{version}", "-cipher",
         "ALL:@SECLEVEL=0", "-cert", certs / "prometheus.crt", "-key", certs / "prometheus.key"],
        input=b"", capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert b"alert protocol version" in done.stderr
    assert len(guarded.said("TLS refused: unsupported protocol")) == 1


def test_no_renegotiation(certs, guarded):
    """A client of TLS 1.2 that wants to negotiate again and again (each dear for the server) is not heard."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{guarded.port}", "-tls1_2",
         "-cert", certs / "prometheus.crt", "-key", certs / "prometheus.key"],
        input=b"R\nR\nR\n", capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert b"no renegotiation" in done.stderr
    guarded.scrape()


def keep(daemon):
    """A connection that stays open, with an answer on it."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", daemon.port, context=daemon.context, timeout=30
    )
    connection.request("GET", "/metrics", headers={"Authorization": daemon.authorization})
    assert connection.getresponse().read()
    return connection


def test_renewal(certs, tmp_path):
    """
    The guide's commands again, files replaced under a daemon that runs: new connections see the new certificate, one
    made under the old ends at its next request, and whom the new CA does not know is not let in.
    """
    mine = tmp_path / "certs"
    shutil.copytree(certs, mine)
    daemon = secure.daemon(tmp_path / "node", web_yml(mine))
    daemon.context = secure.trusting(mine / "ca.crt", mine / "prometheus")
    daemon.context.check_hostname = False
    daemon.authorization = secure.basic()
    with daemon, contextlib.closing(keep(daemon)) as kept:
        before = kept.sock.getpeercert()["serialNumber"]
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() == b""
        new = tmp_path / "new"
        new.mkdir()
        secure.certificates(new, NODE)
        for name in ("node.key", "node.crt", "ca.crt"):
            os.replace(new / name, mine / name)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            kept.request("GET", "/metrics", headers={"Authorization": daemon.authorization})
            kept.getresponse()
        context = secure.trusting(mine / "ca.crt", new / "prometheus")
        context.check_hostname = False
        with pytest.raises(OSError):  # noqa: PT011  an alert or a reset, by the moment
            daemon.get("/metrics")
        daemon.context = context
        with contextlib.closing(keep(daemon)) as anew:
            assert anew.sock.getpeercert()["serialNumber"] != before
        assert len(daemon.said("web.yml: read again")) >= 1
        assert not daemon.said("Traceback")


def test_a_probe_needs_no_password_but_a_certificate(certs, guarded):
    """/healthz is 200 without a password; without a client's certificate nothing is answered at all."""
    response = http.client.HTTPSConnection(
        "127.0.0.1", guarded.port, context=guarded.context, timeout=30
    )
    with contextlib.closing(response) as connection:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 401
    bare = secure.trusting(certs / "ca.crt")
    bare.check_hostname = False
    with (
        pytest.raises(OSError),  # noqa: PT011  an alert or a reset, by the moment
        socket.create_connection(("127.0.0.1", guarded.port), timeout=30) as sock,
        bare.wrap_socket(sock) as tls,
    ):
        tls.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        if not tls.recv(1):
            raise ssl.SSLError("closed")
