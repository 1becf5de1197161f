"""
One target under libFuzzer (atheris), in a process of its own: ``python -m fuzz.one MODULE TARGET OUT ARGUMENTS``.

Finds are kept in OUT, the first input of each kind, and the hunt goes on; only what never comes back, or
takes the process with it, ends it, and libFuzzer keeps that one there. Its ARGUMENTS are libFuzzer's.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import random
import resource
import sys
import time
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["jobwatt"]):
    importlib.import_module(sys.argv[1])

from fuzz.base import FAT_BYTES, SLOW_S, TARGETS, Target
from fuzz.mutate import Mutator

logging.getLogger("jobwatt").setLevel(logging.CRITICAL)
_MOST_BYTES = 3 << 30  # of address space


class Hunt:
    """Runs inputs and keeps what is found."""

    def __init__(self, target: Target, out: Path) -> None:
        self._target, self._out = target, out
        self._kinds: dict[str, int] = {}
        self._peak = 0

    def __call__(self, data: bytes) -> None:
        began_s = time.process_time()
        try:
            self._target.feed(data)
        except Exception as err:  # noqa: BLE001  whatever it is, it is a find
            self._keep(data, _kind(err), "".join(traceback.format_exception(err))[-4000:])
        spent_s = time.process_time() - began_s
        if spent_s > SLOW_S:
            self._keep(data, "slow", f"{spent_s:.1f} s")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if self._peak and peak > self._peak + FAT_BYTES:
            self._keep(data, "fat", f"{(peak - self._peak) >> 20} MiB")
        self._peak = peak

    def _keep(self, data: bytes, kind: str, why: str) -> None:
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if self._kinds[kind] > 1:
            return
        name = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]
        self._out.mkdir(parents=True, exist_ok=True)
        (self._out / name).write_bytes(data)
        with (self._out / "finds.jsonl").open("a") as file:
            file.write(json.dumps({"kind": kind, "input": name, "why": why}) + "\n")


def _kind(err: BaseException) -> str:
    """What it is and where in our own code, so that one fault is found once."""
    broken = isinstance(err, AssertionError)  # of the targets, whose line says which promise
    places = [
        f for f in traceback.extract_tb(err.__traceback__) if Path(f.filename).name != "base.py"
    ]
    ours = [f for f in places if ("/fuzz/" if broken else "/jobwatt/") in f.filename] or places
    return f"{type(err).__name__} {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def main() -> None:
    """Hunt."""
    target, out, *arguments = sys.argv[2:]
    one = TARGETS[target]
    seeds = one.seeds()
    mutator = Mutator(seeds, tree=one.json)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        way = rng.random()
        if way < 0.4:
            return atheris.Mutate(data, most)
        # where one regular expression does the work there is no coverage to lead away from the seeds
        return mutator(rng.choice(seeds) if way < 0.65 else data, rng, most)

    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    atheris.Setup([sys.argv[0], *arguments], Hunt(one, Path(out)), custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
