"""Mails as they arrive: the real exporter, Prometheus and Alertmanager, and a mail server that keeps what it gets."""

from __future__ import annotations

import bisect
import re
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest

import mailnodes
from alertmanager import SITE, Alert, Alertmanager, Mailbox, meanwhile, rendered
from daemon import wait
from mailchain import FACTOR, Chain
from mailview import DESKTOP, PHONE, html_rows, picture, problems, text_rows

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(
        shutil.which("prometheus-alertmanager") is None, reason="needs prometheus-alertmanager"
    ),
]
HOUR, KWH = 3600.0, 3.6e6
WEEK_COST = "jobwatt:user_gpu_idle_cost:week"
LATE_S = (
    4.0  # real seconds (eight minutes): a scrape, three evaluations in a row, sending, grouping
)
# group_wait, group_interval and repeat_interval of owners: 0.4 s, 60 s, 57.5 s
MINUTE_DAYS = 1440


# --- the whole chain ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The chain, once the mails of both owners have come, and a good while later."""
    with Chain(tmp_path_factory.mktemp("chain")) as running:
        for user in mailnodes.WRITTEN_TO:
            running.mailbox.expect(1, f"{user}@example.org", limit_s=110)
        time.sleep(2 * LATE_S)
        yield running


@pytest.mark.slow
def test_each_owner_gets_one_mail_about_just_their_jobs(chain):
    """Two users idle on GPUs of two nodes; the third, who computes, is not written to."""
    for user, jobs in mailnodes.WRITTEN_TO.items():
        (mail,) = chain.mailbox.to(f"{user}@example.org")
        assert mail.to == [f"{user}@example.org"]
        assert mail.message["Reply-To"] == "help@example.org"
        assert mail.message["Auto-Submitted"] == "auto-generated"
        assert mail.subject == f"Unused GPU time in {len(jobs)} of your jobs on alpha"
        assert {row["job"] for row in text_rows(mail.text)} == jobs
        assert {row["Job"] for row in html_rows(mail.html)} == jobs
        for part in (mail.text, mail.html):
            others = {str(actor.jobid) for actor in mailnodes.ACTORS} - jobs
            assert not re.search(rf"\b({'|'.join(others)})\b", part)
            assert not re.search("|".join(mailnodes.WRITTEN_TO.keys() - {user}), part)
    written_to = {address for mail in chain.mailbox.mails for address in mail.to}
    assert written_to <= {"alice.martin@example.org", "bob@example.org", "ops@example.org"}


@pytest.mark.slow
def test_the_numbers_are_those_of_the_exporters(chain):
    """
    Both parts say what the exporters' pages said; the counters only grow, so a figure lies between
    the page LATE_S before the mail (on a busy machine, by what else was late then) and the page at its
    arrival, and half a printed digit beside.
    """
    for user in mailnodes.WRITTEN_TO:
        (mail,) = chain.mailbox.to(f"{user}@example.org")
        in_html = {row["Job"]: row for row in html_rows(mail.html)}
        for row in text_rows(mail.text):
            job = row["job"]
            check_figures(chain, mail.at, job, row)
            same = in_html[job]
            columns = {
                "GPUs": "GPUs", "held": "Held", "GPU hours": "Wasted GPU hours", "kWh": "Wasted kWh", "CO2e": "CO2e",
                "EUR": "Cost (EUR)", "nodes": "Nodes",
            }  # fmt: skip
            assert {row[a] for a in columns} == {same[b] for b in columns.values()}
            assert f"scancel {job}" in same["What, and how to end it"]


def check_figures(chain, at, job, row):
    between_s = (at - LATE_S - chain.late_s(at), at)
    seconds = [chain.wasted(job, "jobwatt_job_gpu_idle_seconds_total", t) for t in between_s]
    joules = [chain.wasted(job, "jobwatt_job_gpu_idle_energy_joules_total", t) for t in between_s]
    hours, kwh = [s / HOUR for s in seconds], [1.2 * j / KWH for j in joules]  # PUE 1.2
    between(float(row["GPU hours"]), hours, 0.05)
    between(float(row["kWh"]), kwh, 0.005)
    between(float(row["CO2e"].removesuffix(" g")), [56 * k for k in kwh], 0.5)
    between(float(row["EUR"]), [0.8 * h for h in hours], 0.005)
    (actor,) = [actor for actor in mailnodes.ACTORS if str(actor.jobid) == job]
    assert row["nodes"] == ", ".join(sorted(actor.gpus))
    assert int(row["GPUs"]) == sum(map(len, actor.gpus.values()))


def between(said, bounds, rounding):
    assert bounds[0] - rounding <= said <= bounds[1] + rounding, (said, bounds)


@pytest.mark.slow
def test_the_week_is_the_sum_of_the_jobs(chain):
    """
    All of these users' jobs idle within the week, so their total is that of their jobs up to twenty minutes
    before the mail was made: the rate looks back five, the week is summed in steps of five every four, and
    the first five of a job are not seen. The mail comes up to LATE_S after it was made.

    Money is recorded up to a minute after the hours: of the first steps of five minutes that have hours, the
    money may not be there yet.
    """
    for user, jobs in mailnodes.WRITTEN_TO.items():
        (mail,) = chain.mailbox.to(f"{user}@example.org")
        ago = 20 * 60 / FACTOR + LATE_S + chain.late_s(mail.at)
        bounds = [
            sum(chain.wasted(job, "jobwatt_job_gpu_idle_seconds_total", at) for job in jobs) / HOUR
            for at in (mail.at - ago, mail.at)
        ]
        for part in (mail.text, re.sub("<[^>]+>", "", mail.html)):
            said = re.search(
                r"stood unused for ([\d.]+) GPU hours \(([\d.]+) kWh, (\d+) g CO2e, ([\d.]+) EUR\)",
                part,
            )
            between(float(said[1]), bounds, 0.05)
            recorded = [
                chain.prometheus.value(f'{WEEK_COST}{{user="{user}"}} @ {at:.3f}')
                for at in (mail.at - ago, mail.at)
            ]
            between(float(said[4]), recorded, 0.005)
            assert float(said[4]) <= 0.8 * float(said[1]) + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_pictures(chain, tmp_path, width, dark):
    """The mail as received, drawn: nothing sticks out to the right, nothing is fetched, tables say what heads what."""
    (mail,) = chain.mailbox.to("alice.martin@example.org")
    name = f"mail-{'phone' if width == PHONE else 'desktop'}-{'dark' if dark else 'light'}"
    assert picture(mail.html, name, tmp_path, width=width, dark=dark) <= width
    assert problems(mail.html) == []


# --- Alertmanager and its mail server -------------------------------------------------------------


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


def again(manager, mailbox, alerts, mails, seconds=3.0):
    """Prometheus goes on sending; there are so many mails in the end."""
    meanwhile(lambda: manager.post(alerts), seconds)
    mailbox.expect(mails)


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


# --- who is written to ----------------------------------------------------------------------------

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


# --- how often, and about what --------------------------------------------------------------------


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
