"""
A node's power through IPMI: three tools' words, children that misbehave, and real tools against a
simulated BMC (ipmisim.py).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import command, paths
from ipmisim import NOT_ACTIVE, PASSWORD, USER, SimulatedBmc
from jobwatt import agent as daemon
from jobwatt.board import Board
from jobwatt.config import Config, ConfigError, from_flags
from jobwatt.ledger import Ledger
from jobwatt.meter import measure
from jobwatt.model import NS_PER_S, Domain, Failure, Kind, SourceResult
from jobwatt.slurm.events import Events
from jobwatt.sources import ipmi
from jobwatt.sources.ipmi_child import Runner
from jobwatt.sources.ipmi_grammars import Complaint, complaint, parse_power
from jobwatt.sources.polled import Polled
from trees import Node

DATA = Path(__file__).with_name("data") / "ipmi"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="giving up rights takes root")


def printed(tool: str, what: str) -> str:
    return (DATA / f"{tool}-{what}.txt").read_text()


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def inband(path: Path, tool: str = "auto", timeout_s: float = 60.0, **more: object) -> ipmi.Inband:
    """The BMC of a machine whose tools are those in ``path``."""
    settings = {"every_ns": 10 * NS_PER_S, "device": Path("/dev/null"), "path": str(path)} | more
    return ipmi.Inband(tool, timeout_s=timeout_s, **settings)


def reason(result: SourceResult) -> str:
    (failure,) = result.failures
    assert (result.readings, result.samples, failure.source) == ((), (), "bmc")
    assert "\n" not in failure.message
    assert "; mend: " in failure.message
    return failure.reason


def running(mark: str) -> list[int]:
    """Processes with ``mark`` in their command line; a zombie has none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


# --- what the tools print ------------------------------------------------------------------------


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


# --- in-band, with children that misbehave -------------------------------------------------------


def test_a_reading_of_this_nodes_bmc(tmp_path: Path) -> None:
    """Power in uW of the node, at the moment of the answer, with the interval of the questions."""
    script(tmp_path / "ipmitool", f"cat {DATA}/ipmitool-active.txt")
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    result = inband(tmp_path, includes_gpu=False).look()
    (reading,), (sample,) = result.readings, result.samples
    assert (reading.kind, reading.value, reading.every_ns) == (
        Kind.POWER,
        1_287_000_000,
        10 * NS_PER_S,
    )
    assert before < reading.t_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    device = reading.device
    assert (device.domain, device.id, device.source, device.name) == (
        Domain.NODE,
        "bmc",
        "bmc",
        "dcmi",
    )
    assert (device.summed, device.includes_gpu) == (True, False)
    assert (sample.metric, sample.labels, sample.value) == (
        "jobwatt_wall_power_watts",
        ("bmc", "dcmi"),
        1287.0,
    )


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


def test_a_child_gets_nothing_of_ours(tmp_path: Path) -> None:
    """No environment but the locale and a path, no descriptor, empty stdin, a group of its own."""
    said = tmp_path / "said"
    script(
        tmp_path / "ipmitool",
        f"{{ env; ls /proc/self/fd; cat; cut -d' ' -f5 /proc/$$/stat; }} >{said} 2>&1",
    )
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    os.environ["JOBWATT_SECRET"] = "s3cret"
    try:
        inband(tmp_path).look()
    finally:
        os.close(held)
        del os.environ["JOBWATT_SECRET"]
    lines = said.read_text().split()
    assert "LC_ALL=C" in lines
    assert "s3cret" not in said.read_text()
    assert [word for word in lines if word.isdigit()][:4] == ["0", "1", "2", "3"]  # 3: ls's own
    assert int(lines[-1]) != os.getpgrp()


@pytest.mark.parametrize(
    ("tool", "expected"),
    [("auto", "no_tool"), ("ipmitool", "no_tool")],
)
def test_no_tool(tmp_path: Path, tool: str, expected: str) -> None:
    """Said, with what to install."""
    assert reason(inband(tmp_path, tool).look()) == expected


def test_no_device(tmp_path: Path) -> None:
    """Without the kernel's driver no tool is started, and modprobe is named."""
    started = tmp_path / "started"
    script(tmp_path / "ipmitool", f"touch {started}")
    result = inband(tmp_path, device=tmp_path / "ipmi0").look()
    assert reason(result) == "no_device"
    assert "modprobe -a ipmi_devintf ipmi_si" in result.failures[0].message
    assert not started.exists()


