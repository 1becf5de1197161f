"""A node's power through IPMI: the words of three tools, words that are not theirs, and which tool is asked how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipmikit import DATA, inband, printed, script
from jobwatt.sources import ipmi
from jobwatt.sources.ipmi_grammars import Complaint, complaint, parse_power

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("tool", ipmi.TOOLS)
def test_each_tool_has_its_words(tool: str) -> None:
    """The instantaneous power where power is measured; not active is no 0 W; nor is no DCMI."""
    assert parse_power(tool, printed(tool, "active")) == 1287
    found = parse_power(tool, printed(tool, "inactive"))
    assert isinstance(found, Complaint)
    assert found.reason == "not_active"
    assert complaint(tool, 1, printed(tool, "unsupported")).reason == "not_supported"


@pytest.mark.parametrize("tool", ipmi.TOOLS)
@pytest.mark.parametrize("watts", ["0", "65535", "70000", "999999999"])
def test_a_power_that_cannot_be_is_unknown(tool: str, watts: str) -> None:
    """0 W while the program runs, all ones, and more than 16 bits hold: none of them is a power."""
    found = parse_power(tool, printed(tool, "active").replace("1287", watts))
    assert isinstance(found, Complaint)
    assert found.reason == "implausible"


@pytest.mark.parametrize("tool", ipmi.TOOLS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1287 Watts", "1287 mW"),
        ("1287 Watts", "-1287 Watts"),
        ("1287 Watts", "9999999999999999 Watts"),
        ("1287 Watts", "1287 Watts\n@ 12 Watts"),
        ("ctivated", "ctivatet"),
        ("Active", "Aktiv"),
        (" active", " aktiv"),
    ],
)
def test_words_that_are_not_the_tools_are_garbage(tool: str, old: str, new: str) -> None:
    """Another unit, a sign, another language, two figures: no power is guessed from them."""
    text = printed(tool, "active")
    (line,) = {line for line in text.splitlines() if "1287" in line}
    text = text.replace(old, new.replace("@", line.partition("1287")[0]))
    if text == printed(tool, "active"):
        return  # not a word of this tool
    found = parse_power(tool, text)
    assert isinstance(found, Complaint)
    assert found.reason == "garbage"


def test_one_tools_words_are_not_anothers() -> None:
    """A wrapper that runs another tool is found out; line ends of a serial console are not minded."""
    for tool in ipmi.TOOLS:
        assert parse_power(tool, printed(tool, "active").replace("\n", "\r\n")) == 1287
        for other in set(ipmi.TOOLS) - {tool}:
            assert isinstance(parse_power(tool, printed(other, "active")), Complaint)


FRAGMENTS = st.sampled_from(
    [line + "\n" for tool in ipmi.TOOLS for line in printed(tool, "active").splitlines()]
    + [" Watts", "Power", "9" * 300, "\x00", "\x1b[2J", "\u0663", "\n", ":"]
)


@given(
    st.sampled_from(ipmi.TOOLS),
    st.one_of(st.text(), st.lists(FRAGMENTS).map("".join), st.binary().map(lambda b: b.decode("latin-1"))),
)  # fmt: skip
def test_no_text_raises(tool: str, text: str) -> None:
    """Whatever is printed there is a power that can be, or a reason and one printable line."""
    for found in (parse_power(tool, text), complaint(tool, 1, text)):
        if isinstance(found, Complaint):
            assert found.reason.isidentifier()
            assert len(found.what) < 400
            assert all(" " <= c <= "~" for c in found.what)
        else:
            assert 0 < found < 65535


def test_auto_takes_the_first_tool_that_is_there(tmp_path: Path) -> None:
    """ipmi-dcmi, ipmitool, ipmiutil, in this order; a named one and no other."""
    for number, tool in enumerate(reversed(ipmi.TOOLS), 1):
        text = printed(tool, "active").replace("1287", str(number))
        (tmp_path / tool).with_suffix(".txt").write_text(text)
        script(tmp_path / tool, f"cat {tmp_path / tool}.txt")
        assert inband(tmp_path).look().readings[0].value == number * 10**6
    assert inband(tmp_path, "ipmiutil").look().readings[0].value == 10**6


def test_only_the_kernels_driver_is_used(tmp_path: Path) -> None:
    """Left to themselves FreeIPMI and ipmiutil talk to ports behind the kernel's back."""
    asked = tmp_path / "asked"
    for tool, words in zip(
        ipmi.TOOLS, ("--driver-type=OPENIPMI", "-I open", "-F open"), strict=True
    ):
        script(tmp_path / tool, f'echo "$*" >{asked}; cat {DATA}/{tool}-active.txt')
        assert inband(tmp_path, tool).look().failures == ()
        assert words in asked.read_text()
