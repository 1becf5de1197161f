"""The landing page: what a person reads, and what a hostile job name cannot do."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.page import render
from jobwatt.pagerows import JobRow, PageView, Share, SourceRow
from jobwatt.readable import duration, energy, power

JOB = JobRow(
    jobid="812044",
    user="ann",
    account="nlp",
    partition="gpu",
    name="train",
    gpus=("0", "2"),
    running_s=7384.0,
    watts=812.4,
    joules=5_400_000.0,
    gpu_busy_percent=93.6,
    idle_gpu_s=12.0,
    idle_joules=900.0,
    cpus=32,
    coverage=1.0,
)
VIEW = PageView(
    node="n1",
    version="1.2.3",
    wall_s=1_790_000_000.4,
    watts={"cpu": 200.0, "gpu": 700.0},
    jobs=(JOB,),
    system=Share(12.0, 5000.0),
    unallocated=Share(75.6, 7_200_000.0),
    sources=(SourceRow("nvml", True, "8 GPUs"), SourceRow("bmc", False, "no answer")),
    problems=("rapl: permission denied; run: chmod a+r energy_uj",),
)
DASH = "\N{EN DASH}"
VOID = {"meta", "link"}


class Reader(HTMLParser):
    """Reads a page as a browser would: text, tags, attributes; every tag must be closed."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page(**changes):
    return Reader(render(dataclasses.replace(VIEW, **changes)))


def job(**changes):
    return page(jobs=(dataclasses.replace(JOB, **changes),))


def test_everything_is_said():
    """The page says who, for how long, on what, at which power, with which energy."""
    text = page().text
    assert "812044 train ann nlp · gpu 2:03 h 32 0, 2 94 % 812 W 1.50 kWh 12 s 900 J" in text
    assert (
        "900 W where it is drawn CPU 200 W Memory not measured GPUs 700 W Other not measured"
        in text
    )
    assert "Jobs 812 W System 5.00 kJ so far 12 W Unallocated 2.00 kWh so far 76 W" in text
    assert "nvml ● up 8 GPUs bmc ○ down no answer" in text
    assert "Not measured rapl: permission denied; run: chmod a+r energy_uj" in text
    assert "2026-09-21 14:13:20 UTC" in text
    assert text.endswith("jobwatt 1.2.3")


def test_nothing_is_loaded_or_run():
    """No script, no form, no address but the page's own: the page works with no network."""
    read = page()
    assert not {"script", "form", "img", "iframe", "object", "base"} & set(read.tags)
    assert [v for k, v in read.attributes if k in ("href", "src")] == ["data:,", "metrics"]
    assert "@import" not in render(VIEW)
    assert "url(" not in render(VIEW)
    assert ("http-equiv", "refresh") in read.attributes


def test_an_empty_node():
    """A node without jobs, power or problems says so, without a table or a zero it cannot know."""
    nothing = Share(None, 0.0)
    text = page(jobs=(), watts={}, system=nothing, unallocated=nothing, problems=()).text
    assert "No job on this node." in text
    assert "0 running" in text
    assert f"Power now {DASH} where" in text
    assert "Not measured" not in text
    assert "unknown" in text


def test_unknown_is_not_zero():
    """What is not known is a dash, never 0."""
    text = job(watts=None, gpu_busy_percent=None, running_s=None, idle_gpu_s=None, cpus=0).text
    assert "ann nlp · gpu - - 0, 2 - - 1.50 kWh -" in text.replace(DASH, "-")
    assert "Jobs unknown" in text


HOSTILE = st.one_of(
    st.text(min_size=1, max_size=40),
    st.sampled_from(
        [
            "</td></table><script>alert(1)</script>",
            '" onmouseover="alert(1)',
            "'><img src=x onerror=alert(1)>",
            "<!--",
            "]]>",
            "</title></style>",
            "&lt;b&gt;",
            "a\nb\rc\0d\x1b[31m",
            "x" * 4096,
            "\u202egnp.exe",
            "\udce9",
        ]
    ),
)
NAMES = ("jobid", "user", "account", "partition", "name")


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, HOSTILE)), HOSTILE)
def test_hostile_text_stays_text(names, other):
    """Whatever a name is, the page's tags and attributes are those of a page with plain names."""

    def shape(text):
        found = page(
            jobs=(
                dataclasses.replace(
                    JOB, **{k: text(v) for k, v in names.items()}, gpus=(text(other),)
                ),
            ),
            node=text(other),
            problems=(text(other),),
            sources=(SourceRow(text(other), True, text(other)),),
        )
        return found.tags, found.attributes

    assert shape(str) == shape(lambda _: "plain")


