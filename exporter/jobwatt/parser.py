"""The grammar of the command line: commands, their flags and their help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from . import __version__
from .config import ConfigError, add_flags, nearest
from .kinds import duration

_EPILOG = """\
A first look, without installing anything:
  jobwatt doctor                 what can be measured here, what not, and how to mend it
  jobwatt once                   two samples, then the metrics page
  jobwatt serve --web.listen-address=127.0.0.1:9816
"""


class _Parser(argparse.ArgumentParser):
    """Names the nearest known flag where one is misspelt."""

    def error(self, message: str) -> NoReturn:
        flag = message.removeprefix("unrecognized arguments: ").split(" ")[0].split("=")[0]
        hint = (
            nearest(flag, self._option_string_actions) if message.startswith("unrecognized") else ""
        )
        # one line: the usage of some commands is forty
        self.exit(2, f"{self.prog}: error: {message}{hint} (see {self.prog} --help)\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line; a usage error prints one line and exits with 2."""
    parser = build(whole=not {"alerts", "compare", "demo", "sd"}.isdisjoint(argv))
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # said by the command's own parser, which knows what may have been meant
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def build(*, whole: bool = True) -> argparse.ArgumentParser:
    """Build the parser; unless ``whole`` without the flags of `alerts`, `compare`, `demo` and `sd`, whose modules the daemon does not need."""
    parser = _Parser(
        prog="jobwatt",
        description="Where every joule of a Slurm GPU node goes: per job and user.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jobwatt {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    _add(commands, "serve", "measure, account and serve the metrics page until stopped")
    _add(commands, "once", "two samples --sample.interval apart, then the metrics page on stdout")
    doctor = _add(commands, "doctor", "what is measured here, what is not, why, and what mends it")
    doctor.add_argument("--json", action="store_true", help="for scripts")
    _measuring(commands)
    _playing(commands)
    _alerting(commands, whole=whole)
    _showing(commands, whole=whole)
    _comparing(commands, whole=whole)
    _pricing(commands)
    _proxying(commands)
    _finding(commands, whole=whole)
    pseudonym = _add(
        commands,
        "pseudonym",
        "the pseudonym of each user, as pages show it with privacy.users=hash",
    )
    pseudonym.add_argument(
        "user", nargs="*", metavar="USER", help="user names (default: one a line on stdin)"
    )
    hook = commands.add_parser(
        "hook", help="for Slurm's Prolog and Epilog: tell the daemon that a job begins or ends"
    )
    hook.set_defaults(parser=hook)
    hook.add_argument("event", choices=["prolog", "epilog"])
    hook.add_argument(
        "--path.state",
        dest="path.state",
        metavar="DIR",
        help="as for serve (default /var/lib/jobwatt)",
    )
    return parser


def _measuring(commands: argparse._SubParsersAction[_Parser]) -> None:
    calibrate = _add(
        commands,
        "calibrate",
        "measure idle power on a drained node and keep it in the state directory",
    )
    calibrate.add_argument(
        "--duration",
        type=_duration,
        default="60s",
        metavar="TIME",
        help="how long to measure (default 60s)",
    )
    record = _add(commands, "record", "write snapshots of this node, one JSON object a line")
    record.add_argument("--out", metavar="FILE", help="file to write (default: stdout)")
    record.add_argument(
        "--duration",
        type=_duration,
        metavar="TIME",
        help="stop after this (default: when interrupted)",
    )
    release = _add(
        commands,
        "release-gpus",
        "have the daemon let go of the NVIDIA driver, so that GPUs can be reset",
    )
    release.add_argument("--resume", action="store_true", help="take the GPUs back now")


def _playing(commands: argparse._SubParsersAction[_Parser]) -> None:
    replay = _add(commands, "replay", "serve a recording instead of hardware")
    replay.add_argument(
        "recording",
        type=Path,
        metavar="FILE",
        help="what `jobwatt record` wrote (.jsonl or .jsonl.gz)",
    )
    replay.add_argument(
        "--once", action="store_true", help="play it through at once, print the metrics page, exit"
    )
    replay.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="times as fast as recorded (default 1)",
    )
    replay.add_argument("--loop", action="store_true", help="begin again at the end")


