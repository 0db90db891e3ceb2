"""Which certificates are served, and what is said of others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from contex_server.edge import certificate_files
from contex_server.edge.certificate_files import (
    CERTIFICATE_FILE,
    TlsFiles,
    UnusableCertificate,
    check,
    check_settings,
    files_of,
    read,
    self_signed,
)
from contex_server.edge.tls import Tls
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import StartupError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

from tests.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path)


def problem(files: TlsFiles) -> str:
    with pytest.raises(UnusableCertificate) as caught:
        check(files, read(files))
    with pytest.raises(StartupError) as refused:
        Tls(files)
    assert str(refused.value) == str(caught.value)
    return str(caught.value)


def written(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


Make = Callable[[Authority, Path], Pair]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda a, d: Pair(d / "none", a.server().key), "/none: can't be read: No such file or"),
        (lambda a, d: Pair(d, a.server().key), "can't be read: Is a directory"),
        (lambda a, d: Pair(written(d / "x", b"x"), a.server().key), "/x: is no certificate in PEM"),
        (lambda a, d: Pair(written(d / "x", b""), a.server().key), "/x: is no certificate in PEM"),
        (lambda a, d: Pair(a.server().cert, d / "none"), "--tls-key"),
        (lambda a, d: Pair(a.server().cert, a.server().cert), "is no private key in PEM"),
        (lambda a, d: Pair(a.server().cert, written(d / "x", b"")), "is no private key in PEM"),
        (lambda a, d: a.server(passphrase=b"secret"), "has a passphrase; store it without one"),
        (lambda a, d: Pair(a.server().cert, a.server("b").key), "does not fit the certificate"),
        (lambda a, d: a.server(days=(-2, -1)), "server.crt: expired at 20"),
        (lambda a, d: a.server(days=(1, 2)), "server.crt: is not valid before 20"),
        (lambda a, d: a.server(key=ed25519.Ed25519PrivateKey.generate()), "gRPC takes RSA"),
        (lambda a, d: a.server(key=ec.generate_private_key(ec.SECP521R1())), "gRPC takes RSA"),
    ],
)
def test_what_can_not_be_served_is_named(
    make: Make, said: str, authority: Authority, tmp_path: Path
) -> None:
    assert said in problem(TlsFiles(*make(authority, tmp_path)))


def test_the_order_of_a_chain_is_told(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.server()
    chain = written(tmp_path / "chain", authority.file.read_bytes() + cert.read_bytes())
    assert "its certificate has to come first" in problem(TlsFiles(chain, key))
    chain.write_bytes(cert.read_bytes() + authority.file.read_bytes())
    assert check(TlsFiles(chain, key), read(TlsFiles(chain, key))).subject == "CN=server"


def test_authorities_of_clients_are_checked(authority: Authority, tmp_path: Path) -> None:
    pair = authority.server()
    for ca, said in (
        (tmp_path / "none", "--tls-client-ca"),
        (pair.key, "is no certificate in PEM"),
        (authority.server("old", days=(-2, -1)).cert, "old.crt: expired at"),
    ):
        assert said in problem(TlsFiles(*pair, ca))
    both = written(tmp_path / "both", ca.read_bytes() + authority.file.read_bytes())
    check(TlsFiles(*pair, both), read(TlsFiles(*pair, both)))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65_537, 2_048),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
    ],
)
def test_what_is_served(key: Any, authority: Authority) -> None:
    found = check(files := TlsFiles(*authority.server(key=key)), read(files))
    assert found.names == ("localhost", "127.0.0.1")
    assert timedelta(days=29) < found.expires - datetime.now(UTC) < timedelta(days=31)


def test_a_change_is_seen_also_within_a_tick_of_the_clock(authority: Authority) -> None:
    pair = authority.server()
    tls = Tls(TlsFiles(*pair))
    assert tls.refresh() is tls.refresh()
    stat = pair.cert.stat()
    new = authority.server("new")
    pair.key.write_bytes(new.key.read_bytes())
    with pair.cert.open("r+b") as file:  # in place, and with the time of before
        file.truncate()
        file.write(new.cert.read_bytes())
    os.utime(pair.cert, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert tls.refresh().subject == "CN=new"


def test_what_is_broken_is_logged_once_and_what_was_good_stays(authority: Authority) -> None:
    pair = authority.server()
    tls = Tls(TlsFiles(*pair))
    good = pair.cert.read_bytes()
    with capture_logs() as logs:
        pair.cert.write_bytes(b"broken")
        for _ in range(3):
            assert tls.refresh().subject == "CN=server"
        pair.cert.write_bytes(authority.server("old", days=(-2, -1)).cert.read_bytes())
        pair.key.write_bytes(authority.directory.joinpath("old.key").read_bytes())
        assert tls.refresh().subject == "CN=server"
        assert [log["event"] for log in logs] == ["tls_certificate_not_taken"] * 2
        assert "is no certificate" in logs[0]["error"]
        assert "expired" in logs[1]["error"]
        pair.replace(authority.server())
        tls.refresh()
    assert logs[-1]["event"] == "tls_certificate"
    assert good not in str(logs).encode()


def test_a_certificate_that_ends_soon_is_warned_of(authority: Authority) -> None:
    with capture_logs() as logs:
        Tls(TlsFiles(*authority.server(days=(-1, 13.5))))
        Tls(TlsFiles(*authority.server(days=(-1, 14.5))))
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert [log["days"] for log in warnings] == [13]


def test_a_self_signed_certificate_is_for_this_machine(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    self_signed(directory, "192.0.2.7")
    settings = Settings(data_dir=directory, host="192.0.2.7", tls_self_signed=True, access=True)
    files = files_of(settings)
    assert files is not None
    found = check(files, read(files))
    assert {"localhost", "127.0.0.1", "::1", "192.0.2.7"} <= set(found.names)
    assert timedelta(days=364) < found.expires - datetime.now(UTC) < timedelta(days=366)
    assert files.key.stat().st_mode & 0o777 == 0o600


def test_a_self_signed_certificate_stays_while_it_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(host: str = "127.0.0.1") -> bytes:
        self_signed(tmp_path, host)
        return (tmp_path / CERTIFICATE_FILE).read_bytes()

    first = made()
    assert made() == first
    (tmp_path / CERTIFICATE_FILE).unlink()
    assert made() == first
    other = made("192.0.2.7")
    assert other != first
    assert made() == other  # it is for this host, too
    (tmp_path / "tls.pem").write_bytes(b"broken")
    third = made()
    assert third != other
    monkeypatch.setattr(certificate_files, "REMADE_DAYS", 366)
    assert made() != third


def test_a_directory_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(data_dir=tmp_path / "file", tls_self_signed=True)
    for start in (check_settings, Tls.of):
        with pytest.raises(StartupError, match="can't make a certificate: "):
            start(settings)


def test_looking_for_changes_costs_nothing_to_speak_of(authority: Authority) -> None:
    """A handshake takes a millisecond of processor time; a look, some microseconds of it."""
    pair = authority.server()
    for path in pair:
        os.utime(path, (0, 0))
    tls = Tls(TlsFiles(*pair))
    started = time.thread_time()
    for _ in range(1_000):
        tls.refresh()
    assert time.thread_time() - started < 0.1


@pytest.mark.parametrize("names", [[], ["a.example", "b.example"]])
def test_the_names_of_a_certificate_are_told(names: list[str], authority: Authority) -> None:
    files = TlsFiles(*authority.issue("one", [x509.DNSName(name) for name in names]))
    assert check(files, read(files)).names == tuple(names)
