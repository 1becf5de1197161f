"""
Mutations of inputs: of bytes, of lines, of numbers, of JSON trees, and with words that hurt.

What a coverage-guided fuzzer lacks is the structure of text: libFuzzer's own mutations break most JSON
before a parser has looked at it. Used by the fuzzer beside its own, and alone, with a fixed seed, by the
tests, which need no fuzzer.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_NUMBERS = tuple(
    text.encode()
    for text in (
        "0", "-0", "-1", "1", "00", "7", "255", "256", "65535", "65536", "2147483648", "4294967295",
        "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551616", "9" * 30,
        "9" * 400, "9" * 5000, "1e400", "-1e400", "1e-400", "1e308", "0.1", "1_000", "nan", "inf", "-inf",
        "NaN", "Infinity", "0x10", "\u0663", "\u00b2", "\uff11", "+5", " 5", "1.", ".5", "5e", "1e999999999",
    )
)  # fmt: skip
_TEXTS = tuple(
    text.encode("utf-8", "surrogatepass")
    for text in (
        "", "\0", "\n", "\r\n", "\r", "\t", " ", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\ufffd",
        "\ud800", "\udc80", "\U0010ffff", "\\ud800", "\\u0000", "\\", '"', "'", "`", "<script>", "&lt;", "%00", "%0a",
        "{{", "}}", "${", "$(", "../", "/", "//", "://", "@", ":", ";", ",", "=", "#", "|", "[", "]", "{", "}", "(", ")",
        "*", "+", "?", "-", "_", ".", "..", "null", "true", "None", "N/A", "(null)", "[" * 50, '{"a":' * 30,
        "a" * 300, "A" * 5000, "," * 300, "\n" * 300, " " * 300, "[0-9]" * 9, "[1-65536]", "0-4294967295", "(x65536)",
        "1970-01-01T00:00:00Z", "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999-23:59", "Thu, 01 Jan 1970 00:00:00 -0000",
    )
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1 << 31, 1 << 63, 1 << 64, 10**30, 10**400, float("nan"), float("inf"),
    "", "x", "0", "\ud800", "\n", "a" * 300, [], {}, [[]], [None], {"": None}, ["x"], [0, 0], {"@odata.id": "/redfish/v1/"},
)  # fmt: skip
_NUMBER = re.compile(rb"[0-9]+(?:\.[0-9]+)?")
_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_.\-]{2,40}")


class Mutator:
    """Mutations for one target, with the words of its seeds."""

    def __init__(self, seeds: Sequence[bytes], *, tree: bool = False) -> None:
        self._seeds = [seed for seed in seeds if seed] or [b"0"]
        words = dict.fromkeys(w for seed in self._seeds for w in _WORD.findall(seed))
        self._words = (*list(words)[:500], *_TEXTS, *_NUMBERS)
        self._tree = tree
        self._ways = (
            self._bytes, self._bytes, self._word, self._word, self._number, self._number,
            self._cut, self._repeat, self._lines, self._splice,
        )  # fmt: skip

    def __call__(self, data: bytes, rng: random.Random, most: int) -> bytes:
        """One input made from another; a few mutations at once."""
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            if self._tree and rng.random() < 0.7 and (tree := _parsed(data)) is not None:
                data = _dumped(_grown(tree[0], rng))
            else:
                data = rng.choice(self._ways)(data, rng)
        return data[:most]

    def _bytes(self, data: bytes, rng: random.Random) -> bytes:
        if not data:
            return rng.randbytes(3)
        made = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(made))
            made[at] = rng.choice((made[at] ^ (1 << rng.randrange(8)), rng.randrange(256)))
        return bytes(made)

    def _word(self, data: bytes, rng: random.Random) -> bytes:
        at = rng.randrange(len(data) + 1)
        gone = rng.choice((0, 0, 1, 5))
        return data[:at] + rng.choice(self._words) + data[at + gone :]

    def _number(self, data: bytes, rng: random.Random) -> bytes:
        found = list(_NUMBER.finditer(data))
        if not found:
            return self._word(data, rng)
        one = rng.choice(found)
        return data[: one.start()] + rng.choice(_NUMBERS) + data[one.end() :]

    def _cut(self, data: bytes, rng: random.Random) -> bytes:
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        return rng.choice((data[:a] + data[b:], data[:a], data[a:b]))

    def _repeat(self, data: bytes, rng: random.Random) -> bytes:
        a = rng.randrange(len(data) + 1)
        b = min(a + rng.choice((1, 4, 16, 64)), len(data))
        return data[:b] + data[a:b] * rng.choice((1, 3, 30)) + data[b:]

    def _lines(self, data: bytes, rng: random.Random) -> bytes:
        lines = data.split(b"\n")
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        way = rng.randrange(3)
        if way == 0:
            lines[a], lines[b] = lines[b], lines[a]
        elif way == 1:
            lines.insert(b, lines[a])
        else:
            del lines[a]
        return b"\n".join(lines)

    def _splice(self, data: bytes, rng: random.Random) -> bytes:
        other = rng.choice(self._seeds)
        return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _parsed(data: bytes) -> tuple[Any] | None:
    try:
        return (json.loads(data),)
    except (ValueError, RecursionError):
        return None


def _dumped(tree: Any) -> bytes:
    try:
        return json.dumps(tree).encode()
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        return b"[]"


def _grown(tree: Any, rng: random.Random) -> Any:
    """The tree with one place of it changed."""
    places: list[tuple[Any, Any]] = []
    _collect(tree, places)
    if not places:
        return rng.choice(_VALUES)
    holder, key = rng.choice(places)
    way = rng.randrange(6)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice((1, 2, 40)))
    elif way == 2:
        other, where = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[where])) if where in _keys(other) else None
    elif way == 3:
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
    elif way == 4 and isinstance(holder[key], int):
        holder[key] = holder[key] * rng.choice((-1, 1000, 10**9)) + rng.choice((0, 1))
    elif way == 4 and isinstance(holder[key], float):
        holder[key] = holder[key] * rng.choice((-1.0, 0.5, 1e9))
    else:
        holder[key] = rng.choice(_VALUES)
    return tree


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _collect(tree: Any, places: list[tuple[Any, Any]]) -> None:
    todo = [tree]
    while todo and len(places) < 5000:
        holder = todo.pop()
        if isinstance(holder, (dict, list)):
            for key in list(_keys(holder)):
                places.append((holder, key))
                todo.append(holder[key])
