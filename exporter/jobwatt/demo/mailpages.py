"""The mails as pages. Whatever stands in a mail is text here, or shut into a frame that can do nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from . import look

if TYPE_CHECKING:
    from .mails import Mail, Mailbox

POLICY = look.policy()
_HEADERS = ("From", "To", "Reply-To", "Subject", "Date", "Auto-Submitted", "Message-Id")


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
