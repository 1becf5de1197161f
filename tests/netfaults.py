"""Networks that misbehave below HTTP: addresses where nobody answers, answers that never end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


@contextlib.contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """Give an address that neither answers nor refuses: a listener whose queue is full drops SYNs."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        where = server.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(where)
        time.sleep(0.1)
        yield where


@contextlib.contextmanager
def silent_first(monkeypatch: pytest.MonkeyPatch, name: str, port: int) -> Iterator[None]:
    """``name`` has eleven addresses: ten that are silent, and this machine's ``port``."""
    real = socket.getaddrinfo
    with silent() as where:

        def found(host: str, *more: object, **named: object) -> list[object]:
            if host != name:
                return list(real(host, *more, **named))  # type: ignore[arg-type]
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [*[(*kind, where)] * 10, (*kind, ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        yield


@contextlib.contextmanager
def drips(start: bytes) -> Iterator[int]:
    """Give the port of a server that sends ``start`` and then a byte now and then, for 20 s."""
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as sock:
            sock.sendall(start)
            for _ in range(200):
                if over.wait(0.1):
                    break
                sock.sendall(b"\x02")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        over.set()
        server.close()
        thread.join(5)
