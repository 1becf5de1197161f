"""CPU time summed from processes' own times: exact where looked at each time, and never going back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobwatt.slurm.procstat import NS_PER_TICK, CpuTally, Stat, parse_stat


def test_parse_stat_hostile_name():
    """A name with spaces and parentheses does not move the fields."""
    numbers = " ".join(str(n) for n in range(4, 53))
    stat = parse_stat(f"77 (a) R (b c) ) S {numbers}".encode())
    assert stat == Stat(b"a) R (b c) ", 4, 14 + 15, 16 + 17, 22, 24)


class Forest:
    """Processes that burn, fork and end; knows the true sum."""

    def __init__(self):
        self.live = {1: [0, 0, 0, 0]}  # pid -> ppid, own, waited, start
        self.true = 0
        self.next = 2

    def act(self, kind, which, amount):
        pid = sorted(self.live)[which % len(self.live)]
        if kind == "burn":
            self.live[pid][1] += amount
            self.true += amount
        elif kind == "fork":
            self.live[self.next] = [pid, 0, 0, self.next]
            self.next += 1
        elif len(self.live) > 1:
            ppid, own, waited, _ = self.live.pop(pid)
            if kind == "wait" and ppid in self.live:
                self.live[ppid][2] += own + waited

    def stats(self):
        return {p: Stat(b"x", pp, o, w, s, 0) for p, (pp, o, w, s) in self.live.items()}


acts = st.lists(
    st.tuples(
        st.sampled_from(["burn", "fork", "wait", "die"]), st.integers(0, 9), st.integers(1, 9)
    ),
    max_size=40,
)


@given(acts)
def test_tally_seen_each_time_is_exact(steps):
    """Looked at after every event, the tally is the CPU time burnt, to the tick."""
    forest, tally = Forest(), CpuTally()
    for step in steps:
        forest.act(*step)
        assert tally.update(forest.stats()) == forest.true * NS_PER_TICK


@given(st.lists(acts, max_size=8))
def test_tally_never_goes_back(rounds):
    """Looked at now and then, the tally never shrinks and never counts what was not burnt."""
    forest, tally, last = Forest(), CpuTally(), 0
    for steps in rounds:
        for step in steps:
            forest.act(*step)
        now = tally.update(forest.stats())
        assert last <= now <= forest.true * NS_PER_TICK
        last = now
