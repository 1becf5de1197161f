"""The wattmeter's rows: wherever they are cut, and everything that such a box may write."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobwatt.model import NS_PER_S
from jobwatt.sources.wattmeter_energy import Meter, Port
from jobwatt.sources.wattmeter_frames import Frames
from wattmeterkit import MAP, lines
from wattmetre import HEADER, ROWS


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_cut_anywhere(size):
    """However the bytes are cut, the same frames come."""
    whole = lines([HEADER, *ROWS[:50]])
    rows = Frames(MAP)
    found = [f for at in range(0, len(whole), size) for f in rows.feed(whole[at : at + size])]
    assert found == Frames(MAP).feed(whole)


def test_columns_by_name():
    """Columns may be in any order, and a header may come again with others."""
    rows = Frames(["2"])
    text = (
        "#activepow2,#frame_is_ok,#timestamp\n5.5,true,10.0\n"
        "#timestamp,#activepow1,#activepow2,#frame_is_ok\n11.0,1.0,7.25,true\n"
    )
    assert [(f.t_ns, f.power_uw) for f in rows.feed(text.encode())] == [
        (10 * NS_PER_S, {"2": 5_500_000}),
        (11 * NS_PER_S, {"2": 7_250_000}),
    ]


BAD = {
    "not ok": b"1.0,false,5.0,6.0",
    "cut": b"1.0,true,5",
    "two in one": b"1.0,true,5.0,62.0,true,5.0,6.0",
    "no time": b",true,5.0,6.0",
    "time is text": b"now,true,5.0,6.0",
    "time is nan": b"nan,true,5.0,6.0",
    "figure is text": b"1.0,true,5.0,six",
    "exponent": b"1.0,true,5.0,6e9",
    "underscore": b"1.0,true,5.0,1_0",
    "garbage": b"\xff\x00\x80,,,",
}


@pytest.mark.parametrize("row", BAD.values(), ids=BAD)
def test_bad_rows(row):
    """A row that is none is counted and leaves no trace in those around it."""
    rows = Frames(["1", "2"])
    rows.feed(b"#timestamp,#frame_is_ok,#activepow1,#activepow2\n")
    assert rows.feed(row + b"\n3.0,true,5.0,6.0\n")[-1].t_ns == 3 * NS_PER_S
    assert rows.bad == 1


@pytest.mark.parametrize(
    ("field", "uw"),
    [
        ("-0.0", 0),
        ("-0.1", 0),
        ("182.0", 182_000_000),
        ("0.1234567", 123_456),
        ("", None),
        (" ", None),
        ("-180.0", None),
        ("999999999", None),
    ],
)
def test_figures(field, uw):
    """-0.0 and noise below 0 are 0; blank, a clamp the wrong way round and the impossible are unknown."""
    rows = Frames(["1", "2"])
    rows.feed(b"#timestamp,#frame_is_ok,#activepow1,#activepow2\n")
    (frame,) = rows.feed(f"1.0,true,{field},6.0\n".encode())
    assert frame.power_uw == {"1": uw, "2": 6_000_000}
    assert frame.outcome == ("blank" if uw is None else "ok")
    assert rows.bad == 0


def test_endless_line():
    """A line without an end takes no memory, is counted once, and the one after it is read."""
    rows = Frames(["1"])
    rows.feed(b"#timestamp,#frame_is_ok,#activepow1\n")
    for _ in range(100):
        rows.feed(b"1" * 10_000)
        assert len(rows._begun) <= 26 << 10
    (frame,) = rows.feed(b"\n1.0,true,5.0\n")
    assert frame.power_uw == {"1": 5_000_000}
    assert rows.bad == 1


def test_older_layout():
    """Without a header: column 3 is the time, column 4 OK, ports from 0 on in columns 5 and on, blanks allowed."""
    rows = Frames(["0", "2", "9"])
    text = b"wm1,x,100.5,OK,90.5,,12.0\nwm1,x,101.5,KO,1,1,1\nwm1,x,102.5,OK,91.5,3.0,\nwm1,x,103.5,OK,92.0\n"
    found = rows.feed(text)
    assert [(f.t_ns / NS_PER_S, f.power_uw["0"], f.power_uw["2"]) for f in found] == [
        (100.5, 90_500_000, 12_000_000),
        (102.5, 91_500_000, None),
        (103.5, 92_000_000, None),
    ]
    assert [f.outcome for f in found] == ["ok", "blank", "ok"]
    assert rows.bad == 1
    assert rows.known == {"0"}


pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"\n", b",", HEADER.encode() + b"\n", ROWS[0].encode() + b"\n", b"1,2,3,OK,5\n"]
    ),
    st.sampled_from([row.encode() + b"\n" for row in ROWS[:40]]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(pieces, st.integers(0, 10**12)), max_size=60))
def test_any_bytes(parts):
    """Whatever comes and whenever: nothing is raised, memory is bounded, energy and time only go up."""
    rows, meter = Frames(["1", "5"]), Meter({"1": Port(), "5": Port()})
    now_ns, before = 0, {}
    for data, later_ns in parts:
        now_ns += later_ns
        for frame in rows.feed(data):
            meter.add(frame.t_ns, frame.power_uw, now_ns)
        state = meter.state()
        for port, told in state.items():
            assert told.t_ns <= now_ns
            if port in before:
                assert told.energy_uj >= before[port].energy_uj
                assert told.t_ns >= before[port].t_ns
                assert told.epoch >= before[port].epoch
        before = state
    assert len(rows._begun) <= 16 << 10
