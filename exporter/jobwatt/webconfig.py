"""
The file behind ``--web.config.file``: TLS, client certificates, users and headers.

The format is the exporter-toolkit's, which Prometheus and its exporters share:
https://prometheus.io/docs/prometheus/latest/configuration/https/. What that format allows and
OpenSSL cannot do is refused, never silently weakened. The file and the certificates it names are
read again when they change.
"""

from __future__ import annotations

import difflib
import logging
import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S = 10.0  # a file that could not be read again is tried again this often

_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")
_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
# A certificate that is asked for and never looked at changes nothing, hence CERT_NONE.
_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED = ("RequireAnyClientCert", "RequireClientCert")
_CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
_HEADERS = (
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)
# IANA's names, which Go uses, against OpenSSL's (openssl-ciphers(1)).
_CIPHERS = {
    f"TLS_{iana}{prefix}_WITH_{suite}": f"{prefix_openssl}{openssl}"
    for iana, prefix, prefix_openssl in (
        ("ECDHE_", "ECDSA", "ECDHE-ECDSA-"),
        ("ECDHE_", "RSA", "ECDHE-RSA-"),
        ("", "RSA", ""),
    )
    for suite, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA256", "AES128-SHA256"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
    if iana or "CHACHA20" not in suite
}
_CIPHERS_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")


class WebConfigError(ValueError):
    """What is wrong, in which file and key, and how to mend it; one line."""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """``tls_server_config``; the names are OpenSSL's."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_auth: ssl.VerifyMode = ssl.CERT_NONE
    client_allowed_sans: frozenset[str] = frozenset()
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: tuple[str, ...] = ()
    curve: str = ""
    prefer_server_ciphers: bool = True

    def files(self) -> Iterator[Path]:
        """Files whose change means a new context."""
        yield self.cert_file
        yield self.key_file
        if self.client_ca_file is not None:
            yield self.client_ca_file

    def admits(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether a verified peer certificate carries one of the allowed alternative names."""
        if not self.client_allowed_sans:
            return True
        names = {str(value) for _, value in (certificate or {}).get("subjectAltName", ())}
        return not names.isdisjoint(self.client_allowed_sans)


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


class _Section:
    """A mapping of the file whose values are asked for by key and type."""

    def __init__(self, path: Path, name: str, value: object, known: Collection[str]) -> None:
        self.path, self.name = path, name
        self.values: dict[str, Any] = {}
        if value is None:
            return
        if not isinstance(value, dict):
            raise self.error("", "must be a mapping of keys to values")
        for key in value:
            if key not in known:
                raise self.error(str(key), f"unknown key; {_nearest(str(key), known)}")
        self.values = value

    def error(self, key: str, message: str) -> WebConfigError:
        where = ".".join(part for part in (self.name, key) if part)
        return WebConfigError(": ".join(part for part in (str(self.path), where, message) if part))

    def string(self, key: str) -> str:
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {value!r}; put it in quotes")
        return value

    def strings(self, key: str) -> list[str]:
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "must be a list of strings")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def file(self, key: str) -> Path | None:
        """Return a path, relative to the directory of the file that names it."""
        value = self.string(key)
        return self.path.parent / value if value else None

    def choice(self, key: str, choices: Mapping[str, T], default: str) -> T:
        value = self.string(key) or default
        if value not in choices:
            raise self.error(key, f"{value!r} is not possible; {_nearest(value, choices)}")
        return choices[value]


def _nearest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"possible: {', '.join(known)}"


class _UniqueLoader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error: the first one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", node.value[index][0].start_mark
                )
        return super().construct_mapping(node, deep=deep)


def parse(text: str, path: Path) -> WebConfig:
    """
    Return the configuration in ``text``; an empty file is valid and protects nothing.

    ``path`` is where the text came from: for messages, and its directory is what the paths in
    the text are relative to.
    """
    try:
        document = yaml.load(text, Loader=_UniqueLoader)  # noqa: S506 a SafeLoader
    except yaml.MarkedYAMLError as err:
        line = f"line {err.problem_mark.line + 1}: " if err.problem_mark else ""
        raise WebConfigError(f"{path}: {line}{err.problem}") from err
    except (yaml.YAMLError, RecursionError) as err:
        raise WebConfigError(f"{path}: not YAML: {' '.join(str(err).split())}") from err
    top = _Section(
        path, "", document, ("tls_server_config", "http_server_config", "basic_auth_users")
    )
    return WebConfig(
        tls=_tls(path, top.values.get("tls_server_config")),
        headers=_headers(path, top.values.get("http_server_config")),
        users=_users(top, top.values.get("basic_auth_users")),
    )


_TLS_KEYS = (
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "curve_preferences",
    "prefer_server_cipher_suites",
)


def _tls(path: Path, value: object) -> TlsConfig | None:
    if not value:
        return None
    section = _Section(path, "tls_server_config", value, _TLS_KEYS)
    certificate, key = section.file("cert_file"), section.file("key_file")
    if certificate is None:
        raise section.error("cert_file", "missing; name the server's certificate (PEM)")
    if key is None:
        raise section.error("key_file", "missing; name the private key of cert_file (PEM)")
    low = section.choice("min_version", _VERSIONS, "TLS12")
    high = section.choice("max_version", _VERSIONS, "TLS13")
    if low > high:
        raise section.error("max_version", "is below min_version (TLS12 where none is given)")
    ciphers = _ciphers(section, high)
    return TlsConfig(
        cert_file=certificate,
        key_file=key,
        client_ca_file=section.file("client_ca_file"),
        client_auth=_client_auth(section),
        client_allowed_sans=frozenset(section.strings("client_allowed_sans")),
        # With suites of TLS 1.3 alone nothing is left for an older version to use.
        min_version=low if ciphers or not section.strings("cipher_suites") else _VERSIONS["TLS13"],
        max_version=high,
        ciphers=ciphers,
        curve=_curve(section),
        prefer_server_ciphers=section.flag("prefer_server_cipher_suites", default=True),
    )