def test_control_and_direction_characters_are_shown_as_such():
    """A newline, an escape or a direction override in a name cannot change how a row reads."""
    html = render(
        dataclasses.replace(VIEW, jobs=(dataclasses.replace(JOB, name="a\u202eb\nc\x1bd"),))
    )
    assert "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}d" in html


@pytest.mark.parametrize(
    ("idle_s", "running_s", "gpus", "marked"),
    [
        (299.0, 400.0, ("0",), False),
        (300.0, 400.0, ("0",), True),
        (300.0, 3001.0, ("0",), False),
        (300.0, 1501.0, ("0", "1"), False),
        (300.0, 1500.0, ("0", "1"), True),
        (None, 90_000.0, ("0",), False),
        (9e9, None, ("0",), True),
    ],
)
def test_waste_is_marked(idle_s, running_s, gpus, marked):
    """Waste is marked from five minutes and a tenth of the GPU time on; unknown never is."""
    read = job(idle_gpu_s=idle_s, running_s=running_s, gpus=gpus)
    assert ("▲" in read.text) is marked
    assert ("class", "waste") in read.attributes if marked else "wasted" not in read.text


def test_order():
    """Running jobs first, the hungriest on top; ended ones below, said to be so, without power."""
    jobs = (
        dataclasses.replace(JOB, jobid="a", state="ended", watts=None),
        dataclasses.replace(JOB, jobid="b", watts=10.0),
        dataclasses.replace(JOB, jobid="c", watts=None),
        dataclasses.replace(JOB, jobid="d", watts=500.0),
    )
    read = page(jobs=jobs)
    assert re.findall(r"\b([abcd]) (?:ended )?train", read.text) == ["d", "b", "c", "a"]
    assert "3 running, 1 ended" in read.text
    assert "a ended train" in read.text
    assert "Jobs 510 W" in read.text


@pytest.mark.parametrize(
    ("coverage", "said"), [(None, ""), (1.0, ""), (0.97, "97 %"), (0.0, "0 %")]
)
def test_coverage(coverage, said):
    """What was not fully measured says how much of it was."""
    text = job(coverage=coverage).text
    assert ("measured" in text.split("kWh", 2)[-1].split("Sources")[0]) is bool(said)
    assert not said or f"1.50 kWh {said} measured" in text


def test_bars_stay_in_their_column():
    """A bar is a share between 0 and 100 %, also where powers disagree or are negative."""
    html = render(
        dataclasses.replace(VIEW, watts={"cpu": -5.0, "gpu": 10.0}, system=Share(99.0, 0.0))
    )
    widths = [float(w) for w in re.findall(r'style="width:([-\d.]+)%"', html)]
    assert widths
    assert all(0 < width <= 100 for width in widths)


@pytest.mark.parametrize(
    ("watts", "text"),
    [
        (None, DASH),
        (0.0, "0 W"),
        (0.04, "0.0 W"),
        (8.44, "8.4 W"),
        (9.96, "10 W"),
        (734.4, "734 W"),
        (9999.4, "9999 W"),
        (10_000, "10.0 kW"),
    ],
)
def test_power(watts, text):
    """Power in the unit a person would use."""
    assert power(watts) == text


@pytest.mark.parametrize(
    ("joules", "text"),
    [
        (0.0, "0 J"),
        (0.84, "0.8 J"),
        (999.4, "999 J"),
        (999.6, "1.00 kJ"),
        (9_996, "10.0 kJ"),
        (99_960, "100 kJ"),
        (359_999, "360 kJ"),
        (360_000, "0.10 kWh"),
        (3_600_000, "1.00 kWh"),
        (9.999e9, "2778 kWh"),
    ],
)
def test_energy(joules, text):
    """Energy in the unit a person would use, and never as a power of ten."""
    assert energy(joules) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, DASH),
        (-1.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3599.4, "59 min"),
        (3600.0, "1:00 h"),
        (86_399.0, "23:59 h"),
        (183_960.0, "2 d 3:06 h"),
    ],
)
def test_duration(seconds, text):
    """Time in the unit a person would use."""
    assert duration(seconds) == text
