"""Taking apart what strangers answer: every step may be of another shape than promised."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from .intensity import GridError


def mapping(value: object) -> dict[str, Any]:
    """The value, where it is a JSON object."""
    if not isinstance(value, dict):
        raise GridError("malformed", "the answer is not of the shape expected")
    return value


def sequence(value: object) -> list[Any]:
    """The value, where it is a JSON array that holds something."""
    if not isinstance(value, list):
        raise GridError("malformed", "the answer is not of the shape expected")
    if not value:
        raise GridError("empty", "the answer holds no figure")
    return value


def moment_s(value: object) -> float:
    """Unix time of an ISO 8601 moment; one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise GridError("malformed", "the answer's time is no time") from None
