"""Mails as they arrive: who is written to, how often, and about what."""

from __future__ import annotations

import bisect
import re
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest

import mailkit
from alertmanager import SITE, Alert, Alertmanager, meanwhile, rendered
from daemon import wait
from mailkit import MINUTE_DAYS, again
from mailview import DESKTOP, PHONE, html_rows, picture, text_rows

mailbox, manager, unhurried = mailkit.mailbox, mailkit.manager, mailkit.unhurried  # fixtures

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(
        shutil.which("prometheus-alertmanager") is None, reason="needs prometheus-alertmanager"
    ),
]
ODD = ["eve,alice@example.org", 'eve"', "eve\nBcc: alice@example.org", "alice@example.org", "LAB\\eve", "eve ", "<alice@example.org>", "eve;alice", "eve: alice", "alice\t", "-eve", "é"]  # fmt: skip


@pytest.mark.slow
def test_odd_user_names_address_nobody_else(mailbox, unhurried):
    """A comma, quotes, a line break or an @: the operators are told, and nobody is written to."""
    unhurried.post(
        [Alert("JobwattGPUIdle", user=user, jobid=str(n)) for n, user in enumerate([*ODD, ""])]
    )
    (mail,) = mailbox.expect(1)
    time.sleep(1)
    mailbox.expect(1)
    assert mail.to == ["ops@example.org"]
    assert mail.subject == "[jobwatt] not delivered: owners of jobs without an address on alpha"
    assert mail.text.count("\nuser ") == len(ODD) + 1
    assert r'user "eve\nBcc: alice@example.org", account "ltci"' in mail.text
    assert mail.html == ""


def test_a_table_of_addresses(tmp_path, mailbox):
    """A listed user is written to at the listed address, whatever the name; others at the domain."""
    site = SITE.replace(
        "[schedule]",
        "addresses = { 'LAB\\bob' = 'bob@lab.org', carol = 'c.c@lab.org' }\n[schedule]",
        1,
    )
    files = rendered(site, tmp_path, mailbox.port, MINUTE_DAYS)
    with Alertmanager(tmp_path / "alertmanager", files) as manager:
        manager.post(
            [
                Alert("JobwattGPUIdle", user=user)
                for user in ("LAB\\bob", "carol", "dave", "LAB\\eve")
            ]
        )
        mailbox.expect(4)
    assert {tuple(mail.to) for mail in mailbox.mails} == {
        ("bob@lab.org",),
        ("c.c@lab.org",),
        ("dave@example.org",),
        ("ops@example.org",),
    }


def test_only_the_listed(tmp_path, mailbox):
    """With only_listed a site tries the mails on a few."""
    site = SITE.replace(
        "[schedule]", "only_listed = true\naddresses = { carol = 'c.c@lab.org' }\n[schedule]", 1
    )
    files = rendered(site, tmp_path, mailbox.port, MINUTE_DAYS)
    with Alertmanager(tmp_path / "alertmanager", files) as manager:
        manager.post([Alert("JobwattGPUIdle", user=user) for user in ("carol", "dave")])
        mailbox.expect(2)
    assert {tuple(mail.to) for mail in mailbox.mails} == {("c.c@lab.org",), ("ops@example.org",)}


@pytest.mark.slow
def test_an_array_of_500_jobs_is_one_mail(mailbox, tmp_path):
    """Thirty rows and a count, short enough that no mail program cuts it off (at 102 kB some do)."""
    alerts = [
        Alert(
            "JobwattGPUNeverUsed",
            jobid=str(70_000 + n),
            annotations={"command": f"scancel 69999_{n}"},
        )
        for n in range(500)
    ]
    # it waits 0.4, 8 or 25 s for more: in the first of them a busy machine may not have taken them all
    for factor in (MINUTE_DAYS, 72, 24):
        files = rendered(SITE, tmp_path, mailbox.port, factor)
        with Alertmanager(tmp_path / f"alertmanager-{factor}", files) as manager:
            manager.post(alerts)
            (mail,) = mailbox.expect(1)
            if "500" in mail.subject:
                again(manager, mailbox, alerts, 1, seconds=2)
                break
        mailbox.mails.clear()
    assert mail.subject == "Unused GPU time in 500 of your jobs on alpha"
    assert [row["Job"] for row in html_rows(mail.html)] == [str(70_000 + n) for n in range(30)]
    assert len(text_rows(mail.text)) == 30
    assert "and 470 more" in mail.text
    assert "and 470 more" in mail.html
    assert len(mail.html.encode()) < 100_000
    assert picture(mail.html, "mail-array-phone", tmp_path, width=PHONE, dark=False) <= PHONE
    assert picture(mail.html, "mail-array-desktop", tmp_path, width=DESKTOP, dark=False) <= DESKTOP


@pytest.mark.slow
def test_twenty_flaps_are_no_news(mailbox, manager):
    """Fires and resolves twenty times within the day: one mail, and no word of it having resolved."""
    alert = Alert("JobwattGPUIdle")
    manager.post([alert])
    mailbox.expect(1)
    for _ in range(20):
        manager.resolve([alert])
        time.sleep(0.1)
        alert.starts = datetime.now(UTC)
        manager.post([alert])
        time.sleep(0.1)
    time.sleep(1)
    mailbox.expect(1)