@root_only
def test_no_permission() -> None:
    """A device that the daemon's user may not open is said before a tool is started."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        device, started = Path(name) / "ipmi0", Path(name) / "started"
        device.touch(mode=0o600)
        script(Path(name) / "ipmitool", f"touch {started}")
        os.seteuid(65534)
        try:
            result = inband(Path(name), device=device).look()
        finally:
            os.seteuid(0)
        assert not started.exists()
    assert reason(result) == "permission"
    assert "udev" in result.failures[0].message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("exec sleep 1000.5", "timeout"),
        ("exec >&- 2>&-; exec sleep 1000.5", "timeout"),  # nothing to read and yet alive
        ("trap '' TERM HUP INT; while :; do sleep 1000.5; done", "timeout"),
        ("head -c 104857600 /dev/zero", "garbage"),
        ("head -c 104857600 /dev/zero >&2", "garbage"),
        ("yes", "garbage"),
        ("kill -SEGV $$", "failed"),
        ("exit 3", "failed"),
        ("true", "garbage"),
        ("printf '\\377\\376 Watts'", "garbage"),
        ("echo Could not open device at /dev/ipmi0: Permission denied >&2; exit 1", "permission"),
        ("echo Could not open device at /dev/ipmi0: No such file >&2; exit 1", "no_device"),
    ],
)
def test_a_child_that_misbehaves_costs_one_reading(
    tmp_path: Path, body: str, expected: str
) -> None:
    """Hanging, dying, endless or senseless: a reason, no descriptor more, no process left."""
    script(tmp_path / "ipmitool", body)
    bmc = inband(tmp_path, timeout_s=0.5 if expected == "timeout" else 60)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert reason(bmc.look()) == expected
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert _gone(str(tmp_path))
    script(tmp_path / "ipmitool", f"cat {DATA}/ipmitool-active.txt")
    assert inband(tmp_path).look().failures == ()


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    """What cannot be started is a reason like any other."""
    (tmp_path / "ipmitool").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "ipmitool").chmod(0o755)
    assert reason(inband(tmp_path).look()) == "no_tool"


def test_grandchildren_do_not_outlive_the_question(tmp_path: Path) -> None:
    """They hold the pipe open and hang: they are killed with the child, and not only the child."""
    mark = f"1000.{os.getpid()}1"
    script(tmp_path / "ipmitool", f"sleep {mark} & (sleep {mark} & sleep {mark}) & sleep {mark}")
    assert reason(inband(tmp_path, timeout_s=0.5).look()) == "timeout"
    assert _gone(mark)


def test_an_answer_is_not_waited_for_twice(tmp_path: Path) -> None:
    """A child that answered and left a process with the pipe open: its answer counts at once."""
    mark = f"1000.{os.getpid()}2"
    script(tmp_path / "ipmitool", f"sleep {mark} & cat {DATA}/ipmitool-active.txt")
    assert inband(tmp_path, timeout_s=60).look().readings[0].value == 1_287_000_000
    assert _gone(mark)


def test_one_that_left_the_group_is_not_waited_for(tmp_path: Path) -> None:
    """A process that made itself a session holds the pipe: the question ends all the same."""
    mark = f"3.{os.getpid()}3"
    script(tmp_path / "ipmitool", f"setsid sleep {mark} & cat {DATA}/ipmitool-active.txt")
    assert inband(tmp_path, timeout_s=60).look().failures == ()


def _gone(mark: str) -> bool:
    """Whether all processes with the mark end within a while: a kill takes its time."""
    deadline = time.monotonic() + 60
    while running(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running(mark)


def test_a_child_that_cannot_be_killed_is_not_joined_by_another(tmp_path: Path) -> None:
    """It waits in the kernel: no second one is started beside it until it is gone."""
    runner = Runner(60.0)
    with subprocess.Popen(["sleep", "1000"]) as unkillable:
        runner._left = unkillable
        assert runner.run(["/bin/true"], {}).trouble == "stuck"
        unkillable.kill()
        unkillable.wait()
        assert runner.run(["/bin/true"], {}).status == 0


def in_background(asked: ipmi.Inband, every_s: float, limit_s: float) -> Polled:
    """As sources/bmc.py does it."""
    return Polled("bmc", asked.look, every_s, limit_s, stop=asked.stop)


# --- beside everything else ----------------------------------------------------------------------


def _run_agent(tmp_path: Path, bmc: Polled, seconds: float) -> daemon.Agent:
    """The daemon's own loop on a node of files, sampling every 200 ms, with ``bmc`` beside RAPL."""
    node = Node(tmp_path / "node")
    node.add_intel(1)
    config = Config(
        path_sysfs=node.sys,
        path_procfs=node.proc,
        path_cgroupfs=node.cgroup,
        path_state=tmp_path / "state",
        sample_interval=NS_PER_S // 5,
        source_nvml=False,
        slurm_rpc=False,
    )
    config.path_state.mkdir()
    sampler = daemon.sampler(config)
    sampler.sources = [*sampler.sources, bmc]
    ledger = Ledger(None)
    running = daemon.Agent(
        config,
        sampler,
        daemon.pipeline(config, ledger),
        Board(0.2, lambda *_: []),
        Events([config.path_state]),
    )
    threading.Timer(seconds, running.stop).start()
    running.begin()
    running.run()
    return running


