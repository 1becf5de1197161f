"""
A mail server that keeps what it gets, for people to read, and hands nothing on.

On its pages whatever stands in a mail is text, or shut into a frame that can do nothing.
"""

from __future__ import annotations

import email
import email.policy
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from . import look

if TYPE_CHECKING:
    from email.message import EmailMessage

KEPT = 500
_MAX_BYTES = 4 << 20
POLICY = look.policy()
_HEADERS = ("From", "To", "Reply-To", "Subject", "Date", "Auto-Submitted", "Message-Id")


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


# --- pages -----------------------------------------------------------------------------------------


def listing(mailbox: Mailbox) -> tuple[str, str]:
    """All mails, the newest first; the page and its content security policy."""
    mails = mailbox.newest_first()
    rows = "".join(
        f'<tr><td class="n">{_when(mail)}</td><td>{look.text(", ".join(mail.to))}</td>'
        f'<td><a href="/mails/{mail.number}">{look.text(mail.subject) or "(no subject)"}</a></td></tr>'
        for mail in mails
    )
    head = '<thead><tr><th scope="col">at</th><th scope="col">to</th><th scope="col">subject</th></tr></thead>'
    table = f'<table class="list">{head}<tbody>{rows}</tbody></table>'
    empty = '<p class="empty">None yet. The first come about two minutes after the start.</p>'
    body = f'<section><h2>Mails <span class="count">{mailbox.count}</span></h2>{table if mails else empty}</section>'
    return look.page("Mails", "caught here, sent to nobody", body, refresh_s=10), POLICY


def one(mail: Mail) -> tuple[str, str]:
    """One mail: headers, the HTML part as its reader sees it, the text part."""
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{look.text(value)}</td></tr>'
        for name in _HEADERS
        if (value := mail.header(name))
    )
    parts = [f'<section><table class="list"><tbody>{rows}</tbody></table></section>']
    if mail.html:
        parts.append(f"<section><h2>As the reader sees it</h2>{_frame(mail.html)}</section>")
    parts.append(f"<section><h2>Text part</h2><pre>{escape(mail.text)}</pre></section>")
    return look.page(
        mail.subject or "(no subject)", '<a href="/mails">all mails</a>', "".join(parts)
    ), POLICY


def as_dicts(mailbox: Mailbox) -> list[dict[str, Any]]:
    """All mails, the newest first, for scripts."""
    return [
        {
            "number": mail.number,
            "at": mail.at,
            "to": mail.to,
            "subject": mail.subject,
            "text": mail.text,
            "html": mail.html,
        }
        for mail in mailbox.newest_first()
    ]


def _frame(html: str) -> str:
    """The mail in a frame without scripts, forms or an origin; its links open in a tab of their own."""
    opened = html.replace("<head>", '<head><base target="_blank">', 1)
    allowed = "allow-popups allow-popups-to-escape-sandbox"
    return f'<iframe title="the mail" sandbox="{allowed}" srcdoc="{escape(opened)}"></iframe>'


def _when(mail: Mail) -> str:
    return f"{datetime.fromtimestamp(mail.at, UTC):%H:%M:%S}"
