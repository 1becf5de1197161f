"""What `jobwatt doctor` asks of the running machine: the daemon's own page, its peers, the kernel's clock."""

from __future__ import annotations

import ctypes
import http.client
import os
import ssl
from http import HTTPStatus

import psutil

_ANSWER_S = 2.0


def health(host: str, port: int) -> str:
    """What /healthz says in one line; "" where it does not answer, or asks who we are."""
    host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104  compared, not bound
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE  # a line is read, and no secret told
    return _ask(http.client.HTTPConnection(host, port, timeout=_ANSWER_S)) or _ask(
        http.client.HTTPSConnection(host, port, timeout=_ANSWER_S, context=unchecked)
    )


def _ask(connection: http.client.HTTPConnection) -> str:
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        said = answer.read(200).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
    return said if answer.status in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE} else ""


def peers(port: int) -> list[str]:
    """Addresses, other than this machine's loopback, that keep a connection to ``port`` open."""
    found = set()
    for connection in psutil.net_connections("tcp"):
        here, there = connection.laddr, connection.raddr
        if here and there and here.port == port and connection.status == psutil.CONN_ESTABLISHED:
            found.add(there.ip.removeprefix("::ffff:"))
    return sorted(peer for peer in found if not peer.startswith("127.") and peer != "::1")


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is looked at."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 256),
    )


def clock_error_us() -> int:
    """The greatest error of the wall clock that the kernel states; OSError where it states none."""
    told = _Timex()  # modes 0: it is read, not set
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(told)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(told.maxerror)
