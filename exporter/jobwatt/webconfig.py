"""
The file behind ``--web.config.file``: TLS, client certificates, users and headers.

The format is the exporter-toolkit's, which Prometheus and its exporters share:
https://prometheus.io/docs/prometheus/latest/configuration/https/. What that format allows and
OpenSSL cannot do is refused, never silently weakened. The file and the certificates it names are
read again when they change.
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from .websection import NOT_YAML, Section, UniqueLoader, WebConfigError
from .webtls import TlsConfig, parse_tls, ssl_context

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

RETRY_S = 10.0  # a file that could not be read again is tried again this often

_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")
_HEADERS = (
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The whole file. ``users``: name -> bcrypt hash."""

    tls: TlsConfig | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def authenticates(self) -> bool:
        """Whether a client must prove who it is."""
        return bool(self.users) or (
            self.tls is not None and self.tls.client_auth is ssl.CERT_REQUIRED
        )


def parse(text: str, path: Path) -> WebConfig:
    """
    Return the configuration in ``text``; an empty file is valid and protects nothing.

    ``path`` is where the text came from: for messages, and its directory is what the paths in
    the text are relative to.
    """
    try:
        document = yaml.load(text, Loader=UniqueLoader)  # noqa: S506 a SafeLoader
    except yaml.MarkedYAMLError as err:
        line = f"line {err.problem_mark.line + 1}: " if err.problem_mark else ""
        raise WebConfigError(f"{path}: {line}{_unquoted(err.problem or '')}") from None
    except NOT_YAML as err:
        raise WebConfigError(f"{path}: not YAML ({type(err).__name__})") from None
    top = Section(
        path, "", document, ("tls_server_config", "http_server_config", "basic_auth_users")
    )
    return WebConfig(
        tls=parse_tls(path, top.values.get("tls_server_config")),
        headers=_headers(path, top.values.get("http_server_config")),
        users=_users(top, top.values.get("basic_auth_users")),
    )


def _unquoted(problem: str) -> str:
    """Leave out what the parser repeats of the file, a password that begins with * perhaps; a key may stay."""
    return problem if problem.endswith("is given twice") else re.sub(r" ?'[^']*'", "", problem)


def _headers(path: Path, value: object) -> dict[str, str]:
    section = Section(path, "http_server_config", value, ("http2", "headers"))
    section.flag("http2", default=True)  # this server speaks HTTP/1.1 either way
    headers = Section(path, "http_server_config.headers", section.values.get("headers"), _HEADERS)
    found = {name: headers.string(name) for name in headers.values}
    for name, text in found.items():
        if not text.isprintable() or not text.isascii():
            raise headers.error(name, "must be one line of plain ASCII")
    return {name: text for name, text in found.items() if text}


def _users(top: Section, value: object) -> dict[str, bytes]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise top.error("basic_auth_users", "must be a mapping of user names to bcrypt hashes")
    for name, hashed in value.items():
        key = f"basic_auth_users.{name}"
        if not isinstance(name, str) or not name or ":" in name:
            raise top.error(key, "a user name is a string without a colon; put it in quotes")
        if not isinstance(hashed, str) or not _HASH.fullmatch(hashed):
            raise top.error(
                key, "not a bcrypt hash; make one with: htpasswd -nBC 10 '' | tr -d ':'"
            )
    return {name: hashed.encode() for name, hashed in value.items()}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration in force, its TLS context, and the state of the files it came from."""

    config: WebConfig
    context: ssl.SSLContext | None
    stamps: Mapping[Path, tuple[int, int, int] | None]


def load(path: Path) -> Loaded:
    """Read, check and open everything; WebConfigError where something is not right."""
    # Stamps are taken before reading: a change in between shows as one the next time.
    stamps = {path: _stamp(path)}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as err:
        raise WebConfigError(f"{path}: not UTF-8 text") from err
    except OSError as err:
        raise WebConfigError(f"{path}: {err.strerror}; correct --web.config.file") from err
    config = parse(text, path)
    if config.tls is None:
        return Loaded(config, None, stamps)
    stamps.update((file, _stamp(file)) for file in config.tls.files())
    return Loaded(config, ssl_context(config.tls, path), stamps)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


class WebConfigFile:
    """
    The file, kept in step with the disk.

    A renewed certificate or a new user counts from the next connection on. What cannot be read,
    or would take protection away (a half-written file is an empty one), is logged once, and what
    was in force stays in force.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._loaded = load(path)
        self._complaint = ""
        self._retry_at = 0.0

    def current(self) -> Loaded:
        """Return what is in force now. Costs a stat per file; never raises."""
        with self._lock:
            stamps = self._loaded.stamps
            changed = any(_stamp(file) != stamp for file, stamp in stamps.items())
            if changed and time.monotonic() >= self._retry_at:
                self._reload()
            return self._loaded

    def _reload(self) -> None:
        try:
            loaded = load(self._path)
            self._refuse_less(loaded.config)
        except WebConfigError as err:
            self._retry_at = time.monotonic() + RETRY_S
            if str(err) != self._complaint:
                log.error("%s; what was read before stays in force", err)  # noqa: TRY400 the line says it all
            self._complaint = str(err)
            return
        self._loaded, self._complaint, self._retry_at = loaded, "", 0.0
        log.info("%s: read again", self._path)

    def _refuse_less(self, new: WebConfig) -> None:
        old = self._loaded.config
        if (old.tls and not new.tls) or (old.authenticates and not new.authenticates):
            raise WebConfigError(
                f"{self._path}: would end TLS or authentication; restart to serve without"
            )