@pytest.mark.slow
def test_a_bmc_that_hangs_delays_no_sample(tmp_path: Path) -> None:
    """While a tool hangs the samples keep their rhythm, and a daemon that ends does not wait for it."""
    script(tmp_path / "ipmitool", "exec sleep 1000")
    bmc = in_background(inband(tmp_path, timeout_s=120), 10, 122)
    agent = _run_agent(tmp_path, bmc, 4.0)
    samples = agent.pipeline.totals.counters["jobwatt_samples_total", ("tick",)]
    assert samples >= 5  # 20 of them have room; a single wait for the tool leaves one
    assert max(s.read_s for s in agent.sampler.status if s.name == "bmc") < 2
    began = time.monotonic()
    agent.close()
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_the_nodes_meter_on_the_page(tmp_path: Path) -> None:
    """From the tool's words to the page: the wall's power, its energy, and a node made up of it."""
    script(tmp_path / "ipmitool", f"cat {DATA}/ipmitool-active.txt")
    bmc = in_background(inband(tmp_path, every_ns=NS_PER_S // 2), 0.5, 12)
    agent = _run_agent(tmp_path, bmc, 3.5)
    page = agent.board.metrics(False, frozenset()).decode()
    agent.close()
    power, energy, node = (
        [float(line.split()[-1]) for line in page.splitlines() if line.startswith(start)]
        for start in (
            'jobwatt_wall_power_watts{source="bmc",meter="dcmi"}',
            'jobwatt_wall_energy_joules_total{source="bmc",meter="dcmi"}',
            "jobwatt_node_energy_joules_total",
        )
    )
    assert power == [1287]
    assert 1287 <= energy[0] < 1287 * 30
    assert 0 < sum(node) <= energy[0]


def test_a_hanging_tool_is_asked_once(tmp_path: Path) -> None:
    """However often the source is read: one child at a time, and its failure when it was given up."""
    count = tmp_path / "count"
    script(tmp_path / "ipmitool", f"echo x >>{count}; exec sleep 1000")
    bmc = in_background(inband(tmp_path, timeout_s=0.5), 60, 2)
    assert bmc.pending
    deadline = time.monotonic() + 60
    while not (result := bmc.read(full=True)).failures and time.monotonic() < deadline:
        assert result == SourceResult()
        time.sleep(0.01)
    assert reason(result) == "timeout"
    assert not bmc.pending
    bmc.close()
    assert count.read_text() == "x\n"


def test_energy_is_the_power_over_time(tmp_path: Path) -> None:
    """Readings that repeat are no time; two that do not are 1287 W over what lies between them."""
    script(tmp_path / "ipmitool", f"cat {DATA}/ipmitool-active.txt")
    bmc = in_background(inband(tmp_path, every_ns=NS_PER_S // 5), 0.2, 10)
    cursors, booked_uj, times = {}, 0, []
    deadline = time.monotonic() + 60
    while len(times) < 4 and time.monotonic() < deadline:
        readings = bmc.read(full=True).readings
        metered = measure(cursors, readings, 60 * NS_PER_S)
        cursors, booked_uj = metered.cursors, booked_uj + sum(d.energy_uj for d in metered.booked)
        times = sorted({*times, *(r.t_ns for r in readings)})
        time.sleep(0.02)
    bmc.close()
    assert len(times) >= 4
    assert booked_uj == pytest.approx(1287 * (times[-1] - times[0]) / 1000, abs=len(times))


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["9s", "9999ms", "61s", "0s", "x"])
def test_a_bmc_is_not_asked_too_often(text: str) -> None:
    """In-band questions cost a node 110 to 170 ms each: 10 s to 60 s between two."""
    with pytest.raises(ConfigError, match=r"bmc\.interval"):
        from_flags({"bmc.interval": text})
    assert from_flags({"bmc.interval": "10s"}).bmc_interval == 10 * NS_PER_S


def test_one_meter_is_not_counted_twice() -> None:
    """IPMI and Redfish ask the same meter."""
    with pytest.raises(ConfigError, match=r"bmc\.ipmi and bmc\.redfish"):
        from_flags({"bmc.ipmi": "auto", "bmc.redfish": "https://bmc"})


@pytest.mark.slow
def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    """On this machine, which has no BMC or no rights on it, or measures: the one or the other."""
    node = Node(tmp_path)
    node.add_intel(1)
    (tmp_path / "state").mkdir()
    flags = ["--bmc.ipmi=auto", "--no-source.nvml", "--no-slurm.rpc"]
    argv = command("doctor", *paths(node, tmp_path / "state"), *flags)
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout
    mended = [line for line in said.splitlines() if "BMC through IPMI" in line]
    assert mended or "bmc: dcmi" in said
    assert all("; mend: " in line for line in mended)


# --- real tools, a simulated BMC -----------------------------------------------------------------


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
