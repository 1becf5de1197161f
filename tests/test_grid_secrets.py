"""Credentials of the grid's sources: which files are read, and that they are sent and shown nowhere else."""

from __future__ import annotations

import base64
import json
import logging
import os
from types import SimpleNamespace

import pytest

import gridkit
import gridmock
from gridkit import FAULTS, asked, config, outcomes
from gridmock import CANARIES, EM_TOKEN, WT_PAIR, GridServer
from jobwatt.central.grid import headers
from jobwatt.central.grid.intensity import GridError
from jobwatt.central.grid.run import Grid

server, secrets = gridkit.server, gridkit.secrets  # fixtures


def test_a_redirect_takes_no_token_elsewhere(server, secrets):
    """The other host is never asked."""
    with GridServer() as other:
        server.fault = gridmock.answering(b"", 302, Location=f"{other.url}/v3/carbon-intensity/latest")  # fmt: skip
        asked(Grid(config(server, secrets, "electricitymaps"), None))
        assert not other.asked


def test_secrets_are_nowhere_but_in_requests(server, secrets, tmp_path, caplog):
    """Not on the pages, not in the cache, not in the log at any level, whatever happens."""
    caplog.set_level(logging.DEBUG)
    made = config(server, secrets, "electricitymaps", "watttime", "promql")
    grid = Grid(made, tmp_path / "cache.json")
    said = asked(grid).decode()
    sent = json.dumps(server.asked)
    assert EM_TOKEN in sent
    assert base64.b64encode(WT_PAIR.encode()).decode() in sent
    for fault, _ in FAULTS[:8]:
        server.fault = fault
        said += asked(grid).decode() + grid.board.page()
    server.fault = None
    (secrets / "em").write_text(f"{EM_TOKEN}\r\nX-Injected: {EM_TOKEN}")
    (secrets / "prom").chmod(0o644)
    said += asked(grid).decode() + grid.board.page() + caplog.text
    said += (tmp_path / "cache.json").read_text() + repr(made)
    assert "must hold one line" in said
    assert "is open to others" in said
    for canary in (*CANARIES, base64.b64encode(WT_PAIR.encode()).decode()):
        assert canary not in said


def test_an_error_nobody_thought_of(server, secrets, caplog):
    """It ends one poll, not the thread, and its text, which may hold anything, is shown nowhere."""
    grid = Grid(config(server, secrets, "rte"), None)
    poller = grid.pollers[0]
    poller._asker = SimpleNamespace(ask=lambda *_: int(EM_TOKEN))
    page = asked(grid)
    assert outcomes(page) == {("rte", "exception"): 1}
    assert "rte: ValueError" in caplog.text
    assert EM_TOKEN not in caplog.text + page.decode() + grid.board.page()


@pytest.mark.parametrize(
    ("text", "mode", "match"),
    [
        (b"s3cret\n", 0o600, None),
        (b"  s3cret \r\n", 0o600, None),
        (b"s3cret\n", 0o644, "chmod"),
        (b"s3cret\n", 0o660, "chmod"),
        (b"", 0o600, "one line"),
        (b"\n", 0o600, "one line"),
        (b" \n", 0o600, "one line"),
        (b"s3\ns3cret", 0o600, "one line"),
        (b"s3cr\xc3\xb6t", 0o600, "one line"),
        (b"a" * 20_000, 0o600, "one line"),
    ],
)
def test_a_token_is_one_line_that_others_cannot_read(tmp_path, text, mode, match):
    """The message says what to do and never shows the text."""
    path = tmp_path / "secret"
    path.write_bytes(text)
    path.chmod(mode)
    if match is None:
        assert headers.token(path) == "s3cret"
        return
    with pytest.raises(GridError, match=match) as caught:
        headers.token(path)
    assert caught.value.reason == "credentials"
    assert "s3" not in str(caught.value)


def test_credentials_are_a_user_and_a_password(tmp_path):
    """A file that holds a token where USER:PASSWORD is wanted is said, and never shown nor sent."""
    path = tmp_path / "secret"
    path.write_text("ü:b:c\n")
    path.chmod(0o600)
    sent = headers.basic(path)["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == "ü:b:c"
    path.write_text("t0ken\n")
    with pytest.raises(GridError, match="USER:PASSWORD") as caught:
        headers.basic(path)
    assert caught.value.reason == "credentials"
    assert "t0ken" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_is_not_a_strangers(tmp_path):
    """Whoever owns the file, or a link to it, could choose what is sent."""
    path, link = tmp_path / "secret", tmp_path / "link"
    path.write_text("token")
    path.chmod(0o600)
    link.symlink_to(path)
    assert headers.token(link) == "token"
    os.lchown(link, 4321, -1)
    with pytest.raises(GridError, match="somebody else"):
        headers.token(link)
    os.chown(path, 4321, -1)
    with pytest.raises(GridError, match="belongs to uid 4321"):
        headers.token(path)


def test_a_secret_is_a_plain_file(tmp_path):
    """A FIFO does not hang, a directory and a missing file are said."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("fifo", "", "missing"):
        with pytest.raises(GridError) as caught:
            headers.token(tmp_path / name)
        assert caught.value.reason == "credentials"
