"""Mails as they arrive when the mail server is away, or Alertmanager is killed, restarted, or one of a pair."""

from __future__ import annotations

import shutil
import time

import pytest

import mailkit
from alertmanager import SITE, Alert, Alertmanager, meanwhile, rendered
from daemon import wait
from mailkit import MINUTE_DAYS, again

mailbox, manager = mailkit.mailbox, mailkit.manager  # fixtures

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(
        shutil.which("prometheus-alertmanager") is None, reason="needs prometheus-alertmanager"
    ),
]


@pytest.mark.parametrize("how", ["gone", "451 try again later"])
@pytest.mark.slow
def test_the_mail_server_goes_away_and_comes_back(mailbox, manager, how):
    """The mail arrives, once. Until then only attempts are counted as failed: that is what the alert must look at."""
    if how == "gone":
        mailbox.stop()
    else:
        mailbox.refuse = how
    manager.post([Alert("JobwattGPUIdle")])
    failed = "alertmanager_notification_requests_failed_total"
    wait(lambda: manager.counter(failed) >= 2, why="for two attempts")
    assert manager.counter("alertmanager_notifications_failed_total") == 0
    assert mailbox.mails == []
    mailbox.refuse = ""
    if how == "gone":
        mailbox.start()
    mailbox.expect(1, "alice@example.org")
    meanwhile(lambda: manager.post([Alert("JobwattGPUIdle")]), 3)
    mailbox.expect(1)


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "end", "mails"), [
    ("1s", "kill", 1),  # --data.maintenance-interval: the log of mails was on the disk
    ("15m", "kill", 2),  # the default: killed within 15 minutes of the mail, it does not know of it
    ("15m", "stop", 1),  # ended in order, it writes its log
])  # fmt: skip
def test_alertmanager_is_killed(tmp_path, mailbox, interval, end, mails):
    """Restarted with its data: mailed twice is only what it had mailed since it last wrote its log."""
    files = rendered(SITE, tmp_path, mailbox.port, MINUTE_DAYS)
    flags = ("--cluster.listen-address=", f"--data.maintenance-interval={interval}")
    alerts = [Alert("JobwattGPUIdle", jobid="7001"), Alert("JobwattGPUIdle", jobid="7002")]
    with Alertmanager(tmp_path / "alertmanager", files, *flags) as manager:
        manager.post(alerts)
        mailbox.expect(1)
        wait(manager.tried, why="for what the mail server has answered")
        wait(lambda: interval != "1s" or manager.kept("alice"), why="for the log on the disk")
        time.sleep(0.2)
        getattr(manager, end)()
        manager.start()
        again(manager, mailbox, alerts, mails)


@pytest.mark.slow
def test_a_restart_forgets_the_day(tmp_path, mailbox):
    """What began after the mail waits for the next day; after a restart it is mailed at once, with the rest."""
    files = rendered(SITE, tmp_path, mailbox.port, MINUTE_DAYS)
    old, new = Alert("JobwattGPUIdle", jobid="7001"), Alert("JobwattGPUIdle", jobid="7002")
    with Alertmanager(tmp_path / "alertmanager", files) as manager:
        manager.post([old])
        mailbox.expect(1)
        again(manager, mailbox, [old, new], 1)
        manager.stop()
        manager.start()
        again(manager, mailbox, [old, new], 2)


@pytest.fixture
def pair(tmp_path, mailbox):
    """Two Alertmanagers that know of each other; peer-timeout shortened from 15 s as all else is."""
    files = rendered(SITE, tmp_path, mailbox.port, MINUTE_DAYS)
    both = [Alertmanager(tmp_path / name, files) for name in ("one", "two")]
    for one, other in (both, both[::-1]):
        one.flags = [
            f"--cluster.listen-address=127.0.0.1:{one.cluster_port}",
            f"--cluster.peer=127.0.0.1:{other.cluster_port}",
            "--cluster.peer-timeout=2s",
            "--cluster.gossip-interval=50ms",
            "--cluster.pushpull-interval=1s",
            "--cluster.probe-interval=500ms",
        ]
    for one in both:
        one.start(wait=False)
    try:
        for one in both:
            one.wait()
        for one in both:
            wait(lambda one=one: one.peers() == 2, why="for the other one")
        yield both
    finally:
        for one in both:
            one.stop()


@pytest.mark.slow
def test_a_pair_mails_nothing_twice(mailbox, pair):
    """One of two is killed after a mail, and comes back: no second mail; while it is away the other one mails."""
    alerts = [Alert("JobwattGPUIdle")]

    def post(alerts, to):
        for one in to:
            one.post(alerts)

    meanwhile(lambda: post(alerts, pair), 5)
    mailbox.expect(1)
    pair[0].kill()
    meanwhile(lambda: post(alerts, pair[1:]), 3)
    mailbox.expect(1)
    alerts.append(Alert("JobwattGPUIdle", user="bob", jobid="8001"))
    meanwhile(lambda: post(alerts, pair[1:]), 4)
    mailbox.expect(1, "bob@example.org")
    pair[0].start()
    wait(lambda: pair[0].peers() == 2, why="for the other one")
    meanwhile(lambda: post(alerts, pair), 5)
    pair[1].kill()
    meanwhile(lambda: post(alerts, pair[:1]), 3)
    mailbox.expect(2)


@pytest.mark.slow
def test_a_pair_without_its_mail_server(mailbox, pair):
    """
    The pair's limit: while neither gets through, both try, and both get through in the end. A mail
    server on their own machines, which takes the mail at once, avoids it.
    """
    mailbox.stop()
    for one in pair:
        one.post([Alert("JobwattGPUIdle")])
    time.sleep(5)
    mailbox.start()
    time.sleep(6)
    mailbox.expect(2, "alice@example.org")
