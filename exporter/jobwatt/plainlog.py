"""Log lines as a terminal and a log's reader can trust them: one line a message, nothing but characters that are shown."""

from __future__ import annotations

import logging

LONGEST = 2000  # of a line; what users and devices say is bounded before, this is the last resort


class PlainFormatter(logging.Formatter):
    """
    Cuts what is too long and shows what is not printable as its escape: a request, a device or a file's name may hold escape
    sequences, or a line break with another line's beginning behind it. A traceback keeps its lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base class's name
        """Return the message in one line."""
        return shown(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, and below it the traceback where there is one."""
        return "\n".join(map(shown, super().format(record).split("\n")))


def shown(text: str) -> str:
    r"""Return a line with what is not printable as Python writes it, ``\x1b``; cut where it is too long."""
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
