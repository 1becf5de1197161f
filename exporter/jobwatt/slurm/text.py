"""
Slurm's notations, and strings of users made fit to be shown. Pure.

Formats: slurm.conf(5) on node names (``gpu[01-02,05]``), sbatch(1) on ``SLURM_JOB_CPUS_PER_NODE``
(``2(x2),4``).
"""

from __future__ import annotations

import re

MAX_NODES = 65_536
_REPEATED = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_BRACKETS = re.compile(r"\[([0-9,-]+)\]")


def clean(text: str, limit: int = 256) -> str:
    """
    Untrusted text as valid UTF-8 of at most ``limit`` characters, without control characters.

    Undecodable bytes (surrogates) become U+FFFD, line breaks and other control or format
    characters a space; a text that was cut ends in an ellipsis.
    """
    text = text[: limit + 1].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def indexes(spec: str, limit: int = 4096) -> list[int]:
    """``0,2-3`` as [0, 2, 3]. Raises ValueError for anything else or more than ``limit`` of them."""
    found: list[int] = []
    for part in spec.split(","):
        low, _, high = part.partition("-")
        if not low.isdecimal() or (high and not high.isdecimal()):
            raise ValueError(f"not a list of indexes: {spec[:80]!r}")
        first, last = int(low), int(high or low)
        if last - first >= limit - len(found):
            raise ValueError(f"too many indexes: {spec[:80]!r}")
        found.extend(range(first, last + 1))
    return found


def expand_nodes(nodelist: str) -> list[str]:
    """
    ``gpu[01-02,05],cpu1`` as names in the list's order, every bracket expanded.

    Raises ValueError for a list that cannot be read or names more than ``MAX_NODES``.
    """
    names: list[str] = []
    for part in _split_outside_brackets(nodelist):
        names.extend(_expand_one(part, MAX_NODES - len(names)))
    return names


def cpus_on_node(cpus_per_node: str, nodelist: str, node: str) -> int:
    """How many CPUs ``2(x2),4`` gives to ``node`` of ``nodelist``; 0 where it cannot be told."""
    counts: list[int] = []
    for part in cpus_per_node.split(","):
        match = _REPEATED.fullmatch(part.strip())
        if match is None or int(match[2] or 1) > MAX_NODES:
            return 0
        counts.extend([int(match[1])] * int(match[2] or 1))
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


def _expand_one(part: str, room: int) -> list[str]:
    """Each bracket multiplies what stands around it: ``r[1-2]n[1-2]`` are four names."""
    match = _BRACKETS.search(part)
    if match is None:
        if "[" in part or "]" in part or room < 1:
            raise ValueError(f"not a node list, or too long: {part[:80]!r}")
        return [part]
    names: list[str] = []
    for piece in match[1].split(","):
        low, _, high = piece.partition("-")
        for number in indexes(piece, MAX_NODES):
            width = len(low) if high or len(low) > 1 else 0
            name = f"{part[: match.start()]}{number:0{width}d}{part[match.end() :]}"
            names.extend(_expand_one(name, room - len(names)))
    return names
