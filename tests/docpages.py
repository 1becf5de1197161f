"""The pages of the documentation as tests see them: blocks of code, links, anchors, command lines."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS]
# What others link to or are read beside the pages: their links are looked at, too.
MORE = [
    ROOT / "alerts/README.md",
    ROOT / "grafana/README.md",
    ROOT / "grafana/preview/README.md",
    ROOT / "helm/jobwatt/README.md",
    *sorted((ROOT / "alerts/runbooks").glob("*.md")),
]
_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
# what stands before a command of ours: a prompt, another user, another machine, a pod
_BEFORE = re.compile(
    r"^(?:\$ |sudo |exec |runuser -u jobwatt -- |ssh \S+ |\[ -x /usr/bin/jobwatt \] && /usr/bin/|kubectl .*? -- )*"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code; ``line`` is that of its first line."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """PAGE: first line; stays while lines move."""
        return f"{self.page.name}: {self.text.strip().splitlines()[0].strip()}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """The fenced blocks of these languages, or all."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        indent, language, body = found.groups()
        if not languages or language in languages:
            plain = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
            yield Block(page, text.count("\n", 0, found.start(3)) + 1, language, plain)


def prose(page: Path) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """Code within the text."""
    return _SPAN.findall(prose(page))


def links(page: Path) -> list[str]:
    """Where links and pictures lead, fenced blocks and code left out."""
    return _LINK.findall(_SPAN.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found


def indented(page: Path) -> list[str]:
    """Lines of blocks that are indented instead of fenced."""
    return re.findall(r"^ {4}(\S(?:.*\\\n)*.*)$", prose(page), re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Our own command lines in blocks, split into words: whole ones, fit for the parser."""
    text = [block.text for block in blocks(page, "sh", "console", "")]
    lines = [*"\n".join(text).replace("\\\n", " ").splitlines(), *(i.replace("\\\n", " ") for i in indented(page))]  # fmt: skip
    for line in lines:
        command = _BEFORE.sub("", line.strip())
        if command.startswith("jobwatt ") and not command.startswith("jobwatt_"):
            yield words(command)


def words(command: str) -> list[str]:
    """The words after ``jobwatt``, up to a comment, a pipe, a redirection or another command; `...` is left out."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found = []
    for word in lexer:
        if set(word) <= set("|;&<>"):
            break
        found.append(word)
    return [word for word in found[1:] if word != "..."]
