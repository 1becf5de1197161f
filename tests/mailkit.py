"""A mail server that keeps what it gets, and an Alertmanager whose day is short."""

from __future__ import annotations

import pytest

from alertmanager import SITE, Alertmanager, Mailbox, meanwhile, rendered

# group_wait, group_interval and repeat_interval of owners: 0.4 s, 60 s, 57.5 s
MINUTE_DAYS = 1440


@pytest.fixture
def mailbox():
    with Mailbox() as box:
        yield box


@pytest.fixture
def manager(tmp_path, mailbox):
    """One Alertmanager whose day lasts a minute."""
    files = rendered(SITE, tmp_path, mailbox.port, MINUTE_DAYS)
    with Alertmanager(tmp_path / "alertmanager", files) as running:
        yield running


@pytest.fixture
def unhurried(tmp_path, mailbox):
    """One whose day lasts three minutes: it waits 1.25 s for what else there is to tell, operators 0.1 s."""
    files = rendered(SITE, tmp_path, mailbox.port, MINUTE_DAYS // 3)
    with Alertmanager(tmp_path / "alertmanager", files) as running:
        yield running


def again(manager, mailbox, alerts, mails, seconds=3.0):
    """Prometheus goes on sending; there are so many mails in the end."""
    meanwhile(lambda: manager.post(alerts), seconds)
    mailbox.expect(mails)
