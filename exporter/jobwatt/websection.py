"""A web configuration's YAML, read strictly: unknown keys, wrong types and doubles are one clear line."""

from __future__ import annotations

import difflib
from reprlib import repr  # noqa: A004  YAML's aliases can make a value of a few lines endless
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

T = TypeVar("T")


class WebConfigError(ValueError):
    """What is wrong, in which file and key, and how to mend it; one line."""


class Section:
    """A mapping of the file whose values are asked for by key and type."""

    def __init__(self, path: Path, name: str, value: object, known: Collection[str]) -> None:
        self.path, self.name = path, name
        self.values: dict[str, Any] = {}
        if value is None:
            return
        if not isinstance(value, dict):
            raise self.error("", "must be a mapping of keys to values")
        for key in value:
            if key not in known:
                raise self.error(str(key), f"unknown key; {nearest(str(key), known)}")
        self.values = value

    def error(self, key: str, message: str) -> WebConfigError:
        """Make the line that names file, section and key."""
        where = ".".join(part for part in (self.name, key) if part)
        said = ": ".join(part for part in (str(self.path), where, message) if part)
        return WebConfigError("".join(c if c.isprintable() else " " for c in said))

    def string(self, key: str) -> str:
        """Return a string, "" where it is not given."""
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {repr(value):.80}; put it in quotes")
        return value

    def strings(self, key: str) -> list[str]:
        """Return a list of strings, empty where it is not given."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "must be a list of strings")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {repr(value):.80}")
        return value

    def file(self, key: str) -> Path | None:
        """Return a path, relative to the directory of the file that names it."""
        value = self.string(key)
        return self.path.parent / value if value else None

    def choice(self, key: str, choices: Mapping[str, T], default: str) -> T:
        """Return what the chosen word stands for."""
        value = self.string(key) or default
        if value not in choices:
            raise self.error(key, f"{value!r} is not possible; {nearest(value, choices)}")
        return choices[value]


def nearest(word: str, known: Collection[str]) -> str:
    """Name the likeliest of the known words, or all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"possible: {', '.join(known)}"


# What PyYAML raises beside its own errors for a value that looks like a number, a date or a tag and is none.
NOT_YAML = (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError, OverflowError)  # fmt: skip


class UniqueLoader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error: the first one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse what PyYAML would take: the last of several equal keys."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", node.value[index][0].start_mark
                )
        return super().construct_mapping(node, deep=deep)
