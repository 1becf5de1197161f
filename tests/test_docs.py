"""The README says what is true: its table, its commands, its example."""

from __future__ import annotations

import argparse
import re

import pytest

import docs
from jobwatt.config import settings
from jobwatt.parser import build

TEXT = docs.README.read_text()


def commands():
    parser = build()
    actions = [action for action in parser._actions if action.dest == "command"]
    return actions[0].choices


def parsers(parser):
    """A parser and those of its sub-commands, and theirs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def test_metric_table_is_the_catalogue():
    """Every metric is documented, as the catalogue has it (`make docs`)."""
    assert docs.written(TEXT) == TEXT


@pytest.mark.parametrize("name", commands())
def test_every_command_is_documented(name):
    """Each command is named in the README."""
    assert f"jobwatt {name}" in TEXT


def test_every_flag_in_the_readme_exists():
    """A flag that the README names is one that the command line takes."""
    known = {f"--{s.metadata['name']}" for s in settings()}
    known |= {option for parser in parsers(build()) for option in parser._option_string_actions}
    named = set(
        re.findall(
            r"--(?:no-)?[a-z]+(?:\.[a-z-]+)*[a-z]",
            " ".join(re.findall(r"`[^`]*jobwatt [^`]*`|^ *jobwatt .*$", TEXT, re.MULTILINE)),
        )
    )
    assert named <= known | {"--version"}


def test_make_targets_in_the_readme_exist():
    """A make target that the README names is in the Makefile."""
    targets = set(
        re.findall(r"^([a-z-]+):", (docs.README.parent / "Makefile").read_text(), re.MULTILINE)
    )
    assert set(re.findall(r"`make ([a-z-]+)`", TEXT)) <= targets
