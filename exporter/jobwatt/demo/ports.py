"""Which ports the demo listens on, and how they are written: the usual ones, free ones instead, never one that was asked for and is taken."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class PortTakenError(OSError):
    """A port that was asked for cannot be had; one line says which flag."""


class Ports:
    """
    Gives ports out, none twice.

    Args:
        host: the address that everything listens on.
        given: port by flag, where a person asked for it.
    """

    def __init__(self, host: str, given: Mapping[str, int]) -> None:
        self._host, self._given = host, given
        self._out: dict[int, str] = {}  # port -> the flag it was given out for; "" for none
        self.moved: list[str] = []  # a line for each default that was taken

    def take(self, usual: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """
        Give each flag the first of its ports in a row; PortTakenError where those that were asked for are taken.

        ``usual``: by flag the first port where nobody asked for one, and how many. What was asked for comes
        first: no default stands in its way.
        """
        order = sorted(usual, key=lambda flag: flag not in self._given)
        return {flag: self._take(flag, *usual[flag]) for flag in order}

    def near(self, usual: int) -> int:
        """Give the usual port, or a free one without a word: for what nobody has to find by its number."""
        port = self._free_row(1) if self._first_taken(usual, 1) else usual
        self._out[port] = ""
        return port

    def any(self) -> int:
        """Give a free port of the kernel's choice."""
        port = self._free_row(1)
        self._out[port] = ""
        return port

    def _take(self, flag: str, usual: int, count: int) -> int:
        wanted = self._given.get(flag, usual)
        taken = self._first_taken(wanted, count)
        if taken and flag in self._given:
            raise PortTakenError(f"--{flag}={wanted}: {self._why(taken)}; give another port")
        port = self._free_row(count) if taken else wanted
        if taken:
            self.moved.append(f"{self._why(taken)}: {port} instead of {wanted} (--{flag})")
        self._out.update(dict.fromkeys(range(port, port + count), flag))
        return port

    def _why(self, port: int) -> str:
        """Why a port cannot be had."""
        if port > 65535:
            return f"there is no port {port}"
        if port in self._out:
            return f"port {port} is the demo's own, for --{self._out[port]}"
        return f"port {port} is taken by another program"

    def _first_taken(self, first: int, count: int) -> int:
        """The first port of the row that cannot be had; 0 where all can."""
        for port in range(first, first + count):
            if port > 65535 or port in self._out or not is_free(self._host, port):
                return port
        return 0

    def _free_row(self, count: int) -> int:
        for _ in range(200):
            with socket.socket(_family(self._host)) as sock:
                sock.bind((self._host, 0))
                first = int(sock.getsockname()[1])
            if not self._first_taken(first, count):
                return first
        raise PortTakenError(f"no {count} free ports in a row on {self._host}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there; OSError where the host is none of this machine's."""
    try:
        with socket.socket(_family(host)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(1)
    except OSError as err:
        if err.errno in {errno.EADDRINUSE, errno.EACCES}:
            return False
        why = err.strerror or str(err)
        raise OSError(f"--listen={host}: no address of this machine ({why})") from err
    return True


def bracketed(host: str) -> str:
    """The host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def hostport(host: str, port: int) -> str:
    """The two as one."""
    return f"{bracketed(host)}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