@pytest.mark.slow
def test_at_most_one_mail_a_day(tmp_path, mailbox):
    """New jobs idle all the time: a mail a day (here ten seconds), each with what idles by then."""
    files = rendered(SITE, tmp_path, mailbox.port, 8640)
    alerts, posted_s = [Alert("JobwattGPUIdle", jobid="7000")], [0.0]

    def more():
        alerts.append(Alert("JobwattGPUIdle", jobid=str(7000 + len(alerts))))
        manager.post(alerts)
        posted_s.append(time.time())
        time.sleep(0.5)
        return len(mailbox.mails) == 3

    with Alertmanager(tmp_path / "alertmanager", files) as manager:
        wait(more, 120, "for the third day's mail")
        meanwhile(more, 1)
    first, second, third = mailbox.mails
    for gap in (second.at - first.at, third.at - second.at):
        assert gap > 8  # ten seconds, but for a mail that a busy machine held up
    for mail in (second, third):
        # it takes a while to be sent, and one more may just have been posted
        least, most = (bisect.bisect(posted_s, at) for at in (mail.at - 5, mail.at))
        assert min(least, 30) <= len(text_rows(mail.text)) <= min(most + 1, 30)


@pytest.mark.parametrize("text", ["[schedule]\ndays = ['{after}']", "[schedule]\nholidays = ['{today}', '{tomorrow}']\nhours = '00:00-24:00'\ndays = ['monday:sunday']"])  # fmt: skip
@pytest.mark.slow
def test_nights_and_holidays_are_quiet(tmp_path, mailbox, text):
    """On a day off owners are not written to; the operators are. The next day is off as well, should it begin."""
    today, tomorrow, after = (datetime.now(UTC) + timedelta(days=n) for n in range(3))
    day = text.format(today=today.date(), tomorrow=tomorrow.date(), after=f"{after:%A}".lower())
    site = re.sub(r"\[schedule\].*?(?=\[links\])", f"{day}\n", SITE, flags=re.DOTALL)
    files = rendered(site, tmp_path, mailbox.port, MINUTE_DAYS)
    with Alertmanager(tmp_path / "alertmanager", files) as manager:
        manager.post([Alert("JobwattGPUIdle"), down("gpu01")])
        (mail,) = mailbox.expect(1)
        time.sleep(2)
    mailbox.expect(1)
    assert mail.to == ["ops@example.org"]


def down(instance, name="JobwattExporterDown"):
    return Alert(name, user="", jobid="", audience="ops", labels={"instance": instance, "severity": "critical"})  # fmt: skip


def test_the_more_telling_alert_is_mailed(mailbox, unhurried):
    """Never-used silences low use of the same job, not of another, and not on another cluster."""
    unhurried.post([
        Alert("JobwattGPUNeverUsed", jobid="1"), Alert("JobwattGPUIdle", jobid="1"), Alert("JobwattLowGPUUse", jobid="1"),
        Alert("JobwattLowGPUUse", jobid="2"), Alert("JobwattTooManyCPUsPerGPU", jobid="2"),
        Alert("JobwattShortFailingJobs", jobid="", annotations={"nodes": "", "gpus": "", "held": ""}),
        Alert("JobwattLowGPUUse", jobid="1", cluster="beta"),
    ])  # fmt: skip
    mailbox.expect(2)
    (alpha,) = [mail for mail in mailbox.mails if mail.subject.endswith("alpha")]
    heads = re.findall(r"^== (.*) ==$", alpha.text, re.MULTILINE)
    assert heads == [
        "Never used since the start",
        "Little use of the GPUs",
        "Many jobs failing at once",
    ]
    assert [row["job"] for row in text_rows(alpha.text)] == ["1", "2", "several"]
    (beta,) = [mail for mail in mailbox.mails if mail is not alpha]
    assert [row["job"] for row in text_rows(beta.text)] == ["1"]


@pytest.mark.slow
def test_what_is_not_measured_is_for_the_operators(mailbox, unhurried):
    """A job on a node without its exporter: its owner hears nothing, the operators do; a dead exporter has no other news."""
    unmeasured = Alert("JobwattGPUsUnmeasured", jobid="1", audience="ops")
    unhurried.post(
        [
            unmeasured,
            Alert("JobwattGPUIdle", jobid="1"),
            down("gpu01"),
            down("gpu01", "JobwattSourceFailing"),
            down("gpu02", "JobwattSourceFailing"),
        ]
    )
    mailbox.expect(3)
    time.sleep(2)
    mailbox.expect(3)
    assert {mail.subject for mail in mailbox.mails} == {
        "[jobwatt] 1 firing: JobwattGPUsUnmeasured on alpha",
        "[jobwatt] 1 firing: JobwattExporterDown on alpha",
        "[jobwatt] 1 firing: JobwattSourceFailing on alpha",
    }
    (failing,) = [mail for mail in mailbox.mails if "SourceFailing" in mail.subject]
    assert 'instance="gpu02"' in failing.text
    assert "https://hpc.example.org/runbooks/JobwattSourceFailing.md" in failing.text
    assert unhurried.states()["JobwattGPUIdle"] == "suppressed"


def test_operators_hear_of_the_end(mailbox, manager):
    """A resolved alert is told, with when it was."""
    alert = down("gpu01")
    manager.post([alert])
    mailbox.expect(1)
    manager.resolve([alert])
    (_, mail) = mailbox.expect(2)
    assert mail.subject == "[jobwatt] resolved: JobwattExporterDown on alpha"
    assert mail.text.startswith("RESOLVED  ")


def test_labels_and_annotations_stay_text(mailbox, manager):
    """Markup in a label does not become markup; the text part is not escaped."""
    odd = "<b>x</b> & 'y'"
    manager.post(
        [
            Alert(
                "JobwattGPUIdle",
                labels={"partition": odd},
                annotations={"state": odd, "dashboard": '/d/x?a="><script>'},
            )
        ]
    )
    (mail,) = mailbox.expect(1)
    assert odd in mail.text
    assert "&lt;b&gt;x&lt;/b&gt; &amp; &#39;y&#39;" in mail.html
    assert "<script" not in mail.html
