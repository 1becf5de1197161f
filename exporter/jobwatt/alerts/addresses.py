"""
Who has which address: a table of site.toml, or a file beside it.

ValueError says what is wrong; whoever knows the file puts its name in front.
"""

from __future__ import annotations

import csv
import tomllib
from typing import TYPE_CHECKING, Any

from . import values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def table(value: Any) -> Mapping[str, str]:
    """User -> address."""
    if not isinstance(value, dict):
        raise ValueError('must be a table, such as { amartin = "alice.martin@example.org" }')  # noqa: TRY004
    found = {}
    for user, address in value.items():
        try:
            found[values.some_text(user)] = values.address(address)
        except ValueError as err:
            raise ValueError(f"{user!r}: {err}") from err
    return found


def read(path: Path) -> Mapping[str, str]:
    """User -> address from TOML (``user = "address"``) or CSV (``user,address``); OSError, ValueError."""
    if path.suffix not in {".toml", ".csv"}:
        raise ValueError("mail.addresses_file must end in .toml or .csv")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return table(tomllib.loads(text) if path.suffix == ".toml" else dict(_rows(text)))
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        raise ValueError(f"not TOML ({err})") from err
    except (csv.Error, UnicodeDecodeError) as err:
        raise ValueError(f"not CSV ({err})") from err


def _rows(text: str) -> Iterator[tuple[str, str]]:
    """The rows; a first one that says ``user,address``, empty ones and those that begin with # are passed over."""
    seen: dict[str, str] = {}
    for number, row in enumerate(csv.reader(text.splitlines(), strict=True), 1):
        cells = [cell.strip() for cell in row]
        header = number == 1 and cells == ["user", "address"]
        if not any(cells) or cells[0].startswith("#") or header:
            continue
        if len(cells) != 2:
            raise ValueError(f"line {number} is not user,address")
        user, address = cells
        if seen.setdefault(user, address) != address:
            raise ValueError(f"line {number}: {user!r} has another address above")
        yield user, address
