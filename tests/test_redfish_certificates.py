"""Certificates of a BMC: which are taken, and what is said of those that are not."""

from __future__ import annotations

import datetime
import ipaddress
import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import redfishkit
import webcerts
from redfishkit import reason, watts
from redfishmock import Bmc

certs, secret, opened = redfishkit.certs, redfishkit.secret, redfishkit.opened  # fixtures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_certificates_are_checked(certs, opened):
    """Self-signed, of another host, expired: refused before anything is sent; without verify taken."""
    with Bmc(certs.own) as bmc:
        result = opened(bmc).look()
        assert reason(result) == "certificate"
        assert "ca-file" in result.failures[0].message
        assert not bmc.seen
        assert watts(opened(bmc, verify=False).look()) == 500
        assert watts(opened(bmc, verify=False, ca_file=None).look()) == 500


def test_the_systems_certificates_are_the_default(certs, opened):
    """Without a ca-file a site's own CA is unknown."""
    with Bmc(certs.good) as bmc:
        assert reason(opened(bmc, ca_file=None).look()) == "certificate"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_certificate_of_another_name(certs, opened):
    """The name is checked, not only the chain: a BMC that has another's certificate gets no password."""
    with Bmc(certs.good, host="127.0.0.2") as bmc:  # the certificate is of 127.0.0.1
        assert reason(opened(bmc).look()) == "certificate"
        assert not bmc.seen
        assert watts(opened(bmc, verify=False).look()) == 500


def test_an_expired_certificate(tmp_path, opened):
    """An expired certificate is told as such."""
    now = datetime.datetime.now(datetime.UTC)
    ca = webcerts.make("old CA")
    pair = webcerts.make("old", ca)
    old = pair.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(pair.key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now - datetime.timedelta(days=1))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    expired = webcerts.Pair(builder.sign(ca.key, old.signature_hash_algorithm), pair.key)
    ca_file, _ = ca.write(tmp_path, "oldca")
    with Bmc(expired.write(tmp_path, "old")) as bmc:
        result = opened(bmc, ca_file=ca_file).look()
        assert reason(result) == "certificate"
        assert "expired" in result.failures[0].message


def test_a_ca_file_that_cannot_be_used(certs, opened, tmp_path):
    """Missing, or not PEM: a failure that names the file."""
    broken = tmp_path / "ca.pem"
    broken.write_text("nothing")
    with Bmc(certs.good) as bmc:
        for path in (broken, tmp_path / "absent.pem"):
            result = opened(bmc, ca_file=path).look()
            assert reason(result) == "certificate"
            assert str(path) in result.failures[0].message
        assert not bmc.seen


def self_signed(place, key):
    """Certificate and key of a BMC that signed itself, for loopback."""
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bmc")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
    )
    return webcerts.Pair(builder.sign(key, hashes.SHA256()), key).write(place, "factory")


def test_a_bmcs_own_certificate_may_be_named(certs, opened, tmp_path):
    """A certificate that signed itself can be the ca-file, and is then checked."""
    pair = self_signed(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    with Bmc(pair) as bmc, Bmc(certs.good) as other:
        assert watts(opened(bmc, ca_file=pair[0]).look()) == 500
        assert reason(opened(other, ca_file=pair[0]).look()) == "certificate"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_an_old_bmcs_short_key(opened, tmp_path):
    """A key of 1024 bits, as BMCs of ten years ago have, is no certificate, and with verify off no hindrance."""
    pair = self_signed(tmp_path, rsa.generate_private_key(65537, 1024))
    with Bmc(pair) as bmc:
        assert reason(opened(bmc, ca_file=pair[0]).look()) == "certificate"
        assert not bmc.seen
        assert watts(opened(bmc, verify=False).look()) == 500


def test_a_renewed_ca_file_is_taken(certs, opened, tmp_path):
    """After a certificate was refused the ca-file is read again: no restart is needed."""
    path, _ = webcerts.make("yesterday's CA").write(tmp_path, "site")
    with Bmc(certs.good) as bmc:
        client = opened(bmc, ca_file=path)
        assert reason(client.look()) == "certificate"
        path.write_bytes(certs.ca.read_bytes())
        os.utime(path, ns=(1, 1))
        assert watts(client.look()) == 500
