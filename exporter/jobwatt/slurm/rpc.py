"""
The child process that asks slurmctld: ``python -m jobwatt.slurm.rpc JOBID ...``.

One line of JSON on stdout per job, as soon as it is known; one line on stderr and exit 1 where
slurmctld cannot be asked. It may hang and it may be killed at any moment: slurm/controller.py
keeps the time.

pyslurm where it can be imported and a slurm.conf is readable (without one the import ends the
process), else ``scontrol -o show job -d ID`` per job.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from jobwatt.slurm.answers import ASKABLE, AskError
from jobwatt.slurm.bypyslurm import by_pyslurm, load_pyslurm
from jobwatt.slurm.scontrol import by_scontrol
from jobwatt.slurm.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Answer each id in turn; the exit status is 1 where slurmctld could not be asked."""
    pyslurm = load_pyslurm()
    try:
        for jobid in (arg for arg in argv if ASKABLE.fullmatch(arg)):
            numeric = pyslurm is not None and jobid.isdecimal()
            answer = by_pyslurm(pyslurm, jobid) if pyslurm and numeric else by_scontrol(jobid)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    except AskError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    except ValueError as err:
        sys.stderr.write(f"an answer of slurm's could not be read: {clean(str(err), 200)}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
