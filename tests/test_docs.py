"""The documentation says what is true: its tables, commands, flags, names, files and links."""

from __future__ import annotations

import argparse
import ast
import json
import re
from functools import cache

import pytest

import docs
from docpages import (  # fmt: skip
    DOCS,
    MORE,
    PAGES,
    README,
    ROOT,
    anchors,
    blocks,
    commands,
    links,
    name,
    prose,
    spans,
    words,
)
from jobwatt.alerts import site
from jobwatt.cli import main
from jobwatt.config import from_flags, settings
from jobwatt.ledger import MIGRATIONS
from jobwatt.metrics import CATALOGUE
from jobwatt.parser import build

# Written beside these: a link to one that is not there yet is let pass, and nothing else is.
TO_COME = {"fuzzing"}
# What docs/extending.md adds in its example.
EXAMPLE = {"jobwatt_fan_speed_hertz", "JobwattFanStopped", "source.fans", "fans.directory"}
EXAMPLE_FILES = ("exporter/jobwatt/sources/fans.py", "tests/test_fans.py", "tests/rules/ops-fans.yaml",
                 "grafana/dashboards/fans.json", "grafana/src/dashboards/fans.py", "alerts/runbooks/JobwattFanStopped.md")  # fmt: skip
# Flags of other programs that look like settings of ours.
FOREIGN = {"web.enable-admin-api", "config.expand-environment-variables", "cluster.peer"}
each_page = pytest.mark.parametrize("page", PAGES + MORE, ids=name)


@cache
def parser() -> argparse.ArgumentParser:
    return build()


