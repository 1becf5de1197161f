"""
Snapshots as JSON lines: what `jobwatt record` writes, `jobwatt replay` plays and the ledger keeps as
its cursor.

The encoding follows the dataclasses of model.py: an object per dataclass with its defaults left
out, a list for a tuple or a set. A recording's first line is ``{"jobwatt_recording": 1}``; each
following line is one snapshot. ``.gz`` is understood by name.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
import types
import typing
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from . import model
from .metrics import fits
from .model import Sample, Snapshot

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1


class RecordingError(ValueError):
    """A recording that cannot be read: which file, which line, and why."""


def encode(value: Any) -> Any:
    """Turn a dataclass of model.py, or one made of such, into plain JSON types."""
    encoder = _encoder(value.__class__)
    return value if encoder is None else encoder(value)


# Encoders and decoders are made once for each type: looking at a type costs more than its values do.
_Coder = Callable[[Any], Any]


@cache  # cls is a class, hashable whatever its instances are
def _encoder(cls: Any) -> _Coder | None:
    """What turns a ``cls`` into JSON types; None where it is one already."""
    origin, args = typing.get_origin(cls), typing.get_args(cls)
    if dataclasses.is_dataclass(cls):
        return _dataclass_encoder(cls)
    if origin in {typing.Union, types.UnionType}:
        inner = _encoder(next(arg for arg in args if arg is not types.NoneType))
        return None if inner is None else _or_none(inner)
    if origin is frozenset:
        return sorted
    if origin is tuple:
        return _tuple_encoder(_encoder(args[0]))
    if origin is Mapping:
        return _mapping_encoder(_encoder(args[1]))
    return None


def _tuple_encoder(item: _Coder | None) -> _Coder:
    return list if item is None else lambda value: [item(one) for one in value]


def _mapping_encoder(item: _Coder | None) -> _Coder:
    if item is None:
        return lambda value: {str(key): one for key, one in value.items()}
    return lambda value: {str(key): item(one) for key, one in value.items()}


def _dataclass_encoder(cls: Any) -> _Coder:
    hints = _hints(cls)
    fields = [(f.name, _default(f), _encoder(hints[f.name])) for f in dataclasses.fields(cls)]

    def plain(value: Any) -> dict[str, Any]:
        found = {}
        for name, default, encoder in fields:
            item = getattr(value, name)
            if item != default:
                found[name] = item if encoder is None else encoder(item)
        return found

    return plain


def _or_none(coder: _Coder) -> _Coder:
    return lambda value: None if value is None else coder(value)


def _hints(cls: Any) -> dict[str, Any]:
    # types named under TYPE_CHECKING only are not in the module's own names at run time
    names = {**vars(model), **vars(sys.modules[cls.__module__]), "Mapping": Mapping}
    return typing.get_type_hints(cls, names)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default  # MISSING equals no value, so a required field is always written


def decode(cls: Any, plain: Any) -> Any:
    """Turn JSON types back into ``cls``, a type of model.py; KeyError, TypeError, ValueError if they do not fit."""
    return _decoder(cls)(plain)


@cache  # cls is a class, hashable whatever its instances are
def _decoder(cls: Any) -> _Coder:
    origin, args = typing.get_origin(cls), typing.get_args(cls)
    if dataclasses.is_dataclass(cls):
        return _dataclass_decoder(cls)
    if origin in {typing.Union, types.UnionType}:
        return _or_none(_decoder(next(arg for arg in args if arg is not types.NoneType)))
    if origin is tuple:
        return _tuple_decoder(args)
    if origin is frozenset:
        member = _decoder(args[0])
        return lambda plain: frozenset(map(member, plain))
    if origin is Mapping:
        key, item = args[0], _decoder(args[1])
        return lambda plain: {key(name): item(value) for name, value in plain.items()}
    if isinstance(cls, type) and issubclass(cls, StrEnum):
        return cls
    return _LEAVES.get(cls, _text)


def _tuple_decoder(args: tuple[Any, ...]) -> _Coder:
    item = _decoder(args[0])

    def build(plain: Any) -> Any:
        if not isinstance(plain, list):
            raise TypeError(f"{plain!r:.40} is no list")
        return tuple(map(item, plain))

    return build


def _dataclass_decoder(cls: Any) -> _Coder:
    decoders = {name: _decoder(hint) for name, hint in _hints(cls).items()}

    def build(plain: Any) -> Any:
        return cls(**{name: decoders[name](value) for name, value in plain.items()})

    return build


# A leaf of another type would be found out far from here, at each sample, when it is added to something.
def _text(plain: Any) -> str:
    if not isinstance(plain, str):
        raise TypeError(f"{plain!r:.40} is no text")
    plain.encode()  # UnicodeEncodeError: half of a surrogate pair, which no page can hold
    return plain


def _whole(plain: Any) -> int:
    if not isinstance(plain, int) or isinstance(plain, bool) or not -_MOST <= plain < _MOST:
        raise TypeError(f"{plain!r:.40} is no whole number of 64 bits")
    return plain


def _figure(plain: Any) -> float:
    if not isinstance(plain, int | float) or isinstance(plain, bool) or not -1e300 < plain < 1e300:
        raise TypeError(f"{plain!r:.40} is no finite number")
    return plain


def _truth(plain: Any) -> bool:
    if not isinstance(plain, bool):
        raise TypeError(f"{plain!r:.40} is neither true nor false")
    return plain


_MOST = 1 << 63
_MOST_S = 1e11  # the year 5138
_LEAVES: dict[Any, _Coder] = {str: _text, int: _whole, float: _figure, bool: _truth}


def _open(path: Path, mode: str) -> TextIO:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return typing.cast("TextIO", opener(path, mode, encoding="utf-8"))


def write(out: TextIO, snapshots: typing.Iterable[Snapshot]) -> int:
    """Write a recording, a line at a time; returns the number of snapshots."""
    out.write(json.dumps({"jobwatt_recording": VERSION}) + "\n")
    count = 0
    for snapshot in snapshots:
        out.write(json.dumps(encode(snapshot), separators=(",", ":")) + "\n")
        out.flush()
        count += 1
    return count


def read(path: Path) -> Iterator[Snapshot]:
    """Read a recording lazily; RecordingError names the line that does not fit."""
    with _open(path, "rt") as file:
        lines = _lines(path, file)
        header = next(lines, "")
        if not _is_header(header):
            raise RecordingError(
                f"{path}: not a jobwatt recording (its first line does not say so)"
            )
        for number, line in enumerate(lines, 2):
            try:
                snapshot = _snapshot(line)
            except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as err:
                raise RecordingError(f"{path}: line {number} is not a snapshot: {err}") from err
            yield snapshot


def _snapshot(line: str) -> Snapshot:
    snapshot: Snapshot = decode(Snapshot, json.loads(line))
    if not 0 <= snapshot.wall_s < _MOST_S:
        raise ValueError("its time is none")
    return replace(snapshot, samples=_known(snapshot.samples), events=_known(snapshot.events))


def _known(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Those that this jobwatt has a metric for: a recording may be of another version."""
    return tuple(sample for sample in samples if fits(sample.metric, sample.labels))


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Each line; RecordingError where the file is cut or is not text."""
    try:
        yield from file
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile, zlib.error) as err:
        raise RecordingError(f"{path}: damaged: {err}") from err


def _is_header(line: str) -> bool:
    try:
        return bool(json.loads(line).get("jobwatt_recording") == VERSION)
    except (ValueError, AttributeError, RecursionError):
        return False
