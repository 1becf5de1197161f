"""A BMC's credentials: which files are read, and that no secret is told; and the urls that may be given."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

import pytest

import redfishkit
import redfishmock
from jobwatt.sources import redfish_url
from jobwatt.sources.polled import Polled
from jobwatt.sources.secrets import read_credentials
from redfishkit import POWER, reason, watts
from redfishmock import PASSWORD, SESSIONS, USER, Bmc, credentials

if TYPE_CHECKING:
    from jobwatt.model import SourceResult

certs, secret, opened = redfishkit.certs, redfishkit.secret, redfishkit.opened  # fixtures


def test_credentials_are_read(tmp_path):
    """USER:PASSWORD with anything printable in it, colons and spaces included."""
    assert read_credentials(credentials(tmp_path, "a:b:c d\n")) == ("a", "b:c d")
    assert read_credentials(credentials(tmp_path, "ü:ß\r\n")) == ("ü", "ß")


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o660, 0o650, 0o644, 0o777])
def test_a_readable_credentials_file_is_refused(tmp_path, mode):
    """Any access for others is refused, and more than reading for the group, with the command that mends it."""
    path = credentials(tmp_path)
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"chmod 600 {path}") as caught:
        read_credentials(path)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "user", ":x", "x:", "a:b\nc:d", "a:b\x00", "a:" + "x" * 17_000, "a:b\x1b[0m"]
)
def test_credentials_that_are_none(tmp_path, text):
    """Wrong content is refused, and never repeated."""
    path = credentials(tmp_path, text)
    with pytest.raises(ValueError, match="USER:PASSWORD") as caught:
        read_credentials(path)
    assert "xxxx" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_credentials_that_are_no_file(tmp_path):
    """A directory, a FIFO, a device and nothing are refused without waiting."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (tmp_path, fifo, tmp_path / "absent"):
        with pytest.raises(ValueError, match="credentials file"):
            read_credentials(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_credentials_of_somebody_else(tmp_path):
    """Neither a stranger's file nor a stranger's link to one of ours is taken; root's link is."""
    path = credentials(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_credentials(link) == (USER, PASSWORD)
    os.lchown(link, 12345, 12345)
    with pytest.raises(ValueError, match="somebody else"):
        read_credentials(link)
    os.chown(path, 12345, 12345)
    with pytest.raises(ValueError, match="chown"):
        read_credentials(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize("mode", [0o640, 0o440, 0o600, 0o400])
def test_the_group_may_read_what_is_roots(tmp_path, monkeypatch, mode):
    """
    root:jobwatt 0640, a Kubernetes secret with fsGroup, systemd's LoadCredential= (whose access list
    shows there): who is in the group of root's file is root's decision. Of a user's own file it is not.
    """
    path = credentials(tmp_path)
    path.chmod(mode)
    assert read_credentials(path) == (USER, PASSWORD)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read_credentials(path) == (USER, PASSWORD)
    path.chmod(mode | 0o004)
    with pytest.raises(ValueError, match=f"chmod 640 {path}"):
        read_credentials(path)
    path.chmod(mode)
    os.chown(path, 12345, -1)
    if mode & 0o040:
        with pytest.raises(ValueError, match=f"chmod 600 {path}"):
            read_credentials(path)
    else:
        assert read_credentials(path) == (USER, PASSWORD)


def test_an_exceptions_text_is_not_told():
    """What a source's work raises is told by its type alone: its text may repeat what a file or a device said."""

    def work() -> SourceResult:
        raise ValueError(f"bad line: {USER}:{PASSWORD}")

    polled = Polled("bmc", work, every_s=60, limit_s=10)
    try:
        while not (found := polled.read(full=True).failures):
            time.sleep(0.01)
    finally:
        polled.close()
    assert [failure.reason for failure in found] == ["exception"]
    assert "ValueError" in found[0].message
    assert PASSWORD not in found[0].message


def test_a_credentials_file_that_is_refused_is_a_failure(certs, opened, secret):
    """The look says what mends it, and the BMC is not asked."""
    secret.chmod(0o644)
    with Bmc(certs.good) as bmc:
        result = opened(bmc).look()
        assert reason(result) == "credentials_file"
        assert "chmod 600" in result.failures[0].message
        secret.chmod(0o600)
        assert watts(opened(bmc).look()) == 500
        assert reason(opened(bmc, credentials=None).look()) == "credentials_file"


@pytest.mark.slow
def test_the_password_is_never_logged(certs, opened, tmp_path, caplog):
    """At debug level, in good and in bad looks, neither password nor token nor basic header appears."""
    with caplog.at_level(logging.DEBUG), Bmc(certs.good) as bmc:
        client = opened(bmc)
        watts(client.look())
        tokens = set(bmc.sessions.values())
        bmc.sessions.clear()
        watts(client.look())
        tokens |= set(bmc.sessions.values())
        for path, status in ((POWER, 500), (SESSIONS, 400), (SESSIONS, 404), (POWER, 401)):
            bmc.statuses = {path: status}
            fresh = opened(bmc)
            said = [fresh.look(), fresh.look()]
            assert PASSWORD not in repr(said)
        bmc.statuses = {}
        client.close()
        text = caplog.text + repr(client.__dict__)
    for secret in (PASSWORD, redfishmock.basic_token(), *tokens):
        assert secret not in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://bmc", ("https://bmc", "")),
        ("https://bmc:8443/", ("https://bmc:8443", "")),
        ("https://[fe80::1]:443/redfish/v1/", ("https://[fe80::1]:443", "")),
        ("https://[FE80::1%eth0]", ("https://[fe80::1%25eth0]", "")),
        ("https://BMC.example", ("https://bmc.example", "")),
        ("https://b/redfish/v1/Systems/Node2", ("https://b", "/redfish/v1/Systems/Node2")),
    ],
)
def test_urls(url, expected):
    """Host, port and, where a BMC serves several, the system; written as the library writes it."""
    import requests

    assert redfish_url.parse_url(url) == expected
    prepared = requests.Request("GET", f"{expected[0]}/redfish/v1/x").prepare()
    assert prepared.url == f"{expected[0]}/redfish/v1/x"


@pytest.mark.parametrize(
    "url",
    ["", "bmc", "http://bmc", "https://", "https://u:geheim@bmc", "https://bmc/rest", "https://bmc/?x=1",
     "https://bmc:99999999", "https://bmc:99999", "https://bmc:0443", "https://b mc", "ftp://bmc", "https://bmc/redfish/v1/Systems/../x", "https://[x"],
)  # fmt: skip
def test_urls_that_are_refused(url):
    """Plain HTTP would show the password; one in the url would be in every process list."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  any line will do, save the secret
        redfish_url.parse_url(url)
    assert "geheim" not in str(caught.value)
