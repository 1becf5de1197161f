"""The demo's mails: caught, shown, and harmless whatever they hold."""

from __future__ import annotations

import html
import json
import re
import smtplib

import pytest

import demokit
from demokit import mail
from jobwatt.demo import mails
from prom import free_port

site, client = demokit.site, demokit.client  # fixtures

ALICE = ("alice@example.org",)


def test_a_mail_is_caught_and_shown(client, site):
    """What a mail server is given is in the list, on a page of its own and in the JSON."""
    catcher = mails.Catcher("127.0.0.1", free_port(), site.mailbox)
    catcher.start()
    with smtplib.SMTP("127.0.0.1", catcher.port, timeout=60) as smtp:
        smtp.sendmail("gpumon@example.org", ["alice@example.org"], mail())
    catcher.stop()
    assert "Unused GPU time" in client.text("/mails")
    page = client.text("/mails/1")
    assert "gpumon@example.org" in page
    assert "plain" in page
    (found,) = json.loads(client.text("/mails.json"))
    assert (found["number"], found["to"], found["subject"]) == (
        1,
        ["alice@example.org"],
        "Unused GPU time",
    )
    assert found["html"].strip() == "<p>rich</p>"


def test_a_hostile_mail_stays_text(client, site):
    """Scripts in subject, text or HTML reach no page: they are escaped, or in a frame that runs none."""
    evil = "</title><script>alert(1)</script>"
    site.mailbox.add((f'<img src=x onerror="{evil}">',), mail(evil, evil, f'"></iframe>{evil}'))
    for path in ("/mails", "/mails/1"):
        status, body, headers = client.ask(path)
        page = body.decode()
        assert status == 200
        assert "<script" not in page
        assert "<img" not in page
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "script-src" not in headers["Content-Security-Policy"]
    frame = re.search(
        r'<iframe title="the mail" sandbox="([^"]*)" srcdoc="([^"]*)"></iframe>', page
    )
    assert "allow-scripts" not in frame[1]
    assert "allow-same-origin" not in frame[1]
    assert evil in html.unescape(frame[2])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\xff" * 50,
        b"Subject: =?utf-8?B?////?=\r\nTo: =?x-unknown?Q?=FF?=\r\n\r\nbody",
        b"Subject: a\r\n b\r\n c\r\nContent-Type: multipart/alternative; boundary=\r\n\r\n--\r\n",
        b"Content-Type: text/html; charset=no-such\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
        b"From: " + b"<" * 500 + b"\r\n\r\n",
        b"Subject: \xe2\x80\xae gnp.exe\r\n\r\n",
    ],
)
def test_a_broken_mail_is_shown_as_far_as_it_goes(client, site, content):
    """Nothing that somebody sends takes the list away from the others."""
    site.mailbox.add(ALICE, content)
    site.mailbox.add(ALICE, mail())
    assert client.text("/mails").count("alice@example.org") == 2
    assert client.text("/mails/1")
    assert len(json.loads(client.text("/mails.json"))) == 2


def test_the_oldest_mails_go_first():
    """500 are kept, and numbers stay."""
    mailbox = mails.Mailbox()
    for _ in range(mails.KEPT + 3):
        mailbox.add(ALICE, mail())
    assert mailbox.get(3) is None
    assert mailbox.get(4) is not None
    assert mailbox.newest_first()[0].number == mailbox.count == mails.KEPT + 3
