"""
All targets one after another: ``make fuzz`` (FUZZ_INPUTS=, FUZZ_SECONDS=, FUZZ_TARGETS=).

Each gets its share of the inputs, and no more than FUZZ_SECONDS; what the slow ones leave of the whole, the
others get in further rounds. Prints a table; the exit status is 1 where something was found.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.targets import TARGETS

if TYPE_CHECKING:
    from fuzz.base import Target

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".cache" / "fuzz"
FOUND = Path(__file__).parent / "found"
_HANG_S = 25  # then libFuzzer ends the process
_ROUNDS = 12
_RUNS = re.compile(r"stat::number_of_executed_units: (\d+)")
_LAST = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")


@dataclass(slots=True)
class Tally:
    """What one target has had so far."""

    inputs: int = 0
    seconds: float = 0.0
    coverage: int = 0
    corpus: int = 0
    first: int = -1  # coverage of the seeds
    finds: set[str] = field(default_factory=set)

    @property
    def rate(self) -> float:
        """Inputs a second."""
        return self.inputs / self.seconds if self.seconds else 0.0


def hunt(target: Target, inputs: int, seconds: int, tally: Tally) -> None:
    """One round with one target."""
    corpus, out = WORK / "corpus" / target.name, WORK / "finds" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(seed[: target.max_len])
    for number, kept in enumerate(sorted(FOUND.glob(f"{target.name}/*"))):
        (corpus / f"found{number}").write_bytes(kept.read_bytes())
    out.mkdir(parents=True, exist_ok=True)
    argv = [
        sys.executable, "-m", "fuzz.one", target.run.__module__, target.name, str(out), str(corpus), f"-runs={inputs}",
        f"-max_total_time={seconds}", f"-max_len={target.max_len}", f"-timeout={_HANG_S}", "-rss_limit_mb=2500",
        f"-artifact_prefix={out}/", "-keep_seed=1", "-print_final_stats=1", "-verbosity=1",
    ]  # fmt: skip
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'exporter'}",
        "PYTHONHASHSEED": "0",
    }
    began_s = time.monotonic()
    done = subprocess.run(
        argv, env=env, capture_output=True, text=True, errors="replace", check=False
    )
    tally.seconds += time.monotonic() - began_s
    said = done.stderr
    (out.parent / f"{target.name}.log").write_text(said[-20_000:])
    if runs := _RUNS.search(said):
        tally.inputs += int(runs[1])
    if seen := _LAST.findall(said):
        tally.coverage, tally.corpus = int(seen[-1][0]), int(seen[-1][2])
        if tally.first < 0:
            tally.first = int(seen[0][0])
    tally.finds = {path.name for path in out.iterdir() if path.name != "finds.jsonl"}
    if done.returncode and not tally.finds:
        tally.finds.add(f"exit {done.returncode}")


def table(tallies: dict[str, Tally]) -> str:
    """The result, for people."""
    rows = [
        "| target | inputs | inputs/s | coverage, seeds | coverage, end | corpus | found |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {name} | {t.inputs:,} | {t.rate:,.0f} | {max(t.first, 0)} | {t.coverage} | {t.corpus} | {len(t.finds)} |"
        for name, t in tallies.items()
    ]
    inputs, seconds = (
        sum(t.inputs for t in tallies.values()),
        sum(t.seconds for t in tallies.values()),
    )
    found = sum(len(t.finds) for t in tallies.values())
    rows.append(
        f"| **all {len(tallies)}** | **{inputs:,}** | {inputs / max(seconds, 1):,.0f} | | | | **{found}** |"
    )
    return "\n".join(rows) + f"\n\n{seconds / 60:.0f} minutes.\n"


def main() -> int:
    """Hunt through all; 1 where something was found."""
    whole, seconds = (
        int(os.environ.get("FUZZ_INPUTS", "500000")),
        int(os.environ.get("FUZZ_SECONDS", "20")),
    )
    wanted = os.environ.get("FUZZ_TARGETS", "").split()
    chosen = {
        n: t
        for n, t in sorted(TARGETS.items())
        if not wanted or any(n.startswith(w) for w in wanted)
    }
    shutil.rmtree(WORK / "finds", ignore_errors=True)
    tallies = {name: Tally() for name in chosen}
    for number in range(_ROUNDS):
        left = whole - sum(t.inputs for t in tallies.values())
        if left <= 0:
            break
        # the first round by what each is worth, the others by how fast they are
        rates = {n: t.rate for n, t in tallies.items()}
        fast = statistics.median(rates.values()) if number else 0
        weights = {
            n: t.share if not number else rates[n] * (rates[n] >= fast) for n, t in chosen.items()
        }
        for name, target in chosen.items():
            inputs = int(left * weights[name] / max(sum(weights.values()), 1e-9))
            if inputs > 0:
                hunt(target, inputs, seconds, tallies[name])
                t = tallies[name]
                sys.stderr.write(
                    f"{name}: {t.inputs:,} inputs, {t.rate:,.0f}/s, cov {t.coverage}, found {len(t.finds)}\n"
                )
    sys.stdout.write(table(tallies))
    for name, t in tallies.items():
        for find in sorted(t.finds):
            sys.stdout.write(f"found: {WORK / 'finds' / name / find}\n")
    return int(any(t.finds for t in tallies.values()))


if __name__ == "__main__":
    raise SystemExit(main())
