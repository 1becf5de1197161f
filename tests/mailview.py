"""A mail as its reader sees it: the rows of both parts, and pictures by a headless browser."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

ARTIFACTS = Path(__file__).parent / "artifacts"
PHONE, DESKTOP = 390, 1000  # CSS pixels
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class _Tables(HTMLParser):
    """Cells of all rows; what only phones show is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.headers: list[str] = []
        self.scopes: list[str] = []
        self._hidden = self._cell = False

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self._cell = True
            self.rows[-1].append("")
            if tag == "th":
                self.scopes.append(given.get("scope", ""))
        elif tag == "span" and "display: none" in (given.get("style") or ""):
            self._hidden = True
        elif tag in {"br", "div"} and self._cell:
            self.rows[-1][-1] += "\n"

    def handle_endtag(self, tag):
        if tag in {"td", "th"}:
            self._cell = False
        elif tag == "span":
            self._hidden = False

    def handle_data(self, data):
        if self._cell and not self._hidden:
            self.rows[-1][-1] += data


def html_rows(text: str) -> list[dict[str, str]]:
    """The rows of the mail's tables, by column."""
    parser = _Tables()
    parser.feed(text)
    rows, names = [], []
    for row in parser.rows:
        cells = [" ".join(cell.split(" ")).strip() for cell in row]
        if cells[0] == "Job":
            names = cells
        else:
            rows.append(dict(zip(names, cells, strict=True)))
    return rows


# where the columns of the text part stand: they are aligned, whatever is in them
_COLUMNS = {
    "job": (2, 14), "GPUs": (15, 19), "held": (21, 32), "GPU hours": (33, 42), "kWh": (43, 51), "CO2e": (52, 60),
    "EUR": (61, 70), "nodes": (72, None),
}  # fmt: skip


def text_rows(text: str) -> list[dict[str, str]]:
    """The rows of the text part's tables, by column."""
    rows, within = [], False
    for line in text.splitlines():
        row = {name: line[slice(*span)].strip() for name, span in _COLUMNS.items()}
        if line.startswith("  job "):
            assert all(name == cell for name, cell in row.items()), line
            within = True
        elif within and re.match(r"  (?!and )\S", line):
            rows.append(row)
    return rows


def problems(text: str) -> list[str]:
    """What would keep a reader out: headings without scope, a language that is not said, anything fetched."""
    parser = _Tables()
    parser.feed(text)
    found = [f"scope {scope!r}" for scope in parser.scopes if scope not in {"col", "row"}]
    found += ["no lang"] * ('<html lang="en">' not in text)
    found += re.findall(r"<img|<script|<link|src=|url\(|@import|<iframe", text)
    return found


def picture(
    text: str, name: str, folder: Path, *, width: int, dark: bool, height: int = 1400
) -> int:
    """
    Draw the mail into tests/artifacts/NAME.png; returns the width it really takes, in CSS pixels.

    A frame has the width of the screen: a headless window cannot be narrower than 500 pixels.
    """
    if shutil.which("chromium") is None:
        pytest.skip("needs chromium, to draw the mail")
    ARTIFACTS.mkdir(exist_ok=True)
    page = folder / f"{name}.html"
    page.write_text(
        f'<meta charset="utf-8"><style>body {{ margin: 0 }} iframe {{ border: 0; color-scheme: {"dark" if dark else "light"} }}</style>'
        f'<iframe id="mail" width="{width}" height="{height}" srcdoc="{html.escape(text)}"></iframe>'
        "<script>onload = () => { const mail = document.getElementById('mail').contentDocument.documentElement;"
        " document.body.dataset.wide = mail.scrollWidth }</script>"
    )
    argv = [
        "chromium",
        *_FLAGS,
        f"--user-data-dir={folder}/{name}.profile",
        f"--window-size={max(width, 500)},{height}",
    ]
    if dark:
        argv.append("--blink-settings=preferredColorScheme=0")
    shot = ARTIFACTS / f"{name}.png"
    shot.unlink(missing_ok=True)
    subprocess.run(
        [*argv, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=180
    )
    assert shot.stat().st_size > 10_000
    drawn = subprocess.run(
        [*argv, "--dump-dom", page.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=180,
    )
    return int(re.search(r'data-wide="(\d+)"', drawn.stdout)[1])
