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

        # not sys.exit: the interpreter gives SIGALRM back to the system while it winds up, and an
        # alarm that came then would end the hook with a status that drains the node
        os._exit(run_hook(sys.argv[2:], os.environ))
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Run one command and return its exit code; SystemExit for --help and wrong usage."""
    try:
        return _run(argv)
    finally:
        _let_go_of_stdout()


def _run(argv: list[str]) -> int:
    import logging

    from . import commands
    from .config import ConfigError, from_flags
    from .ledger import LedgerBusyError
    from .parser import parse
    from .plainlog import PlainFormatter

    args = parse(argv)
    try:
        config = from_flags(vars(args))
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(PlainFormatter("%(levelname).1s %(name)s: %(message)s"))
        logging.basicConfig(level=config.log_level.upper(), handlers=[handler])
        code = commands.COMMANDS[args.command](config, args)
        sys.stdout.flush()  # a full disk or a closed pipe is met here rather than at exit
    except BrokenPipeError:
        return 1  # nobody reads
    except ConfigError as err:
        print(f"jobwatt {args.command}: {err}", file=sys.stderr)
        return 2
    except (OSError, ValueError, LedgerBusyError) as err:
        print(f"jobwatt {args.command}: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _let_go_of_stdout() -> None:
    """What cannot be written is dropped: the interpreter would complain of it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
