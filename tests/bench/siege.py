"""`make siege`: each attack alone, in the clear and behind TLS and a password; what it did to the daemon, as a table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).resolve().parents[1]),
    str(Path(__file__).resolve().parents[2] / "exporter"),
]

import attacks  # noqa: E402
from test_siege import Besieged, besieged  # noqa: E402

# attack -> threads; a flood has several
ATTACKS = {
    "nothing": 1, "scrapes": 4, "pages": 4, "guesses": 4, "handshakes": 4, "idle": 1, "half_open": 1, "drips": 1,
    "slow_bodies": 1, "slow_handshakes": 1, "slow_readers": 1, "garbage": 2,
}  # fmt: skip
FLOOD_S, OTHER_S = 30.0, 10.0
HEAD = "| attack | | sent/s | answers | CPU | RSS MB | samples of those due | longest pause ms | slowest scrape beside ms | refused beside | up |"


def nothing(_target: object, stop: object, _score: object) -> None:
    """What it is like without an attack."""
    stop.wait()  # type: ignore[attr-defined]


def line(name: str, seconds: float, one: Besieged) -> str:
    """Run one attack and tell of it."""
    attack = getattr(attacks, name, nothing)
    with attacks.attacking(attack, one.target, ATTACKS[name]) as score:
        seen = attacks.watch(one.daemon, seconds)
        up = one.up(seconds)[1]
    answers = " ".join(
        f"{status.decode() or 'closed'}: {count}" for status, count in score.answers.most_common(3)
    )
    due = seen.seconds / 0.2
    return (
        f"| {name} | {one.name} | {score.sent / seen.seconds:.0f} | {answers} | {seen.cpu:.2f} | {seen.rss_mb:.0f} | "
        f"{seen.samples / due:.0%} | {seen.longest_s * 1000:.0f} | {seen.slowest_s * 1000:.0f} | {seen.refused} | {up:.0f} |"
    )


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("attack", nargs="*", help=", ".join(ATTACKS))
    arguments.add_argument(
        "--seconds", type=float, help=f"for each ({FLOOD_S:.0f} and {OTHER_S:.0f})"
    )
    chosen = arguments.parse_args()
    print(HEAD)
    print("|---|---|" + "---:|---|" + "---:|" * 7)
    with tempfile.TemporaryDirectory() as place, besieged(Path(place) / "nodes") as both:
        for name in chosen.attack or ATTACKS:
            for one in both.values():
                if one.name == "plain" and name in ("guesses", "handshakes"):
                    continue
                seconds = chosen.seconds or (FLOOD_S if name == "scrapes" else OTHER_S)
                print(line(name, seconds, one), flush=True)


if __name__ == "__main__":
    main()
