"""What Slurm's commands print, as Python values."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

FINISHED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    ]
)
_JOB = re.compile(r"(?m)^(?=JobId=\d)")
_NAMED = re.compile(r"(?s)(JobId=.*?) JobName=(.*) (UserId=[^\s(]+\(\d+\) GroupId=.*)")
_SLUID = re.compile(r" (SLUID=s[0-9A-Z]{13})\Z")  # between name and owner, since 25.11
_LAYOUT = re.compile(r" Nodes=(\S+) CPU_IDs=\S+ Mem=\d+ GRES=(\S*)")
_IDX = re.compile(r"\(IDX:([0-9,-]+)\)")


def split_jobs(text: str) -> list[str]:
    """One text per job of `scontrol -o show job`, also where a name holds a newline."""
    return [part.strip() for part in _JOB.split(text) if part.startswith("JobId=")]


def fields(job: str) -> dict[str, str]:
    """The Key=Value pairs of one job; the name whole, whatever it holds, of the others the first word."""
    found = _NAMED.fullmatch(job)
    if not found:
        raise ValueError(f"not a job of scontrol: {job[:80]!r}")
    name, *sluid = _SLUID.split(found[2])[:2]
    # free text stands behind Slurm's own words (SubmitLine, since 25.11): the first of a key counts
    text = " ".join([found[1], *sluid, found[3]])
    pairs = re.findall(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)", text)
    return dict(reversed(pairs)) | {"JobName": name}


def numbers(text: str) -> tuple[int, ...]:
    """Slurm's list of ranges: `0-2,5` is 0, 1, 2, 5."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def hosts(text: str) -> list[str]:
    """Slurm's host list: `gpu[01-02],cpu01` is gpu01, gpu02, cpu01."""
    found: list[str] = []
    for stem, ranges, plain in re.findall(r"([^,\[\]]+)\[([^\]]+)\]|([^,\[\]]+)", text):
        if plain:
            found.append(plain)
            continue
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            width = len(first)
            found += [f"{stem}{n:0{width}}" for n in range(int(first), int(last or first) + 1)]
    return found


def gpu_layout(job: str) -> dict[str, tuple[int, ...]]:
    """GPU indices per node from `scontrol -d show job`; empty once the job has ended."""
    layout: dict[str, tuple[int, ...]] = {}
    for nodes, gres in _LAYOUT.findall(job):
        gpus = tuple(index for part in _IDX.findall(gres) for index in numbers(part))
        layout.update(dict.fromkeys(hosts(nodes), gpus))
    return layout


def rows(text: str, names: list[str], delimiter: str) -> list[dict[str, str]]:
    """Rows of `sacct -p`, whose every field ends with the delimiter."""
    values = text.split(delimiter)[:-1]
    width = len(names)
    lines = [values[start : start + width] for start in range(0, len(values), width)]
    return [dict(zip(names, [line[0].lstrip("\n"), *line[1:]], strict=True)) for line in lines]


@dataclass(slots=True)
class Seen:
    """What scontrol said of one job while it lived."""

    states: list[str] = field(default_factory=list)
    gpus: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


class Recorder:
    """
    Polls `scontrol -o -d show job` and remembers, per raw job id, the states and the GPU layout.

    A job shorter than `period` seconds may never be seen running.
    """

    def __init__(self, show: Callable[[], str], period: float = 0.3) -> None:
        self._show = show
        self._period = period
        self._seen: dict[int, Seen] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slurm-recorder", daemon=True)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def seen(self, jobid: int) -> Seen:
        """What is known of a job by now."""
        return self._seen.get(jobid, Seen())

    def jobs(self) -> dict[int, Seen]:
        """All that is known by now."""
        return dict(self._seen)

    def poll(self) -> None:
        """Look once."""
        for job in split_jobs(self._show()):
            facts = fields(job)
            seen = self._seen.setdefault(int(facts["JobId"]), Seen())
            if seen.states[-1:] != [facts["JobState"]]:
                seen.states.append(facts["JobState"])
            seen.gpus.update((node, gpus) for node, gpus in gpu_layout(job).items() if gpus)
            seen.fields = facts

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self.poll()
