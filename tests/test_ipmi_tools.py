"""A node's power through IPMI: real tools against a simulated BMC (ipmisim.py), and what they are not given."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from ipmikit import inband, reason, script
from ipmisim import NOT_ACTIVE, PASSWORD, USER, SimulatedBmc
from jobwatt.model import Failure
from jobwatt.sources import ipmi

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory):
    with SimulatedBmc(tmp_path_factory.mktemp("bmc") / "bmc") as bmc:
        yield bmc


@pytest.fixture
def bmc(simulated: SimulatedBmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedBmc:
    simulated.answer()
    tools = simulated.lan_tools(tmp_path / "tools")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return simulated


def ask(
    bmc: SimulatedBmc,
    tool: str,
    user: str = USER,
    password: str = PASSWORD,
    timeout_s: float = 60,
) -> ipmi.Answer | Failure:
    return ipmi.lan_reading("127.0.0.1", user, password, tool, timeout_s, port=bmc.port)


lan_tools = pytest.mark.parametrize("tool", ["ipmitool", "ipmi-dcmi"])


@lan_tools
def test_a_bmc_over_the_network(bmc: SimulatedBmc, tool: str) -> None:
    """The right power, with a password that has a quote, a hash and a backslash in it."""
    for watts in (1, 344, 65534):
        bmc.answer(watts=watts)
        answer = ask(bmc, tool)
        assert isinstance(answer, ipmi.Answer), answer
        assert answer.uw == watts * 10**6


@lan_tools
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"state": NOT_ACTIVE}, "not_active"),
        ({"watts": 0}, "implausible"),
        ({"watts": 65535}, "implausible"),
        ({"code": 0xC1}, "not_supported"),  # invalid command
        ({"code": 0xC0}, "busy"),
        ({"code": 0xD4}, "permission"),
    ],
)
def test_a_bmc_that_gives_no_power(
    bmc: SimulatedBmc, tool: str, answer: dict[str, int], expected: str
) -> None:
    """Each refusal in its own word, the same one whatever tool is used."""
    bmc.answer(**answer)
    found = ask(bmc, tool)
    assert isinstance(found, Failure), found
    assert found.reason == expected
    assert "127.0.0.1" in found.message


@lan_tools
@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD)])
def test_wrong_credentials(bmc: SimulatedBmc, tool: str, user: str, password: str) -> None:
    """A wrong password and a wrong user are told from a BMC that is not there, and not repeated."""
    found = ask(bmc, tool, user, password)
    assert isinstance(found, Failure), found
    assert found.reason == "wrong_credentials"
    assert password not in found.message


@pytest.mark.slow
@lan_tools
def test_a_bmc_that_answers_late_or_never(bmc: SimulatedBmc, tool: str, tmp_path: Path) -> None:
    """Silent, or silent for 40 s: given up in time; it is heard again when it speaks again."""
    bmc.hang()
    found = ask(bmc, tool, timeout_s=1)
    bmc.wake()
    assert isinstance(found, Failure), found
    assert found.reason == "timeout"
    assert isinstance(ask(bmc, tool), ipmi.Answer)
    with SimulatedBmc(tmp_path / "slow") as slow:
        slow.answer(delay_s=40)
        began = time.monotonic()
        found = ask(slow, tool, timeout_s=1)
        assert isinstance(found, Failure), found
        assert found.reason == "timeout"
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("tool", ipmi.TOOLS)
def test_every_real_tool_in_band(bmc: SimulatedBmc, tool: str, tmp_path: Path) -> None:
    """What the real programs print, through the source: as if the simulated BMC were this node's."""
    tools = bmc.inband_tools(tmp_path / "inband")
    (reading,) = inband(tools, tool).look().readings
    assert reading.value == 344_000_000
    bmc.answer(state=NOT_ACTIVE)
    assert reason(inband(tools, tool).look()) == "not_active"
    bmc.answer(code=0xC1)
    assert reason(inband(tools, tool).look()) == "not_supported"


@lan_tools
def test_the_password_is_seen_nowhere(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in an argument, not in the environment, in no file that has a name; and yet it arrives."""
    seen, given = tmp_path / "seen", tmp_path / "given"
    body = (
        f'tr "\\0" "\\n" </proc/$$/cmdline >{seen}; tr "\\0" "\\n" </proc/$$/environ >>{seen}\n'
        f'for a; do case "$a" in *fd/*) f="${{a#*=}}";; esac; done\n'
        f'readlink "$f" >>{seen}; cat "$f" >{given}; exit 1'
    )
    script(tmp_path / tool, body)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    failure = ipmi.lan_reading("bmc7", USER, "h0rse-battery", tool, 30)
    assert isinstance(failure, Failure)
    assert "h0rse-battery" in given.read_text()
    assert "h0rse-battery" not in seen.read_text() + failure.message
    assert "memfd:ipmi (deleted)" in seen.read_text()


@pytest.mark.parametrize(
    ("host", "user", "password"),
    [
        ("-h", "a", "b"),
        ("a,b", "a", "b"),
        ("n[1-3]", "a", "b"),
        ("a b", "a", "b"),
        ("", "a", "b"),
        ("localhost", "a", "b"),
        ("bmc\n", "a", "b"),
        ("bmc", "-a", "b"),
        ("bmc", "", "b"),
        ("bmc", "a" * 17, "b"),
        ("bmc", "a\nb", "b"),
        ("bmc", "a", ""),
        ("bmc", "a", "b" * 21),
        ("bmc", "a", "b\nusername root"),
        ("bmc", "a", "caf\u00e9"),
    ],
)
def test_what_a_tool_could_misunderstand_is_not_given_to_it(
    host: str, user: str, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option, a list of hosts, this machine's own BMC, more lines, a password that would be cut."""
    started = tmp_path / "started"
    for tool in ("ipmitool", "ipmi-dcmi"):
        script(tmp_path / tool, f"touch {started}")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = ipmi.lan_reading(host, user, password, "auto", 5)
    assert isinstance(found, Failure)
    assert found.reason == "address"
    assert not started.exists()


def test_a_tool_that_cannot_be_used_over_the_network(tmp_path: Path) -> None:
    """ipmiutil takes a password from the environment only."""
    found = ipmi.lan_reading("bmc7", "a", "b", "ipmiutil", 5)
    assert isinstance(found, Failure)
    assert found.reason == "no_tool"
