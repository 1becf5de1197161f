"""
Man pages from the parser and the table of settings: run by the packages' build, never committed.

    python manpages.py OUTDIR

jobwatt(1), a page per command, and jobwatt.toml(5). The macros are man(7)'s.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jobwatt import __version__
from jobwatt.config import settings
from jobwatt.parser import build

if TYPE_CHECKING:
    from collections.abc import Iterator

Pages = dict[str, str]


def roff(text: str) -> str:
    """Text as man(7) takes it: no line that is a macro by accident, hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return re.sub(r"^(?=[.'])", "\\&", text, flags=re.MULTILINE)


def page(name: str, section: int, summary: str, body: list[str]) -> str:
    """One page."""
    head = f'.TH {roff(name.upper())} {section} "" "jobwatt {__version__}"'
    return "\n".join([head, ".SH NAME", f"{roff(name)} \\- {roff(summary)}", *body, ""])


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, summary and parser of what comes below ``parser``."""
    for action in parser._actions:  # noqa: SLF001  argparse has no other way in
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            told = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001
            for name, child in action.choices.items():
                yield name, told.get(name, ""), child


def synopsis(parser: argparse.ArgumentParser) -> list[str]:
    """The usage line, for one paragraph."""
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    if len(usage) > 400:  # dozens of flags: they are listed below anyway
        words = [action.metavar or action.dest for action in parser._get_positional_actions()]  # noqa: SLF001
        usage = " ".join([parser.prog, "[FLAGS]", *map(str, words)])
    return [".SH SYNOPSIS", roff(usage)]


def options(parser: argparse.ArgumentParser) -> list[str]:
    """Every flag and argument with its help, by argparse's groups."""
    lines = []
    for group in parser._action_groups:  # noqa: SLF001
        actions = [one for one in group._group_actions if one.help != argparse.SUPPRESS]  # noqa: SLF001
        actions = [one for one in actions if not isinstance(one, argparse._SubParsersAction)]  # noqa: SLF001
        if not actions:
            continue
        lines += [f".SH {roff((group.title or 'options').upper())}"]
        lines += [roff(group.description)] if group.description else []
        for action in actions:
            lines += [".TP", _term(action), roff(_help(parser, action))]
    return lines


def _term(action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar or action.choices or action.dest)]
    if not action.option_strings and action.choices and not action.metavar:
        names = ["|".join(map(str, action.choices))]
    value = ""
    if action.option_strings and action.nargs != 0:
        value = f" \\fI{roff(str(action.metavar or action.dest.upper()))}\\fR"
    return ", ".join(f"\\fB{roff(name)}\\fR{value}" for name in names)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = action.help or "which one"
    values = {**vars(action), "prog": parser.prog}
    return text % values


def command_pages(parser: argparse.ArgumentParser) -> Pages:
    """A page for each command, those below it with it."""
    pages = {}
    for name, summary, child in commands(parser):
        full = f"jobwatt-{name}"
        body = [*synopsis(child), ".SH DESCRIPTION", roff(child.description or f"{summary}.")]
        body += options(child)
        for action, text, below in commands(child):
            body += [f".SH {roff(f'{full} {action}'.upper())}", roff(text), *options(below)]
        body += [".SH SEE ALSO", "\\fBjobwatt\\fR(1), \\fBjobwatt.toml\\fR(5)"]
        pages[f"{full}.1"] = page(full, 1, summary, body)
    return pages


def main_page(parser: argparse.ArgumentParser) -> str:
    """jobwatt(1)."""
    body = [*synopsis(parser), ".SH DESCRIPTION", roff(parser.description or ""), ".SH COMMANDS"]
    for name, summary, _ in commands(parser):
        body += [".TP", f"\\fBjobwatt\\-{roff(name)}\\fR(1)", roff(summary)]
    body += [*options(parser), ".SH EXAMPLES", ".nf", roff(parser.epilog or ""), ".fi"]
    body += [".SH FILES", ".TP", roff("/etc/jobwatt/jobwatt.toml"), "settings of the daemon"]
    body += [".TP", roff("/var/lib/jobwatt"), "the account, calibration and records of hooks"]
    body += [".SH EXIT STATUS", "0: done; 1: could not be done; 2: wrong flag, key or argument."]
    return page("jobwatt", 1, "where every joule of a Slurm GPU node goes", body)


def settings_page() -> str:
    """jobwatt.toml(5)."""
    body = [
        ".SH DESCRIPTION",
        roff("Settings in TOML, read by --config.file; a flag beats the file."),
    ]
    body += [".PP", "A key that is not known is refused.", ".SH KEYS"]
    for setting in settings():
        meta = setting.metadata
        shown = {True: "true", False: "false"}.get(meta["shown"], f'"{meta["shown"]}"')
        body += [".TP", f"\\fB{roff(meta['name'])}\\fR = {roff(shown)}", roff(meta["help"])]
    body += [".SH EXAMPLE", ".nf", "[web]", roff('listen-address = "127.0.0.1:9816"'), ".fi"]
    body += [".SH SEE ALSO", "\\fBjobwatt\\-serve\\fR(1)"]
    return page("jobwatt.toml", 5, "settings of jobwatt", body)


def main(out: Path) -> None:
    """Write all pages into ``out``."""
    parser = build()
    pages = {
        "jobwatt.1": main_page(parser),
        **command_pages(parser),
        "jobwatt.toml.5": settings_page(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
