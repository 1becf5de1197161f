"""Service discovery, round after round: what is written, what is served, and when it stays as it was."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from jobwatt.central.sd import asking, kept, run, settings
from jobwatt.central.sd.board import SdBoard
from jobwatt.central.sd.bounded import AskError
from jobwatt.web import WebServer
from sdkit import listed, node, page, tell

# --- the file ---------------------------------------------------------------------------------------


def test_file_is_written_only_where_it_changes(tmp_path):
    """Same targets: the same file, with a new time; others: a new one that everybody can read."""
    path = tmp_path / "new/targets.json"
    assert kept.save(path, listed(*"ab"))
    assert path.stat().st_mode & 0o777 == 0o644
    os.utime(path, (1, 1))
    inode = path.stat().st_ino
    assert not kept.save(path, listed(*"ab"))
    assert path.stat().st_ino == inode
    assert time.time() - path.stat().st_mtime < 60
    assert kept.save(path, listed("a"))
    assert kept.load(path)[0] == listed("a")
    assert os.listdir(path.parent) == ["targets.json"]


def test_what_is_root_s_is_replaced(tmp_path, monkeypatch):
    """A file whose time may not be set (root tried first) becomes one of the service's."""
    path = tmp_path / "t.json"
    kept.save(path, listed("a"))
    inode = path.stat().st_ino

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert kept.save(path, listed("a"))
    assert path.stat().st_ino != inode


def test_what_a_killed_writer_left_is_swept_up(tmp_path):
    """Old unfinished files go, one that may be being written stays, and neither is named *.json."""
    for name, age_s in ((".t.json.old.new", 3600), (".t.json.now.new", 0)):
        (tmp_path / name).write_text("[")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    kept.save(tmp_path / "t.json", listed("a"))
    assert sorted(os.listdir(tmp_path)) == [".t.json.now.new", "t.json"]


def test_a_link_stays_a_link(tmp_path):
    """The file behind it is replaced."""
    (tmp_path / "link.json").symlink_to("real.json")
    kept.save(tmp_path / "link.json", listed("a"))
    assert (tmp_path / "link.json").is_symlink()
    assert kept.load(tmp_path / "real.json")[0] == listed("a")


def test_a_reader_never_sees_half_a_file(tmp_path):
    """While two lists take turns, every read is one of them, whole."""
    path, lists = tmp_path / "t.json", [listed(*(f"n{i}" for i in range(n))) for n in (900, 1)]
    whole = {kept.encoded(groups) for groups in lists}
    kept.save(path, lists[0])
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        kept.save(path, lists[turn % 2])
    stop.set()
    reader.join()
    assert seen <= whole


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """What cannot be written whole is not there at all."""
    path = tmp_path / "t.json"
    kept.save(path, listed("a"))

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AskError, match="No space left") as caught:
        kept.save(path, listed("b"))
    assert caught.value.reason == "unwritable"
    assert kept.load(path)[0] == listed("a")
    assert os.listdir(tmp_path) == ["t.json"]


@pytest.mark.parametrize("text", ["root:x:0:0", "{}", "[1]", '[{"targets": ["a"]}]', '[{"targets": [1], "labels": {"instance": "a"}}]', "[" * 9999])  # fmt: skip
def test_somebody_elses_file_is_not_written_over(tmp_path, text):
    """What is no list of targets by node stays, and is named."""
    path = tmp_path / "t.json"
    path.write_text(text)
    board = SdBoard()
    finder = run.Finder(settings.SdConfig(out=path), board, lambda _: asking.Answer([node("a")]))
    finder.restore()
    assert not finder.once()
    assert path.read_text() == text
    path.write_text("")  # nobody's
    assert finder.once()


# --- rounds -----------------------------------------------------------------------------------------


def test_rounds(tmp_path, caplog):
    """No answer: everything stays, one line is said, the age shows; an answer: the list is new."""
    caplog.set_level(logging.INFO)
    path, board, says = tmp_path / "t.json", SdBoard(), []

    def ask_(_):
        if isinstance(says[-1], AskError):
            raise says[-1]
        return asking.Answer(says[-1], "c", odd=2)

    finder = run.Finder(settings.SdConfig(out=path), board, ask_, now=lambda: 5000.0)
    finder.restore()
    assert board.targets() is None
    assert not board.ready()[0]
    says.append([node("a"), node("b"), node("off", states=frozenset({"POWERED_DOWN"}))])
    assert finder.once()
    before = path.read_bytes()
    assert board.targets() == before
    says.append(AskError("unreachable", "scontrol: connect failure"))
    assert not finder.once()
    assert not finder.once()
    assert path.read_bytes() == before == board.targets()
    assert len(tell(caplog, "connect failure")) == 1
    assert page(board) == {
        ("jobwatt_sd_targets",): 2,
        ("jobwatt_sd_held_targets",): 0,
        ("jobwatt_sd_nodes_left_out", "state"): 1,
        ("jobwatt_sd_nodes_left_out", "unreadable"): 2,
        ("jobwatt_sd_success_timestamp_seconds",): 5000,
        ("jobwatt_sd_polls_total", "ok"): 1,
        ("jobwatt_sd_polls_total", "unreachable"): 2,
    }
    says.append([node("c")])
    assert finder.once()
    assert set(board.groups) == {"a", "b", "c"}
    assert page(board)["jobwatt_sd_held_targets",] == 2
    assert len(tell(caplog, "too many at once")) == 1
    restarted = SdBoard()
    run.Finder(settings.SdConfig(out=path), restarted).restore()
    assert restarted.targets() == path.read_bytes()
    for word in ("held", "connect failure"):
        assert (word in restarted.page()) == (word == "held")


def test_a_file_that_cannot_be_written_is_still_served(tmp_path, monkeypatch):
    """http_sd has the new list, and the trouble is counted."""
    board = SdBoard()
    config = settings.SdConfig(out=tmp_path / "t.json")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    assert not run.Finder(config, board, lambda _: asking.Answer([node("a")])).once()
    assert b'"a.lan:9816"' in board.targets()
    assert page(board)["jobwatt_sd_polls_total", "unwritable"] == 1


def test_the_pages(tmp_path):
    """/sd says 503 until there is a list and then what the file says; a site without targets has no such page."""
    board = SdBoard()
    config = settings.SdConfig(out=tmp_path / "t.json")
    finder = run.Finder(config, board, lambda _: asking.Answer([node("<b>")]))
    server = WebServer("127.0.0.1:0", board, names_users=False)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.address[1]}"
        assert status(f"{url}/sd") == (503, "text/plain; charset=utf-8", b"no list yet\n")
        assert status(f"{url}/readyz")[0] == 503
        finder.once()
        assert status(f"{url}/sd") == (200, "application/json", config.out.read_bytes())
        assert status(f"{url}/readyz")[0] == 200
        landing = status(f"{url}/")[2]
        assert b"&lt;b&gt;" in landing
        assert b"<b>" not in landing
        server.site = SimpleNamespace(metrics=board.metrics)
        assert status(f"{url}/sd")[0] == 404
    finally:
        server.stop()


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as err:
        return err.code, err.headers["Content-Type"], err.read()
