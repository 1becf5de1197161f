"""A mail server that keeps what it gets, for people to read, and hands nothing on."""

from __future__ import annotations

import email
import email.policy
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import EmailMessage

KEPT = 500
_MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as it came in. ``number`` counts from 1; the newest mail has the highest."""

    number: int
    at: float
    to: tuple[str, ...]
    message: EmailMessage

    @property
    def subject(self) -> str:
        """Subject, on one line."""
        return self.header("Subject")

    def header(self, name: str) -> str:
        """A header's text, on one line; "" where there is none or it cannot be read."""
        try:
            return " ".join(str(self.message.get(name) or "").split())
        except (
            ValueError,
            IndexError,
            TypeError,
            AttributeError,
        ):  # email's parser, on hostile input
            return ""

    @property
    def html(self) -> str:
        """The HTML part; "" where there is none."""
        return self._part("html")

    @property
    def text(self) -> str:
        """The text part; "" where there is none."""
        return self._part("plain")

    def _part(self, kind: str) -> str:
        try:
            part = self.message.get_body((kind,))
            return str(part.get_content()) if part is not None else ""
        except (KeyError, LookupError, ValueError, TypeError, AttributeError):  # the same
            return ""


class Mailbox:
    """The last mails, by number. Safe to use from any thread."""

    def __init__(self) -> None:
        self._mails: deque[Mail] = deque(maxlen=KEPT)
        self._count = 0
        self._lock = threading.Lock()

    def add(self, to: tuple[str, ...], content: bytes) -> None:
        """Keep a mail."""
        message = email.message_from_bytes(content, policy=email.policy.default)
        with self._lock:
            self._count += 1
            self._mails.append(Mail(self._count, time.time(), to, message))

    def newest_first(self) -> list[Mail]:
        """All that are kept."""
        with self._lock:
            return list(reversed(self._mails))

    def get(self, number: int) -> Mail | None:
        """The mail of that number, while it is kept."""
        with self._lock:
            return next((mail for mail in self._mails if mail.number == number), None)

    @property
    def count(self) -> int:
        """How many have come in."""
        return self._count


class Catcher:
    """The SMTP server in front of a mailbox."""

    def __init__(self, host: str, port: int, mailbox: Mailbox) -> None:
        from aiosmtpd.controller import Controller  # noqa: PLC0415  optional

        logging.getLogger("mail.log").setLevel(logging.WARNING)
        self.port, self._mailbox = port, mailbox
        self._controller = Controller(
            self, hostname=host, port=port, data_size_limit=_MAX_BYTES, ident="jobwatt demo"
        )

    def start(self) -> None:
        """Listen; OSError where the port cannot be had."""
        self._controller.start()

    def stop(self) -> None:
        """Listen no more."""
        self._controller.stop()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        """Keep what came."""
        self._mailbox.add(tuple(envelope.rcpt_tos), envelope.content)
        return "250 OK"