def _alerting(commands: argparse._SubParsersAction[_Parser], *, whole: bool) -> None:
    alerts = commands.add_parser(
        "alerts",
        help="a site's alert rules and mails: write them, see whom they would have reached, and whether people respond",
        allow_abbrev=False,
    )
    alerts.set_defaults(parser=alerts)
    if not whole:
        return
    from .alerts import render, replay, response  # noqa: PLC0415  90 ms and 2 MB that a daemon need not have

    actions = alerts.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_Parser
    )
    for name, text, module in (
        ("render", "write the rules and Alertmanager's files of a site", render),
        ("replay", "who would have been mailed over past data, when and about what", replay),
        (
            "response",
            "whether people waste less after their first mail, as sums of people",
            response,
        ),
    ):
        action = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
        )
        module.add_arguments(action)
        action.set_defaults(parser=action)


def _showing(commands: argparse._SubParsersAction[_Parser], *, whole: bool) -> None:
    text = "a whole simulated cluster on this machine: nodes, Prometheus, mails, dashboards, a week of history"
    demo = commands.add_parser(
        "demo", help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
    )
    demo.set_defaults(parser=demo)
    if whole:
        from .demo import options  # noqa: PLC0415  no part of the daemon

        options.add_arguments(demo)


def _pricing(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "the grid's carbon intensity as series of their own: one process per cluster asks, all scrape it"
    grid = _central(
        commands,
        "grid",
        text,
        ("grid.config", "zone and sources in TOML (docs/carbon.md)"),
        ":9818",
    )
    cache = "/var/lib/jobwatt/grid.json"
    grid.add_argument(
        "--grid.cache", dest="grid.cache", metavar="FILE", default=cache,
        help=f'the last figures; "" for none (default {cache})',
    )  # fmt: skip
    grid.add_argument(
        "--once",
        action="store_true",
        help="ask every source once, print the metrics page; exit 1 if no figure can be used",
    )


def _proxying(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "ask the BMCs of many nodes from the management network, and serve their power"
    _central(commands, "bmc-proxy", text, ("bmc.config", "the BMCs in TOML (docs/bmc.md)"), ":9817")


def _finding(commands: argparse._SubParsersAction[_Parser], *, whole: bool) -> None:
    text = "Slurm's nodes as Prometheus' targets: a file for file_sd and a page for http_sd, once per cluster"
    found = commands.add_parser(
        "sd", help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
    )
    found.set_defaults(parser=found)
    if whole:
        from .central.sd.settings import add_arguments  # noqa: PLC0415  no part of the daemon

        add_arguments(found)


def _central(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    text: str,
    config: tuple[str, str],
    address: str,
) -> _Parser:
    """Add a command that serves once per cluster, with its own file of settings."""
    parser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
    )
    parser.set_defaults(parser=parser)
    for flag, metavar, default, help_text in (
        (config[0], "FILE", None, config[1]),
        ("web.listen-address", "ADDRESS", address, "host:port to serve on"),
        ("web.config.file", "FILE", None, "TLS and basic auth, as for serve"),
        ("log.level", "LEVEL", "info", "debug, info, warning or error"),
    ):
        shown = f" (default {default})" if default else ""
        parser.add_argument(
            f"--{flag}", dest=flag, metavar=metavar, default=default, help=help_text + shown,
            required=flag == config[0],
        )  # fmt: skip
    return parser


def _comparing(commands: argparse._SubParsersAction[_Parser], *, whole: bool) -> None:
    text = "a job's energy beside what CodeCarbon, Carbontracker or Green Algorithms say of it, and why they differ"
    compare = commands.add_parser(
        "compare", help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
    )
    compare.set_defaults(parser=compare)
    if whole:
        from .central.compare.run import add_arguments  # noqa: PLC0415  no part of the daemon

        add_arguments(compare)


def _add(commands: argparse._SubParsersAction[_Parser], name: str, text: str) -> _Parser:
    parser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    add_flags(parser)
    parser.set_defaults(parser=parser)
    return parser


def _duration(text: str) -> int:
    try:
        return duration(text)
    except (ValueError, ConfigError) as err:
        raise argparse.ArgumentTypeError(str(err)) from err
