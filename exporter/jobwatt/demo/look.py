"""How the demo's own pages look: the nodes' page's style, and a little more."""

from __future__ import annotations

from html import escape

from ..page import STYLE

_MORE = """
.list td,.list th{padding:.3rem .75rem .3rem 0;vertical-align:baseline;overflow-wrap:anywhere}
.list thead th{color:var(--soft);font-size:.8125rem;border-bottom:1px solid var(--line)}
.list tbody th{color:var(--soft);white-space:nowrap}
.two{display:grid;grid-template-columns:1fr 1fr;gap:0 1rem;align-items:start}
.tiles{display:flex;flex-wrap:wrap;gap:.5rem;list-style:none;margin:0;padding:0}
.tiles a{display:block;border:1px solid var(--line);border-radius:8px;padding:.45rem .8rem;
text-decoration:none}
.tiles a:hover{border-color:var(--link)}
iframe{width:100%;height:44rem;border:1px solid var(--line);border-radius:6px;background:#fff;
resize:vertical;color-scheme:light dark}
pre{overflow-x:auto;margin:0;font-size:.8125rem;line-height:1.4}
ol,ul{margin:0;padding-left:1.2rem}
li{margin:.25rem 0}
@media(max-width:46rem){.two{grid-template-columns:1fr}}
"""
_ODD = "\N{REPLACEMENT CHARACTER}"


def policy(script: str = "") -> str:
    """Content security policy of a page; ``script``: the nonce of its own script."""
    scripts = f"script-src 'nonce-{script}'; connect-src 'self'; " if script else ""
    return (
        f"default-src 'none'; {scripts}style-src 'unsafe-inline'; img-src data:; frame-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def text(value: object) -> str:
    """Escape; what is no printable character is shown as such."""
    return escape("".join(char if char.isprintable() else _ODD for char in str(value)))


def page(title: str, about: str, body: str, *, refresh_s: int = 0) -> str:
    """A whole page. ``title`` is plain text; ``about`` and ``body`` are HTML."""
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    home = '<a href="/">jobwatt demo</a> · ' if title != "jobwatt demo" else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{refresh}<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{STYLE}{_MORE}</style></head><body>"
        f"<header><h1>{text(title)}</h1><p>{home}{about}</p></header><main>{body}</main></body></html>"
    )
