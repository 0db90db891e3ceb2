"""What the environment and a URL say about where an archive is."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from contex_server.kernel.errors import ContexError
from contex_server.tiers.objects import ObjectMissing, Objects


class Handler(BaseHTTPRequestHandler):
    """Has no object, and notes what was asked."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["User-Agent"]))  # type: ignore[attr-defined]
        if self.path.endswith("late"):
            self.server.closing.wait(20)  # type: ignore[attr-defined]
            return
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Web(ThreadingHTTPServer):
    """A web server on loopback; over TLS with a certificate."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str]] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.url = f"https://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # A client that doesn't trust the certificate.

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    opened = Web()
    yield opened
    opened.close()


@pytest.fixture
def proxy() -> Iterator[Web]:
    opened = Web()
    yield opened
    opened.close()


@pytest.fixture(params=["AWS", "AZURE", "GOOGLE"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A provider's prefix of variables; none of them and no proxy is set."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return str(request.param)


def environment(provider: str, endpoint: str) -> dict[str, str]:
    given = {
        "AWS": {
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": endpoint,
        },
        "AZURE": {
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
            "AZURE_STORAGE_ENDPOINT": endpoint,
        },
        "GOOGLE": {"GOOGLE_SKIP_SIGNATURE": "true", "GOOGLE_BASE_URL": endpoint},
    }
    return {**given[provider], f"{provider}_ALLOW_HTTP": "true"}


async def asked(provider: str, name: str = "x") -> None:
    """Asks for an object, which is not there."""
    scheme = {"AWS": "s3", "AZURE": "az", "GOOGLE": "gs"}[provider]
    with pytest.raises(ObjectMissing):
        await Objects.open(f"{scheme}://bucket/prefix").get(name)


@pytest.fixture
def setenv(monkeypatch: pytest.MonkeyPatch, provider: str, web: Web) -> pytest.MonkeyPatch:
    for name, value in environment(provider, web.url).items():
        monkeypatch.setenv(name, value)
    return monkeypatch


async def test_a_provider_is_found_by_its_variables(
    provider: str, setenv: pytest.MonkeyPatch, web: Web
) -> None:
    await asked(provider)
    assert len(web.seen) == 1


async def test_options_of_the_client_come_from_the_environment(
    provider: str, setenv: pytest.MonkeyPatch, web: Web, proxy: Web
) -> None:
    setenv.setenv(f"{provider}_USER_AGENT", "an agent")
    await asked(provider)
    assert web.seen[0][1] == "an agent"
    setenv.setenv(f"{provider}_PROXY_URL", proxy.url)
    await asked(provider)
    assert (len(web.seen), len(proxy.seen)) == (1, 1)


async def test_a_proxy_of_all_programs_and_what_is_exempt(
    provider: str, setenv: pytest.MonkeyPatch, web: Web, proxy: Web
) -> None:
    setenv.setenv("http_proxy", proxy.url)
    await asked(provider)
    assert (len(web.seen), len(proxy.seen)) == (0, 1)
    setenv.setenv("NO_PROXY", "127.0.0.1")
    await asked(provider)
    assert (len(web.seen), len(proxy.seen)) == (1, 1)


async def test_the_timeout_of_a_request(
    provider: str, setenv: pytest.MonkeyPatch, web: Web
) -> None:
    setenv.setenv(f"{provider}_TIMEOUT", "100ms")
    with pytest.raises(ContexError, match="the archive is unavailable"):
        await asked(provider, "late")
    assert len(web.seen) == 4  # with its retries


async def test_plain_http_is_refused_unless_it_is_allowed(
    provider: str, setenv: pytest.MonkeyPatch, web: Web
) -> None:
    setenv.setenv(f"{provider}_ALLOW_HTTP", "false")
    with pytest.raises(ContexError, match="BadScheme"):
        await asked(provider)
    assert not web.seen


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody knows, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"),
            *("-keyout", path, "-out", path.with_suffix(".crt")),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


async def test_a_certificate_of_ones_own(
    provider: str, setenv: pytest.MonkeyPatch, certificate: Path
) -> None:
    web = Web(certificate)
    try:
        for name, value in environment(provider, web.url).items():
            setenv.setenv(name, value)
        with pytest.raises(ContexError, match="InvalidCertificate"):
            await asked(provider)
        setenv.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
        await asked(provider)
        setenv.delenv("SSL_CERT_FILE")
        setenv.setenv(f"{provider}_ALLOW_INVALID_CERTIFICATES", "true")
        await asked(provider)
    finally:
        web.close()


async def test_a_variable_that_cannot_be_used(provider: str, setenv: pytest.MonkeyPatch) -> None:
    setenv.setenv(f"{provider}_TIMEOUT", "soon")
    with pytest.raises(ValueError, match=r'"soon" as Duration$'):
        await asked(provider)


@pytest.mark.parametrize(
    "name", ["a b", "a#b?c%20d", "100%", "Grüße-日本", "a\nb", os.fsdecode(b"not UTF-8 \xff")]
)
async def test_a_directory_of_any_name(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    objects = Objects.open(directory.as_uri())
    await objects.put("shop/1.seg", b"data")
    assert (directory / "shop" / "1.seg").read_bytes() == b"data"
    assert await objects.list("shop/") == {"shop/1.seg": 4}
    assert await objects.get("shop/1.seg") == b"data"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///archive#1", "write '#' as %23"),
        ("file:///archive?1", "write '\\?' as %3F"),
        ("s3://bucket/pre#fix", "write '#' as %23"),
        ("file://archive", "file:///absolute/path"),
        ("/archive", "relative URL"),
        ("memory:///", "starts with file, s3, gs or az"),
        ("https://example.com/archive", "starts with file, s3, gs or az"),
        ("ftp://example.com", 'Unable to recognise URL "ftp://example.com/"$'),
    ],
)
def test_a_url_that_is_none(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Objects.open(url)
