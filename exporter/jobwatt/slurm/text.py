"""
Slurm's notations, and strings of users made fit to be shown. Pure.

Formats: slurm.conf(5) on node names (``gpu[01-02,05]``), sbatch(1) on ``SLURM_JOB_CPUS_PER_NODE``
(``2(x2),4``).
"""

from __future__ import annotations

import re

MAX_NODES = 65_536
MAX_BRACKETS = 8  # of one name; each multiplies the work
MAX_NAME = 256  # of a node; slurm.conf's are host names
MAX_CHARS = 1 << 22  # of all names of a list: as many nodes with names of 64 characters
_REPEATED = re.compile(r"([0-9]{1,6})(?:\(x([0-9]{1,5})\))?")
_BRACKETS = re.compile(r"\[([0-9,-]+)\]")
_JOBID = re.compile(r"[1-9][0-9]{0,9}")  # Slurm's are 32 bits


def is_jobid(text: str) -> bool:
    """Whether the text is a job's number as Slurm writes it, and no longer than one can be."""
    return _JOBID.fullmatch(text) is not None


def number(text: str | None, digits: int = 11) -> int:
    """ASCII digits as a number; 0 for anything else, and for more of them than any date has."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= digits else 0


def clean(text: str, limit: int = 256) -> str:
    """
    Untrusted text as valid UTF-8 of at most ``limit`` characters, without control characters.

    Undecodable bytes (surrogates) become U+FFFD, and so do surrogates that JSON spelt out, line
    breaks and other control or format characters a space; a text that was cut ends in an ellipsis.
    """
    text = text[: limit + 1]
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # not all of its surrogates stand for bytes
        data = text.encode("utf-8", "surrogatepass")
    text = data.decode("utf-8", "replace")
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def indexes(spec: str, limit: int = 4096) -> list[int]:
    """``0,2-3`` as [0, 2, 3]. Raises ValueError for anything else or more than ``limit`` of them."""
    found: list[int] = []
    for part in spec.split(","):
        low, _, high = part.partition("-")
        if not _is_index(low) or (high and not _is_index(high)):
            raise ValueError(f"not a list of indexes: {spec[:80]!r}")
        first, last = int(low), int(high or low)
        if last < first:
            raise ValueError(f"not a list of indexes: {spec[:80]!r}")
        if last - first >= limit - len(found):
            raise ValueError(f"too many indexes: {spec[:80]!r}")
        found.extend(range(first, last + 1))
    return found


def expand_nodes(nodelist: str) -> list[str]:
    """
    ``gpu[01-02,05],cpu1`` as names in the list's order, every bracket expanded.

    Raises ValueError for a list that cannot be read or names more than ``MAX_NODES``, or than
    ``MAX_CHARS`` can name.
    """
    names: list[str] = []
    chars = 0
    for part in _split_outside_brackets(nodelist):
        made = _expand_one(part, MAX_NODES - len(names), MAX_CHARS - chars)
        names.extend(made)
        chars += sum(map(len, made))
    return names


def cpus_on_node(cpus_per_node: str, nodelist: str, node: str) -> int:
    """How many CPUs ``2(x2),4`` gives to ``node`` of ``nodelist``; 0 where it cannot be told."""
    counts: list[int] = []
    for part in cpus_per_node.split(","):
        match = _REPEATED.fullmatch(part.strip())
        times = int(match[2] or 1) if match else 0
        if match is None or times > MAX_NODES - len(counts):
            return 0
        counts.extend([int(match[1])] * times)
    if len(set(counts)) == 1:
        return counts[0]
    try:
        names = expand_nodes(nodelist)
    except ValueError:
        return 0
    return counts[names.index(node)] if node in names and len(names) == len(counts) else 0


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part for part in (*parts, text[start:]) if part]


def _expand_one(part: str, room: int, chars: int) -> list[str]:
    """Each bracket multiplies what stands around it: ``r[1-2]n[1-2]`` are four names."""
    names, at, longest = [""], 0, 0
    if part.count("[") > MAX_BRACKETS or not part.isascii():
        raise ValueError(f"not a node list, or too long: {part[:80]!r}")
    for match in _BRACKETS.finditer(part):
        numbers = _numbers(match[1], room // len(names))
        before = part[at : match.start()]
        if "[" in before or "]" in before:
            raise ValueError(f"not a node list: {part[:80]!r}")
        longest += len(before) + max(map(len, numbers))
        if longest > MAX_NAME or longest * len(names) * len(numbers) > chars:
            raise ValueError(f"too long a node list: {part[:80]!r}")
        names = [f"{name}{before}{numeral}" for name in names for numeral in numbers]
        at = match.end()
    rest = part[at:]
    longest += len(rest)
    if "[" in rest or "]" in rest or room < 1 or longest > MAX_NAME or longest * len(names) > chars:
        raise ValueError(f"not a node list, or too long: {part[:80]!r}")
    return [name + rest for name in names]


def _numbers(spec: str, limit: int) -> list[str]:
    """``01-02,5`` as 01, 02, 5. Raises ValueError for more than ``limit`` of them."""
    found: list[str] = []
    for piece in spec.split(","):
        low, _, high = piece.partition("-")
        width = len(low) if high or len(low) > 1 else 0
        found.extend(f"{at:0{width}d}" for at in indexes(piece, limit - len(found)))
    return found


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
