"""Panels that may rightly show nothing in the demo, and why."""

RIGHTLY_EMPTY = {
    ("cluster", "Sources that deliver nothing"): "all sources deliver",
    ("cluster", "What operators are told"): "nothing may be broken at this moment",
    ("job", "When, and how it ended"): "a running job has no end and no state yet",
    ("job", "Clocks held down"): "a cool GPU's never are",
    ("job", "What its owner is told"): "a busy job's owner is told nothing",
    ("user", "Power by component"): "the user may have no job now",
    ("node", "Clocks held down"): "a cool node's never are",
    ("node", "Errors of the sources"): "all sources deliver",
    ("node", "State of each GPU"): "XID events are counted once there is one",
    (
        "node",
        "GPU energy counter against power",
    ): "left out of the history, there once the nodes live",
    (
        "balance",
        "Nodes with a wall meter: the meter against the account",
    ): "nothing exceeds the wall",
    ("behaviour", "Energy by time"): "the day may be no weekend, or all of one",
    ("behaviour", "Unused GPU time by time"): "the same",
    ("behaviour", "Share not used by time"): "the same",
    ("behaviour", "GPU hours by use"): "a class of use may not occur",
}
