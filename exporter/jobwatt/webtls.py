"""
The ``tls_server_config`` of a web configuration, and the server context made from it.

What the format allows and OpenSSL cannot do is refused, never silently weakened.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .websection import Section, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

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
_CIPHERS_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")


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


def parse_tls(path: Path, value: object) -> TlsConfig | None:
    """Return what the section says, None where it is missing. Raises WebConfigError."""
    if not value:
        return None
    section = Section(path, "tls_server_config", value, _TLS_KEYS)
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


def _client_auth(section: Section) -> ssl.VerifyMode:
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


def _ciphers(section: Section, high: ssl.TLSVersion) -> tuple[str, ...]:
    """OpenSSL's names of the suites below TLS 1.3 (those of 1.3 are not for choosing, as in Go)."""
    known = (*_CIPHERS, *_CIPHERS_13)
    names = section.strings("cipher_suites")
    for name in names:
        if name not in known:
            raise section.error(
                "cipher_suites", f"{name!r} is unknown or broken; {nearest(name, known)}"
            )
    ciphers = tuple(_CIPHERS[name] for name in names if name in _CIPHERS)
    if names and not ciphers and high is not ssl.TLSVersion.TLSv1_3:
        raise section.error("cipher_suites", "only suites of TLS 1.3, which max_version excludes")
    return ciphers


def _curve(section: Section) -> str:
    names = section.strings("curve_preferences")
    for name in names:
        if name not in _CURVES:
            raise section.error(
                "curve_preferences", f"{name!r} is unknown; {nearest(name, _CURVES)}"
            )
    if len(names) > 1:
        raise section.error(
            "curve_preferences", "only one curve can be set here; name one or remove the key"
        )
    return _CURVES[names[0]] if names else ""


def ssl_context(tls: TlsConfig, path: Path) -> ssl.SSLContext:
    """Make a server context; a file that cannot be used is a WebConfigError that names its key."""
    section = Section(path, "tls_server_config", None, ())
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


def _load_certificate(context: ssl.SSLContext, tls: TlsConfig, section: Section) -> None:
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


def _load_client_ca(context: ssl.SSLContext, file: Path, section: Section) -> None:
    _must_open(section, "client_ca_file", file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as err:
        raise section.error(
            "client_ca_file", f"{file}: no certificate in it ({err.reason or err})"
        ) from err


def _must_open(section: Section, key: str, file: Path) -> None:
    try:
        file.open("rb").close()
    except PermissionError as err:
        raise section.error(key, f"{file}: permission denied; let jobwatt's user read it") from err
    except OSError as err:
        raise section.error(key, f"{file}: {err.strerror}; correct the path") from err
