"""
The command line: parsing, dispatch, and the only place that knows exit codes.

0: done; 1: could not be done (one line on stderr says why); 2: wrong flag, key or argument.
Data goes to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import os
import sys


def entry() -> None:
    """Run the command line and exit."""
    if sys.argv[1:2] == ["hook"]:
        # Slurm waits for this: nothing else is imported, and it ends with 0 whatever happens
        from .slurm.hooks import run_hook

        sys.exit(run_hook(sys.argv[2:], os.environ))
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    import logging

    from . import commands
    from .config import ConfigError, from_flags
    from .ledger import LedgerBusyError
    from .parser import parse

    args = parse(argv)
    try:
        config = from_flags(vars(args))
        logging.basicConfig(
            level=config.log_level.upper(),
            stream=sys.stderr,
            format="%(levelname).1s %(name)s: %(message)s",
        )
        return commands.COMMANDS[args.command](config, args)
    except ConfigError as err:
        print(f"jobwatt {args.command}: {err}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # nobody reads: no traceback at exit
        return 1
    except (OSError, ValueError, LedgerBusyError) as err:
        print(f"jobwatt {args.command}: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
