"""Mails as they arrive, through the whole chain: the real exporter, Prometheus, Alertmanager and a mail server."""

from __future__ import annotations

import re
import shutil
import time

import pytest

import mailnodes
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
