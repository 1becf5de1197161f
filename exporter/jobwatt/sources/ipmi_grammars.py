"""
What three IPMI tools print of a node's power, and what their complaints mean.

Each prints DCMI's Get Power Reading in words of its own, and beside it whether the BMC measures power
at all. The *instantaneous* reading is taken: the average is of a period that the BMC chooses. Nothing
here raises, whatever the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# DCMI gives watts as 16 bits. All ones is no power of a node, and 0 W is none of a node that runs the
# program that asks: both are what a BMC says that does not know.
_MOST_WATTS = 0xFFFE


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why there is no figure: ``reason`` for a label, ``what`` in one line for a person."""

    reason: str
    what: str


@dataclass(frozen=True, slots=True)
class _Grammar:
    """The line with the power, the line with the state, and the state that means it is measured."""

    watts: re.Pattern[str]
    state: re.Pattern[str]
    active: str


def _line(text: str) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*{text}[ \t\r]*$", re.MULTILINE)


# As in the programs' own printf: ipmitool 1.8.19 lib/ipmi_dcmi.c (ipmi_dcmi_pwr_rd), FreeIPMI 1.6.10
# ipmi-dcmi/ipmi-dcmi.c (_output_power_statistics), ipmiutil 3.2 util/idcmi.c (dcmi_show_power_read).
_GRAMMARS = {
    "ipmitool": _Grammar(
        _line(r"Instantaneous power reading:[ \t]+([0-9]{1,9}) Watts"),
        _line(r"Power reading state is:[ \t]+(activated|deactivated)"),
        "activated",
    ),
    "ipmi-dcmi": _Grammar(
        _line(r"Current Power[ \t]*:[ \t]+([0-9]{1,9}) Watts"),
        _line(r"Power Measurement[ \t]*:[ \t]+(Active|Not Available)"),
        "Active",
    ),
    "ipmiutil": _Grammar(
        _line(r"Current Power:[ \t]+([0-9]{1,9}) Watts"),
        _line(r"Power reading state is:[ \t]+(active|not active)"),
        "active",
    ),
}

# A line with this is the BMC's answer to the question itself; others are of the tool's other questions.
_DECISIVE = re.compile(r"DCMI request failed because:|dcmi_get_power_reading:")
# What the tools say where they give no figure, and what it comes down to; the first that fits. cb and
# d5 are completion codes: no such sensor, and not in the present state.
_COMPLAINTS = tuple(
    (reason, re.compile(pattern, re.IGNORECASE))
    for reason, pattern in (
        ("permission", r"permission denied|insufficient privilege|privilege level"),
        ("no_device", r"could not open device|device not found|cannot open ipmi driver"),
        (
            "wrong_credentials",
            r"(password|username) invalid|password verification|unauthorized name|HMAC is invalid",
        ),
        ("address", r"invalid hostname|address lookup .* failed"),
        ("busy", r"\bbusy\b"),
        ("timeout", r"timeout|timed out|unable to get DCMI information"),
        ("not_supported", r"not supported|unsupported|invalid command|\((cb|d5)\)|not returned!"),
        ("no_session", r"unable to establish|2\.0 unavailable|cipher suite id|authentication type"),
    )
)


def parse_power(tool: str, text: str) -> int | Complaint:
    """
    Watts from what ``tool`` printed, or why there are none.

    ``not_active`` where the BMC says that it does not measure, ``implausible`` where its figure cannot
    be, ``garbage`` where the text is not what the tool prints (a figure or a state is missing, or is
    there twice and not the same).
    """
    grammar = _GRAMMARS[tool]
    figures = set(grammar.watts.findall(text))
    states = set(grammar.state.findall(text))
    if len(figures) != 1 or len(states) != 1:
        return Complaint("garbage", f"{tool} printed no power that can be read: {last_words(text)}")
    if states != {grammar.active}:
        return Complaint("not_active", "the BMC says that it does not measure power now")
    watts = int(figures.pop())
    if not 0 < watts <= _MOST_WATTS:
        return Complaint("implausible", f"the BMC says {watts} W, which cannot be: unknown")
    return watts


def complaint(tool: str, status: int, text: str) -> Complaint:
    """What a tool that failed with ``status`` meant by ``text`` (both its outputs)."""
    lines = text[-8192:].splitlines()
    lines = [line for line in lines if _DECISIVE.search(line)] or lines
    for reason, pattern in _COMPLAINTS:
        for line in lines:
            if pattern.search(line):
                return Complaint(reason, f"{tool}: {last_words(line)}")
    return Complaint("failed", f"{tool} failed with status {status}: {last_words(text)}")


def last_words(text: str, most: int = 160) -> str:
    """The last line that says something, printable ASCII, fit for a log."""
    lines = [line.strip() for line in text[-4096:].splitlines() if line.strip()]
    shown = "".join(c if " " <= c <= "~" else "?" for c in (lines or ["nothing"])[-1])
    return shown[:most]
