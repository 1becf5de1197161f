"""--web.config.file: what it may say, what is refused and how, and changes on disk."""

from __future__ import annotations

import base64
import itertools
import logging
import shutil
import ssl
import subprocess
import threading
import time
import traceback
from pathlib import Path

import bcrypt
import pytest

import webcerts
from jobwatt import passwords, webtls
from jobwatt.passwords import WAITING_MAX, PasswordCheck
from jobwatt.webconfig import WebConfigError, WebConfigFile, load, parse

HERE = Path("/etc/jobwatt/web.yml")
HASH = "$2b$04$2.k2lTMbpFEdx/4.3IZnVOk8O.dfjrYrz3YW/IhfgwmjoTg3bYxfO"
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
CA = "  client_ca_file: ca.crt\n"
MTLS = TLS + CA + "  client_auth_type: RequireAndVerifyClientCert\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CA, a server's pair, and a pair whose key has a passphrase."""
    path = tmp_path_factory.mktemp("certs")
    ca = webcerts.make("ca")
    ca.write(path, "ca")
    webcerts.make("server", ca).write(path, "server")
    webcerts.make("other", ca).write(path, "other")
    webcerts.make("locked", ca).write(path, "locked", b"secret")
    return path


GOOD = {
    "empty": "",
    "comment only": "# nothing yet\n",
    "tls": TLS,
    "users": f"basic_auth_users:\n  prometheus: {HASH}\n  ops: {HASH.replace('2b', '2y', 1)}\n",
    "mtls": MTLS,
    "client cert if given": TLS + CA + "  client_auth_type: VerifyClientCertIfGiven\n",
    "client cert asked for": TLS + "  client_auth_type: RequestClientCert\n",
    "versions": TLS + "  min_version: TLS12\n  max_version: TLS13\n",
    "ciphers": TLS
    + "  cipher_suites:\n  - TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n"
    + "  - TLS_AES_128_GCM_SHA256\n  prefer_server_cipher_suites: false\n",
    "curve": TLS + "  curve_preferences: [CurveP256]\n",
    "headers": "http_server_config:\n  http2: false\n  headers:\n"
    "    Strict-Transport-Security: max-age=31536000\n    X-Frame-Options: sameorigin\n",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_good_files_load(folder, text):
    """Every kind of setting loads, with real certificates, into a real TLS context."""
    path = folder / "good.yml"
    path.write_text(text)
    assert (load(path).context is not None) == ("tls_server_config" in text)


@pytest.mark.prometheus
@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_promtool_accepts_the_same_files(folder, text):
    """What loads here is a valid web config for Prometheus's own tool."""
    path = folder / "promtool.yml"
    path.write_text(text)
    done = subprocess.run(
        ["promtool", "check", "web-config", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_values_arrive():
    """Paths are relative to the file; names become OpenSSL's; defaults are the toolkit's."""
    config = parse(
        MTLS + GOOD["users"] + "http_server_config: {headers: {X-Frame-Options: DENY}}", HERE
    )
    assert config.tls is not None
    assert config.tls.cert_file == Path("/etc/jobwatt/server.crt")
    assert config.tls.client_ca_file == Path("/etc/jobwatt/ca.crt")
    assert config.tls.client_auth is ssl.CERT_REQUIRED
    assert config.tls.min_version is ssl.TLSVersion.TLSv1_2
    assert list(config.users) == ["prometheus", "ops"]
    assert config.headers == {"X-Frame-Options": "DENY"}
    assert config.authenticates


def test_absolute_paths_stay():
    """An absolute path is not moved into the file's directory."""
    tls = parse("tls_server_config: {cert_file: /a/c.pem, key_file: /b/k.pem}", HERE).tls
    assert tls is not None
    assert (tls.cert_file, tls.key_file) == (Path("/a/c.pem"), Path("/b/k.pem"))


def test_suites_of_tls_13_alone_exclude_older_versions():
    """Suites of TLS 1.3 alone leave older versions nothing to use, so they are off."""
    tls = parse(TLS + "  cipher_suites: [TLS_AES_256_GCM_SHA384]\n", HERE).tls
    assert tls is not None
    assert tls.min_version is ssl.TLSVersion.TLSv1_3


def test_every_cipher_name_is_openssls():
    """Each suite that can be named is one that OpenSSL knows under the name it is mapped to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for iana, name in webtls._CIPHERS.items():
        context.set_ciphers(f"{name}:@SECLEVEL=0")
        assert name in {cipher["name"] for cipher in context.get_ciphers()}, iana


BAD = {
    "tls_sever_config: {}": "web.yml: tls_sever_config: unknown key; did you mean tls_server_config?",
    TLS + "  cert_fil: x": "tls_server_config.cert_fil: unknown key; did you mean cert_file?",
    "http_server_config: {headers: {X-Frame-Option: a}}": "did you mean X-Frame-Options?",
    "http_server_config: {http2: 'no'}": "http_server_config.http2: must be true or false",
    'http_server_config: {headers: {X-Frame-Options: "a\\r\\nSet-Cookie: b"}}': "one line",
    "tls_server_config: {min_version: TLS12}": "tls_server_config.cert_file: missing",
    "tls_server_config: {cert_file: a}": "tls_server_config.key_file: missing",
    TLS + "  min_version: TLS1.2": "'TLS1.2' is not possible; did you mean TLS12?",
    TLS + "  min_version: 12": "tls_server_config.min_version: must be a string",
    TLS + "  min_version: TLS13\n  max_version: TLS12": "max_version: is below min_version",
    TLS + "  client_auth_type: RequireAnyClientCert": "use RequireAndVerifyClientCert",
    TLS
    + "  client_auth_type: RequireAndVerifyClientCrt": "did you mean RequireAndVerifyClientCert?",
    TLS + "  client_auth_type: RequireAndVerifyClientCert": "client_ca_file: missing",
    TLS + CA: "client_ca_file has no effect like this",
    TLS + "  client_allowed_sans: [a]": "client_allowed_sans: needs client_auth_type",
    TLS + "  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]": "is unknown or broken; did you mean",
    TLS + "  cipher_suites: TLS_AES_128_GCM_SHA256": "must be a list of strings",
    TLS + "  curve_preferences: [X25519, CurveP256]": "only one curve",
    "basic_auth_users: {prometheus: hunter2}": "basic_auth_users.prometheus: not a bcrypt hash",
    f"basic_auth_users: {{yes: {HASH}}}": "a user name is a string",
    f"basic_auth_users: {{'a:b': {HASH}}}": "without a colon",
    "basic_auth_users: [a]": "must be a mapping of user names",
    f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}": "line 3: 'a' is given twice",
    "- a": "must be a mapping of keys",
    "a: [": "line ",
    "a: !!python/object/apply:os.system ['true']": "could not determine a constructor",
    "[" * 5000: "web.yml: ",
}


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=range(len(BAD)))
def test_what_is_wrong_is_said_in_one_line(text, said):
    """A mistake names the file and the key, and says how to mend it, in one line."""
    with pytest.raises(WebConfigError) as caught:
        parse(text, HERE)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(HERE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [
        "*hunter2",
        "!hunter2 x",
        "&hunter2",
        "@hunter2",
        "'hunter2",
        "hunter2: x",
        "[hunter2",
        "%hunter2",
    ],
)
def test_no_message_repeats_a_password(word):
    """A password in the place of a hash, whatever YAML makes of its first character, is not in what is said, nor behind it."""
    with pytest.raises(WebConfigError) as caught:
        parse(f"basic_auth_users:\n  prometheus: {word}\n", HERE)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def pair(cert, key):
    return f"tls_server_config: {{cert_file: {cert}, key_file: {key}}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (pair("none.crt", "server.key"), "tls_server_config.cert_file"),
        (pair("server.crt", "none.key"), "tls_server_config.key_file"),
        (pair("server.crt", "other.key"), "is not the key of"),
        (pair("server.crt", "locked.key"), "key_file"),
        (pair("locked.crt", "locked.key"), "has a passphrase"),
        (pair("good.yml", "server.key"), "no usable PEM pair"),
        (MTLS.replace("ca.crt", "server.key"), "no certificate in it"),
        (MTLS.replace("ca.crt", "none.crt"), "client_ca_file"),
    ],
)
def test_files_that_cannot_be_used_are_named(folder, text, said):
    """A certificate, key or CA that cannot be used is an error that names key and file."""
    (folder / "good.yml").write_text("")
    path = folder / "bad.yml"
    path.write_text(text)
    with pytest.raises(WebConfigError) as caught:
        load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    """A missing or undecodable file is a WebConfigError too."""
    with pytest.raises(WebConfigError, match=r"No such file.*--web.config.file"):
        load(tmp_path / "none.yml")
    (tmp_path / "bin.yml").write_bytes(b"\xff\xfe")
    with pytest.raises(WebConfigError, match="not UTF-8"):
        load(tmp_path / "bin.yml")


class TestReload:
    """The file on disk changes while the server runs."""

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "web.yml"
        path.write_text(f"basic_auth_users: {{a: {HASH}}}")
        return path

    def test_nothing_changes(self, path):
        """Without a change, the very same object is returned."""
        file = WebConfigFile(path)
        assert file.current() is file.current()

    def test_users_change(self, path):
        """A user that is added counts at once."""
        file = WebConfigFile(path)
        path.write_text(f"basic_auth_users: {{a: {HASH}, b: {HASH}}}")
        assert set(file.current().config.users) == {"a", "b"}

    def test_a_renewed_certificate(self, folder, tmp_path):
        """A new pair on disk is a new context; a half-renewed one leaves the old in force."""
        for name in ("server.crt", "server.key"):
            shutil.copy(folder / name, tmp_path / name)
        path = tmp_path / "web.yml"
        path.write_text(TLS)
        file = WebConfigFile(path)
        before = file.current()
        shutil.copy(folder / "other.crt", tmp_path / "server.crt")
        assert file.current() is before
        shutil.copy(folder / "other.key", tmp_path / "server.key")
        file._retry_at = 0.0
        assert file.current().context is not before.context

    def test_mistakes_are_logged_once(self, path, caplog):
        """A mistake is said once, however often it is looked at, and the old file counts."""
        file = WebConfigFile(path)
        path.write_text("basic_auth_user: {}")
        for _ in range(3):
            file._retry_at = 0.0
            assert set(file.current().config.users) == {"a"}
        assert [r.levelno for r in caplog.records] == [logging.ERROR]
        assert "did you mean basic_auth_users?" in caplog.text

    @pytest.mark.parametrize("text", ["", "basic_auth_users: {}", None])
    def test_protection_does_not_vanish(self, path, text):
        """An emptied or removed file (half-written, perhaps) does not open the server."""
        file = WebConfigFile(path)
        path.unlink() if text is None else path.write_text(text)
        assert file.current().config.authenticates

    def test_it_recovers(self, path):
        """After a mistake is mended the file is read again."""
        file = WebConfigFile(path)
        path.write_text("nonsense: 1")
        file.current()
        path.write_text(f"basic_auth_users: {{b: {HASH}}}")
        file._retry_at = 0.0
        assert set(file.current().config.users) == {"b"}


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TestPasswords:
    """Basic authentication."""

    users = {"ann": bcrypt.hashpw("corréct:horse".encode(), bcrypt.gensalt(4))}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("header", "allowed"),
        [
            (basic("ann", "corréct:horse"), True),
            (basic("ann", "corréct:horse").replace("Basic", "basic"), True),
            (basic("ann", "wrong"), False),
            (basic("ann", ""), False),
            (basic("bob", "corréct:horse"), False),
            (basic("ann", "x\0y"), False),
            (basic("ann", "x" * 500), False),
            ("Basic !!!", False),
            ("Basic " + base64.b64encode(b"\xff:x").decode(), False),
            ("Basic " + base64.b64encode(b"no colon").decode(), False),
            ("Bearer abc", False),
            ("", False),
            (None, False),
        ],
    )
    def test_who_is_let_in(self, header, allowed):
        """Only a known user with the right password is; anything malformed is not, quietly."""
        assert PasswordCheck(0).allows(self.users, header) is allowed

    def test_a_long_password_counts_up_to_72_bytes(self):
        """A password beyond 72 bytes works, as with every bcrypt."""
        users = {"a": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4))}
        assert PasswordCheck(0).allows(users, basic("a", "x" * 80))

    def test_right_and_wrong_are_remembered(self):
        """bcrypt is paid once for a password, right or wrong, and again for a new hash."""
        users = {"a": bcrypt.hashpw(b"x", bcrypt.gensalt(11))}
        check = PasswordCheck(0)
        for password in ("x", "y"):
            start = time.thread_time()
            first = check.allows(users, basic("a", password))
            paid = time.thread_time() - start
            start = time.thread_time()
            assert check.allows(users, basic("a", password)) is first
            assert time.thread_time() - start < paid / 20
        users["a"] = bcrypt.hashpw(b"y", bcrypt.gensalt(4))
        assert check.allows(users, basic("a", "x")) is False
        assert check.allows(users, basic("a", "y")) is True

    def test_an_unknown_user_takes_as_long(self):
        """The time taken does not tell whether a user exists."""
        users = {"a": bcrypt.hashpw(b"x", bcrypt.gensalt(10))}

        def took(user):
            start = time.thread_time()
            PasswordCheck(0).allows(users, basic(user, "guess"))
            return time.thread_time() - start

        known, unknown = min(took("a") for _ in range(5)), min(took("z") for _ in range(5))
        assert unknown > known / 2

    def test_a_crowd_of_guesses_is_bounded(self):
        """Of many guesses at once a few wait, the rest are sent away; a known password passes."""
        check = PasswordCheck(0.02)
        assert check.allows(self.users, basic("ann", "corréct:horse"))
        crowd = 3 * WAITING_MAX
        start, results = threading.Barrier(crowd), []

        def guess(number):
            start.wait()
            results.append(check.allows(self.users, basic("ann", f"guess {number}")))

        threads = [threading.Thread(target=guess, args=(n,)) for n in range(crowd)]
        for thread in threads:
            thread.start()
        assert check.allows(self.users, basic("ann", "corréct:horse"))
        assert len(results) < crowd  # it passed before all of them had had their turn
        for thread in threads:
            thread.join()
        assert set(results) == {False, None}
        assert len(check._right) == 1

    def test_guesses_take_a_twentieth_of_a_cpu(self):
        """After a wrong password comes a pause of nineteen times the check's own CPU time, however dear the hash."""
        users = {"a": bcrypt.hashpw(b"x", bcrypt.gensalt(9))}
        check, used, began = PasswordCheck(0.001), time.thread_time(), time.monotonic()
        for number in range(2):
            check.allows(users, basic("a", str(number)))
        share = (time.thread_time() - used) / (time.monotonic() - began)
        assert share < 0.07

    def test_one_guesser_keeps_nobody_out(self):
        """While one client's guesses take all the places that it may have, another one's right password is heard."""
        check = PasswordCheck(0.05)
        stop, results = threading.Event(), []

        def guess(number):
            while not stop.is_set():
                results.append(
                    check.allows(self.users, basic("ann", f"{number} {len(results)}"), "crowd")
                )

        threads = [threading.Thread(target=guess, args=(n,)) for n in range(24)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                check._right.clear()
                assert check.allows(self.users, basic("ann", "corréct:horse"), "prometheus") is True
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert None in results

    @pytest.mark.parametrize("guessers", ["same", "six others"])
    def test_guesses_that_go_on(self, guessers):
        """A right password is heard at its first try, whoever else guesses on and on, from wherever."""
        check = PasswordCheck(0.1)
        stop = threading.Event()

        def guess(number):
            client = "me" if guessers == "same" else str(number % 6)
            for word in itertools.count():
                if stop.is_set():
                    return
                check.allows(self.users, basic("ann", f"{number} {word}"), client)

        threads = [threading.Thread(target=guess, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        try:
            assert check.allows(self.users, basic("ann", "corréct:horse"), "me") is True
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def test_the_same_password_is_checked_once(self, monkeypatch):
        """However many come with it at once, from one address: all of them are let in by one check."""
        checked = []

        def slow(password, hashed):
            checked.append(password)
            time.sleep(0.2)
            return True

        monkeypatch.setattr(passwords, "_bcrypt", slow)
        check, results = PasswordCheck(), []
        threads = [
            threading.Thread(
                target=lambda: results.append(check.allows(self.users, basic("ann", "x"), "one"))
            )
            for _ in range(2 * WAITING_MAX)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * len(threads)
        assert len(checked) == 1
        assert not check._due

    def test_memory_is_bounded(self):
        """Guesses do not pile up in memory."""
        check = PasswordCheck(0)
        for number in range(300):
            check.allows(self.users, basic("ann", str(number)))
        assert len(check._wrong) <= 256