def _client_auth(section: _Section) -> ssl.VerifyMode:
    name = section.string("client_auth_type")
    if name in _UNVERIFIED:
        raise section.error(
            "client_auth_type",
            f"{name} accepts any self-made certificate and OpenSSL does not do that; "
            "use RequireAndVerifyClientCert with client_ca_file",
        )
    mode = section.choice("client_auth_type", _CLIENT_AUTH, "NoClientCert")
    has_ca = section.file("client_ca_file") is not None
    if mode is not ssl.CERT_NONE and not has_ca:
        raise section.error("client_ca_file", f"missing; client_auth_type {name} needs it")
    if mode is ssl.CERT_NONE and has_ca:
        raise section.error(
            "client_auth_type",
            "client_ca_file has no effect like this; set RequireAndVerifyClientCert or remove it",
        )
    if mode is not ssl.CERT_REQUIRED and section.strings("client_allowed_sans"):
        raise section.error(
            "client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert"
        )
    return mode


def _ciphers(section: _Section, high: ssl.TLSVersion) -> tuple[str, ...]:
    """OpenSSL's names of the suites below TLS 1.3 (those of 1.3 are not for choosing, as in Go)."""
    known = (*_CIPHERS, *_CIPHERS_13)
    names = section.strings("cipher_suites")
    for name in names:
        if name not in known:
            raise section.error(
                "cipher_suites", f"{name!r} is unknown or broken; {_nearest(name, known)}"
            )
    ciphers = tuple(_CIPHERS[name] for name in names if name in _CIPHERS)
    if names and not ciphers and high is not ssl.TLSVersion.TLSv1_3:
        raise section.error("cipher_suites", "only suites of TLS 1.3, which max_version excludes")
    return ciphers


def _curve(section: _Section) -> str:
    names = section.strings("curve_preferences")
    for name in names:
        if name not in _CURVES:
            raise section.error(
                "curve_preferences", f"{name!r} is unknown; {_nearest(name, _CURVES)}"
            )
    if len(names) > 1:
        raise section.error(
            "curve_preferences", "only one curve can be set here; name one or remove the key"
        )
    return _CURVES[names[0]] if names else ""


def _headers(path: Path, value: object) -> dict[str, str]:
    section = _Section(path, "http_server_config", value, ("http2", "headers"))
    section.flag("http2", default=True)  # this server speaks HTTP/1.1 either way
    headers = _Section(path, "http_server_config.headers", section.values.get("headers"), _HEADERS)
    found = {name: headers.string(name) for name in headers.values}
    for name, text in found.items():
        if not text.isprintable() or not text.isascii():
            raise headers.error(name, "must be one line of plain ASCII")
    return {name: text for name, text in found.items() if text}


def _users(top: _Section, value: object) -> dict[str, bytes]:
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


def ssl_context(tls: TlsConfig, path: Path) -> ssl.SSLContext:
    """Make a server context; a file that cannot be used is a WebConfigError that names its key."""
    section = _Section(path, "tls_server_config", None, ())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = tls.min_version, tls.max_version
    context.options |= ssl.OP_NO_RENEGOTIATION
    if tls.prefer_server_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_certificate(context, tls, section)
    if tls.client_ca_file is not None:
        _load_client_ca(context, tls.client_ca_file, section)
    context.verify_mode = tls.client_auth
    if tls.ciphers:
        try:
            context.set_ciphers(":".join(tls.ciphers))
        except ssl.SSLError as err:
            raise section.error("cipher_suites", "this OpenSSL has none of them") from err
    if tls.curve:
        context.set_ecdh_curve(tls.curve)
    return context


def _load_certificate(context: ssl.SSLContext, tls: TlsConfig, section: _Section) -> None:
    def no_password() -> bytes:
        raise section.error(
            "key_file", f"{tls.key_file} has a passphrase; remove it with: openssl pkey -in ..."
        )

    for key, file in (("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        _must_open(section, key, file)
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, password=no_password)
    except ssl.SSLError as err:
        if err.reason == "KEY_VALUES_MISMATCH":
            raise section.error(
                "key_file", f"{tls.key_file} is not the key of {tls.cert_file}; pair them"
            ) from err
        raise section.error(
            "cert_file",
            f"{tls.cert_file} with {tls.key_file}: no usable PEM pair ({err.reason or err})",
        ) from err


def _load_client_ca(context: ssl.SSLContext, file: Path, section: _Section) -> None:
    _must_open(section, "client_ca_file", file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as err:
        raise section.error(
            "client_ca_file", f"{file}: no certificate in it ({err.reason or err})"
        ) from err


def _must_open(section: _Section, key: str, file: Path) -> None:
    try:
        file.open("rb").close()
    except PermissionError as err:
        raise section.error(key, f"{file}: permission denied; let jobwatt's user read it") from err
    except OSError as err:
        raise section.error(key, f"{file}: {err.strerror}; correct the path") from err


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
