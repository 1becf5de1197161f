"""Queries that may rightly give nothing in the demo, and why: (dashboard, panel, query)."""

_WEEK = "the day may be no weekend, or all of one"

RIGHTLY_EMPTY = {
    ("cluster", "Sources that deliver nothing", "A"): "all sources deliver",
    ("cluster", "What operators are told", "A"): "nothing may be broken at this moment",
    ("job", "When, and how it ended", "B"): "a running job has not ended",
    ("job", "When, and how it ended", "D"): "a running job has no state yet",
    ("job", "Clocks held down", "A"): "a cool GPU's never are",
    ("job", "What its owner is told", "A"): "a busy job's owner is told nothing",
    ("node", "Clocks held down", "A"): "a cool node's never are",
    ("node", "Errors of the sources", "A"): "all sources deliver",
    ("node", "State of each GPU", "D"): "XID events are counted once there is one",
    **{
        ("behaviour", panel, letter): _WEEK
        for panel in ("Energy by time", "Unused GPU time by time", "Share not used by time")
        for letter in "ABC"
    },
}
