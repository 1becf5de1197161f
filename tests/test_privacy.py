"""Users by name, by pseudonym or not at all, wherever jobwatt shows them."""

from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import BOOT_ID, Daemon, command, environment, epilog, paths, prolog
from jobwatt.privacy import DROP, HASH, NAME, Names, pseudonym
from trees import Node

KEY = "3f" * 32
UID = 61007
NAME_OF_JOB = "Camille Durand thesis"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "pseudonyms.key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def node(tmp_path):
    """A node with one job, of which the hook told user, uid and name."""
    tree = Node(tmp_path / "node", boot_id=BOOT_ID)
    tree.add_intel()
    job = tree.add_job(7, uid=UID, environ={"SLURM_JOB_NAME": NAME_OF_JOB})
    prolog(tmp_path / "state", job, SLURM_JOB_NAME=NAME_OF_JOB)
    return tree


def run(node, tmp_path, *argv):
    where = [*paths(node, tmp_path / "state"), "--no-source.nvml", "--no-slurm.rpc"]
    return subprocess.run(
        command(*argv, *where),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=60,
    )


def expected(user, key=KEY):
    """The pseudonym, computed from its description alone."""
    digest = hmac.new(key.encode(), user.encode(), hashlib.sha256).digest()
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    bits = "".join(f"{byte:08b}" for byte in digest)
    return "u" + "".join(letters[int(bits[n : n + 5], 2)] for n in range(0, 65, 5))


def told(text):
    """Whether a text tells who the user is."""
    return [word for word in (f"user{UID}", str(UID), "Camille", "Durand") if word in text]


@given(st.text(min_size=1), st.text(min_size=1), st.binary(min_size=32))
def test_pseudonyms(one, other, key):
    """One of each user and key, fit for a label and for an address, and another of another user."""
    made = pseudonym(key, one)
    assert re.fullmatch("u[a-z2-7]{13}", made)
    assert (made == pseudonym(key, other)) == (one == other)
    assert made != pseudonym(key + b"x", one)


def test_nobody_is_nobody():
    """A job whose user is not known yet gets no pseudonym, which would look like a user's."""
    assert [Names(mode, b"k" * 32).user("") for mode in (NAME, HASH, DROP)] == ["", "", ""]


def test_as_it_was(node, tmp_path):
    """By default users are shown as Slurm names them."""
    page = run(node, tmp_path, "once").stdout
    assert f'user="user{UID}"' in page
    assert f'uid="{UID}"' in page
    assert f'name="{NAME_OF_JOB}"' in page


@pytest.mark.parametrize(("mode", "user"), [("hash", expected(f"user{UID}")), ("drop", "")])
def test_once(node, tmp_path, key_file, mode, user):
    """The page has the pseudonym, or nothing, in every series of the job, and neither uid nor name."""
    flags = [f"--privacy.users={mode}", *([f"--privacy.key-file={key_file}"] if mode == "hash" else [])]  # fmt: skip
    page = run(node, tmp_path, "once", *flags).stdout
    rows = [line for line in page.splitlines() if 'jobid="7"' in line]
    assert len(rows) > 8
    assert all(f'user="{user}"' in row for row in rows)
    assert not told(page)


def test_the_same_on_every_node(tmp_path, key_file):
    """Two nodes with one key give one user one pseudonym, so that the user's sum over nodes is one."""
    found = set()
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        tree = Node(place / "node", boot_id=BOOT_ID)
        tree.add_intel()
        prolog(place / "state", tree.add_job(7, uid=UID))
        page = run(tree, place, "once", "--privacy.users=hash", f"--privacy.key-file={key_file}").stdout  # fmt: skip
        found |= set(re.findall(r' ?user="([^"]*)"', page))
    assert found == {expected(f"user{UID}")}


def test_served_logged_and_recorded(node, tmp_path, key_file):
    """Neither page, nor the log at its most talkative, nor a recording tells who the user is."""
    flags = ["--privacy.users=hash", f"--privacy.key-file={key_file}", "--log.level=debug"]
    with Daemon(node, tmp_path / "state", *flags) as daemon:
        page = daemon.scrape().text
        assert expected(f"user{UID}") in page
        assert expected(f"user{UID}") in daemon.get("/")
        assert not told(page + daemon.get("/") + daemon.text())
    recording = tmp_path / "node.jsonl"
    for event in (prolog, epilog):  # of a job that has ended meanwhile
        event(tmp_path / "state", SimpleNamespace(jobid=8, uid=UID), SLURM_JOB_NAME=NAME_OF_JOB)
    done = run(node, tmp_path, "record", "--duration=1s", f"--out={recording}", *flags)
    assert done.returncode == 0, done.stderr
    assert '"ended":' in recording.read_text()
    assert recording.read_text().count(expected(f"user{UID}")) > 1
    # a power in uW or a time in ns may hold the uid's digits
    assert not told(re.sub(r"\d{6,}", "", recording.read_text()))


@pytest.mark.parametrize(
    ("mode", "user"),
    [("name", f"user{UID}"), ("hash", expected(f"user{UID}")), ("drop", "a user")],
)
def test_doctor(node, tmp_path, key_file, mode, user):
    """An examination is mailed around as well: its list of jobs shows users as the page does, in both forms."""
    flags = [f"--privacy.users={mode}", *([f"--privacy.key-file={key_file}"] if mode == "hash" else [])]  # fmt: skip
    for form in ((), ("--json",)):
        said = run(node, tmp_path, "doctor", *form, *flags).stdout
        assert f"7: {user} (ltci), known by hook" in said
        assert bool(told(said)) == (mode == "name")


def test_who_is_who(node, tmp_path, key_file):
    """Who has the key can make the table that a mail server's aliases are made of."""
    argv = command("pseudonym", f"--privacy.key-file={key_file}")
    given_ = subprocess.run([*argv, "ann", "bob"], capture_output=True, text=True, check=False, env=environment())  # fmt: skip
    read = subprocess.run(argv, input="ann\n\n bob \n", capture_output=True, text=True, check=False, env=environment())  # fmt: skip
    assert given_.stdout == read.stdout == f"{expected('ann')}\tann\n{expected('bob')}\tbob\n"
    without = subprocess.run(command("pseudonym", "ann"), capture_output=True, text=True, check=False, env=environment())  # fmt: skip
    assert without.returncode == 2
    assert without.stderr == "jobwatt pseudonym: --privacy.key-file is missing: pseudonyms are made with the nodes' key\n"  # fmt: skip


@pytest.mark.parametrize(
    ("content", "mode", "line"),
    [
        ("short", 0o600, "5 characters can be guessed; give 32 or more: openssl rand -hex 32"),
        (KEY, 0o644, "is open to others than its owner; chmod 600"),
        ("", 0o600, "must hold one line: 32 characters or more"),
    ],
)
def test_a_key_that_is_none(node, tmp_path, key_file, content, mode, line):
    """A key that others can read or guess protects nobody: nothing is served, and one line says why."""
    key_file.write_text(content)
    key_file.chmod(mode)
    done = run(node, tmp_path, "once", "--privacy.users=hash", f"--privacy.key-file={key_file}")
    assert (done.returncode, done.stdout) == (1, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert KEY not in done.stderr


def test_pseudonyms_without_a_key(node, tmp_path):
    """A hash without a key would be undone by trying names: it is refused, with the way to make one."""
    done = run(node, tmp_path, "serve", "--privacy.users=hash")
    assert done.returncode == 2
    assert "privacy.users=hash without privacy.key-file" in done.stderr
    assert "openssl rand -hex 32" in done.stderr