@cache
def parsers(path: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """The parser of a command, or of its sub-command."""
    found = parser()
    for word in path:
        (sub,) = (a for a in found._actions if isinstance(a, argparse._SubParsersAction))
        found = sub.choices[word]
    return found


def sub_commands(path: tuple[str, ...] = ()) -> dict[str, argparse.ArgumentParser]:
    for action in parsers(path)._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


# --- what is generated ---------------------------------------------------------------------------


@each_page
def test_generated_parts_are_up_to_date(page):
    """Tables of metrics, settings, alerts, dashboards and examples are the code's own (`make docs`)."""
    text = page.read_text()
    assert docs.written(text) == text, "run `make docs`"


def test_every_generated_part_is_on_a_page():
    """Nothing is generated that nobody reads."""
    there = {part for page in PAGES for _, part, _ in docs.PART.findall(page.read_text())}
    assert there == docs.PARTS.keys()


def test_every_metric_has_a_writer():
    """Each metric of the catalogue is written by a module, which the reference names."""
    assert [metric for metric in CATALOGUE if not docs.written_by(metric)] == []


@pytest.mark.parametrize("command", sub_commands())
def test_every_command_is_documented(command):
    """Each command is named in the README."""
    assert f"jobwatt {command}" in README.read_text()


def test_every_page_is_in_the_index():
    """docs/README.md leads to each page beside it."""
    index = ROOT / "docs/README.md"
    assert {page.name for page in DOCS} - {index.name} <= {link.partition("#")[0] for link in links(index)}  # fmt: skip


def test_every_version_of_the_ledger_is_told():
    """docs/upgrade.md has a row for each version of the ledger, up to the newest."""
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/upgrade.md").read_text(), re.MULTILINE)
    assert list(map(int, rows)) == list(range(1, len(MIGRATIONS) + 1))


def test_the_readmes_page_is_real():
    """The piece of a page in the README is of the golden page that it names."""
    (piece,) = (block.text for block in blocks(README, "") if block.text.startswith("jobwatt_"))
    golden = (ROOT / "tests/golden/mig.prom").read_text().splitlines()
    assert set(piece.splitlines()) <= set(golden)


# --- links and files -----------------------------------------------------------------------------


@each_page
def test_links_lead_somewhere(page):
    """A link's file is there, and so is its anchor."""
    for link in links(page):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target.parent == ROOT / "docs" and target.stem in TO_COME and not target.exists():
            continue
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@each_page
def test_files_exist(page):
    """A file or a folder of the tree that a page names is there."""
    folders = "exporter|tests|alerts|grafana|helm|packaging|docs|interop"
    named = re.findall(rf"(?<![\w/.@])((?:{folders})/[\w.*/-]+[\w*/])", page.read_text())
    for path in set(named) - set(EXAMPLE_FILES):
        if "NAME" in path or path in {f"docs/{page}.md" for page in TO_COME}:
            continue
        found = path.rstrip("/*") if not path.endswith("/*.json") else path
        assert list(ROOT.glob(found)) or (page.parent / path).exists(), path


@each_page
def test_make_targets_exist(page):
    """A make target that a page names is in the Makefile."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", page.read_text())) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


# --- names -----------------------------------------------------------------------------------------


@each_page
def test_metrics_exist(page):
    """A metric or a recorded series that a page names is one of ours; `jobwatt_gpu_*` names several."""
    known = CATALOGUE.keys() | docs.recorded().keys() | EXAMPLE
    for found in re.finditer(
        r"\bjobwatt[_:][a-z0-9_:]*[a-z0-9_](?![\w-]*\.)(.?)", page.read_text()
    ):
        word = found[0].removesuffix(found[1])
        if re.match(r"jobwatt_(\d|version|amd64)|jobwatt:jobwatt", word) or word in known:
            continue
        begun = found[1] in "*({'.:" and any(one.startswith(word) for one in known)
        assert begun or _is_begun(word, page, known), word


def _is_begun(word: str, page, known) -> bool:
    """Whether the word is the beginning of names that a command looks for."""
    lines = [line for block in blocks(page) for line in block.text.splitlines() if word in line]
    lines += [line for line in page.read_text().splitlines() if word in line]
    asked = any("grep" in line or word.endswith("_") for line in lines)
    return asked and any(one.startswith(word) for one in known)


def own_flags() -> set[str]:
    """Flags with a dot of commands that have settings of their own."""
    options = (
        option for name in sub_commands() for option in parsers((name,))._option_string_actions
    )
    return {option.removeprefix("--") for option in options if "." in option}


def chart_values() -> set[str]:
    """The chart's values by their dotted names."""

    def walk(schema, before):
        for key, inner in schema.get("properties", {}).items():
            yield before + key
            yield from walk(inner, f"{before}{key}.")

    return set(walk(json.loads((ROOT / "helm/jobwatt/values.schema.json").read_text()), ""))


@each_page
def test_settings_exist(page):
    """A setting that a page names, as the file's key or as a flag, is one of the table's."""
    known = {setting.metadata["name"] for setting in settings()} | EXAMPLE | chart_values()
    known |= {"config.file", *FOREIGN, *own_flags()}
    known |= {f"{section}.{f.metadata['name'] or f.name}" for section, kind in site._SECTIONS.items() for f in site.fields(kind)}  # fmt: skip
    sections = "|".join({one.partition(".")[0] for one in known})
    for span in spans(page):
        for word in re.findall(
            rf"^(?:--)?(?:no-)?((?:{sections})\.[a-z][a-z._-]*[a-z])(?:[=: ].*)?$", span
        ):
            suffix = word.rpartition(".")[2]
            if suffix not in {"toml", "yml", "yaml", "json", "py", "md", "conf", "service", "db", "pid", "js", "jsx"} or word in known:  # fmt: skip
                assert word in known, span


@each_page
def test_alerts_exist(page):
    """An alert that a page names is a rule, one of ours or one that the page itself writes down."""
    named = set(re.findall(r"\bJobwatt[A-Z]\w+", page.read_text()))
    here = {
        name for block in blocks(page, "yaml") for name in re.findall(r"- alert: (\w+)", block.text)
    }
    assert named <= docs.alerts().keys() | EXAMPLE | here


def test_every_alert_and_dashboard_is_linked():
    """Runbooks are reached from docs/alerts.md, pictures of dashboards from docs/dashboards.md."""
    there = set(links(ROOT / "docs/alerts.md"))
    assert {f"../alerts/runbooks/{alert}.md" for alert in docs.alerts()} <= there
    pictures = {
        f"../grafana/screenshots/{p.stem}.png" for p in (ROOT / "grafana/dashboards").glob("*.json")
    }
    assert pictures <= set(links(ROOT / "docs/dashboards.md"))


# --- command lines -----------------------------------------------------------------------------------


@each_page
def test_command_lines_parse(page, tmp_path, monkeypatch):
    """Each command line of ours in a block is one that the real parser takes, its values included."""
    monkeypatch.chdir(tmp_path)
    for argv in commands(page):
        if argv[:1] == ["hook"]:
            assert argv[1] in {"prolog", "epilog"}
            continue
        if EXAMPLE & {word.removeprefix("--").partition("=")[0] for word in argv}:
            continue
        try:
            args, unknown = parser().parse_known_args(argv)
        except SystemExit:
            pytest.fail(f"jobwatt {' '.join(argv)}")
        assert not unknown, argv
        given = vars(args)
        from_flags({**given, "config.file": None})


@each_page
def test_flags_in_the_text_exist(page):
    """A command that the text names takes the flags that are named with it."""
    for span in spans(page):
        if not span.startswith("jobwatt ") or any(one in span for one in EXAMPLE):
            continue
        said = words(span.replace("`", "").replace("'", " "))
        path: tuple[str, ...] = ()
        while said and said[0] in sub_commands(path):
            path += (said.pop(0),)
        if not path:
            # COMMAND, or a flag of jobwatt itself
            assert any(word.isupper() or word.startswith("--") for word in said[:1]), span
        known = parsers(path)._option_string_actions
        flags = [word.partition("=")[0] for word in said if word.startswith("--")]
        assert all(flag in known for flag in flags), span


def test_help_names_pages_that_exist(capsys):
    """A page that the command line's help names is there."""
    for command in sub_commands():
        with pytest.raises(SystemExit):
            main([command, "--help"] if command != "hook" else ["alerts", "--help"])
        said = capsys.readouterr().out
        assert all((ROOT / page).exists() for page in re.findall(r"docs/\w+\.md", said))


# --- messages ------------------------------------------------------------------------------------------


@cache
def said_by_the_code() -> str:
    """Every text of the package, what is filled in as an ellipsis."""
    texts = []
    for path in (ROOT / "exporter/jobwatt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))  # fmt: skip
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_messages_are_the_codes_own():
    """What troubleshooting.md says that the log says is in the code, between the ellipses word by word."""
    text = prose(ROOT / "docs/troubleshooting.md")
    tables = re.findall(r"\| the log or `doctor` says \| do \|\n\|[-|]+\|\n((?:\|.*\n)+)", text)
    messages = [line.split("`")[1] for table in tables for line in table.splitlines()]
    assert len(messages) > 20
    for message in messages:
        for piece in re.split(r"…|\.\.\.", message):
            if len(piece.strip(" ;:,()?")) > 5:
                assert piece.strip(" ;:,()?") in said_by_the_code(), message
