"""TLS over real sockets: who gets through, what others are told, certificates that change."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import contex
import grpc
import pytest
from contex import AsyncClient, Client, Tls, Unavailable
from contex_cli.exits import ExitCode
from contex_server.access.certificates import identity_of
from contex_server.edge.certificate_files import CERTIFICATE_FILE, TlsFiles
from contex_server.edge.tls import Tls as ServerTls
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server
from cryptography import x509
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.certificates import Authority, Pair
from tests.conftest import StartServer
from tests.integration.support import DEADLINE_S, Api, NewEvent


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CONTEX_TLS")]:
        monkeypatch.delenv(name)


def secure(port: int, authority: Authority, own: Pair | None = None) -> grpc.aio.Channel:
    pair = (own.key.read_bytes(), own.cert.read_bytes()) if own else ()
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"localhost:{port}", credentials, options=options)


async def health(target: str, tls: Tls | None = None) -> str:
    async with AsyncClient(target, tls=tls) as client:
        return await client.health()


async def why_not(target: str, tls: Tls | None = None) -> str:
    """What both clients say who don't get through."""
    with pytest.raises(Unavailable) as caught:
        await health(target, tls)

    def blocking() -> str:
        with Client(target, tls=tls) as client, pytest.raises(Unavailable) as caught:
            client.health()
        return caught.value.message.partition(": failed to")[0]

    said = caught.value.message.partition(": failed to")[0]
    assert await asyncio.to_thread(blocking) == said
    return said


async def cli(*words: str, code: int = 0, **env: str) -> str:
    """What the command line prints; of its complaints there is one line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "contex_cli", *words),
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, complaints = await process.communicate()
    assert process.returncode == code, complaints
    assert complaints.count(b"\n") == bool(code)
    return (complaints if code else out).decode()


async def test_calls_health_and_reflection_go_by_tls(
    start_server: StartServer, valkey: EmbeddedValkey, authority: Authority
) -> None:
    server = await start_server(valkey.url, **authority.server().settings)
    tls = Tls(ca=authority.file)
    for host in ("localhost", "127.0.0.1"):
        async with AsyncClient(f"contexs://{host}:{server.port}/", tls=tls) as client:
            assert await client.health() == "SERVING"
            await client.publish("shop", "k", 1)
            keys = [event.data_key async for event in client.list_events("shop")]
            assert set(keys) == {"k"}
    assert await health(f"localhost:{server.port}", tls) == "SERVING"

    def reflected() -> Any:
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
            return ProtoReflectionDescriptorDatabase(channel).get_services()

    assert "contex.v1.EventService" in await asyncio.to_thread(reflected)


async def test_the_command_line_goes_by_tls(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    authority: Authority,
) -> None:
    server = await start_server(valkey.url, **authority.server().settings)
    target, ca = f"localhost:{server.port}", str(authority.file)
    assert "SERVING" in await cli("health", "--target", f"contexs://{target}", "--tls-ca", ca)
    assert "SERVING" in await cli("health", "--target", target, "--tls-ca", ca)
    assert "SERVING" in await cli("health", "--target", target, "--tls", CONTEX_TLS_CA=ca)
    assert "SERVING" in await cli("health", CONTEX_TARGET=f"https://{target}/", CONTEX_TLS_CA=ca)
    assert await cli("health", "--target", f"contex://{target}", CONTEX_TLS_CA=ca, code=6) == (
        f"contex: can't reach {target}: the server closes the connection: perhaps it speaks TLS, "
        "which a target asks for with contexs://\n"
    )
    said = await cli("stats", "--target", f"contexs://{target}", code=ExitCode.UNAVAILABLE)
    assert said == (
        f"contex: can't reach contexs://{target}: the server's certificate is of an authority that "
        "is not trusted; CONTEX_TLS_CA names a file with the one to trust\n"
    )
    said = await cli("stats", "--tls-ca", "/nowhere", code=ExitCode.USAGE)
    assert said == "contex: can't use '/nowhere': No such file or directory\n"
    said = await cli("stats", "--tls", "--target", f"contex://{target}", code=ExitCode.USAGE)
    assert "asks for plain text" in said


async def test_a_client_that_does_not_get_through_is_told_why(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls = Tls(ca=authority.file)
    server = await start_server(valkey.url, **authority.server().settings)
    target = f"contexs://localhost:{server.port}"
    unknown = "the server's certificate is of an authority that is not trusted; "
    assert (await why_not(target)).startswith(unknown)
    other = Authority.new(tmp_path, "other")
    assert (await why_not(target, Tls(ca=other.file))).startswith(unknown)
    plain = await why_not(f"localhost:{server.port}")
    assert plain.startswith("the server closes the connection: perhaps it speaks TLS, ")
    monkeypatch.setenv("CONTEX_TLS_CA", str(authority.file))
    assert await health(target) == "SERVING"

    stranger = authority.issue("stranger", [x509.DNSName("other.example")])
    server = await start_server(valkey.url, **stranger.settings)
    target = f"contexs://localhost:{server.port}"
    assert await why_not(target, tls) == (
        "the server's certificate is for another host name than the target's"
    )
    named = Tls(ca=authority.file, server_name="other.example")
    assert await health(target, named) == "SERVING"

    server = await start_server(valkey.url)
    said = await why_not(f"contexs://localhost:{server.port}", tls)
    assert said == "the server does not speak TLS here; a target without it is contex://"
    assert await health(f"contex://localhost:{server.port}") == "SERVING"


async def test_a_certificate_that_expires_while_it_is_served_is_told_of(
    start_server: StartServer, valkey: EmbeddedValkey, authority: Authority
) -> None:
    short = authority.server(days=(-1, 3 / 24 / 3600))
    server = await start_server(valkey.url, **short.settings)
    tls = Tls(ca=authority.file)
    said = ""
    async with asyncio.timeout(DEADLINE_S):
        while not said:
            try:
                await health(f"contexs://localhost:{server.port}", tls)
            except Unavailable as error:
                said = error.message
    assert said.startswith("the server's certificate has expired: ")


async def test_certificates_of_clients_are_required(
    start_server: StartServer, valkey: EmbeddedValkey, authority: Authority, tmp_path: Path
) -> None:
    server = await start_server(
        valkey.url, **authority.server().settings, tls_client_ca=authority.file
    )
    target = f"contexs://localhost:{server.port}"
    good = authority.issue("agent")
    assert await health(target, Tls(authority.file, *good)) == "SERVING"
    stranger = Authority.new(tmp_path, "other").issue("stranger")
    expired = authority.issue("expired", days=(-2, -1))
    for own in ((), stranger, expired):
        said = await why_not(target, Tls(authority.file, *own))
        assert "or it requires a client certificate, valid and of an authority" in said
    said = await cli("stats", "--target", target, "--tls-ca", str(authority.file), code=6)
    assert said == (
        f"contex: can't reach {target}: the server closes the connection: perhaps it requires a "
        "client certificate, valid and of an authority that it trusts (CONTEX_TLS_CLIENT_CERT, "
        "CONTEX_TLS_CLIENT_KEY)\n"
    )
    files = {"CONTEX_TLS_CLIENT_CERT": str(good.cert), "CONTEX_TLS_CLIENT_KEY": str(good.key)}
    files["CONTEX_TLS_CA"] = str(authority.file)
    assert "SERVING" in await cli("health", "--target", target, **files)


async def test_certificates_may_be_required_at_a_port_of_their_own(
    start_server: StartServer, valkey: EmbeddedValkey, authority: Authority
) -> None:
    server = await start_server(
        valkey.url,
        **authority.server().settings,
        tls_client_ca=authority.file,
        tls_client_port=0,
    )
    without, own = Tls(authority.file), Tls(authority.file, *authority.issue("agent"))
    for tls in (without, own):
        assert await health(f"contexs://localhost:{server.port}", tls) == "SERVING"
    assert await health(f"contexs://localhost:{server.client_port}", own) == "SERVING"
    await why_not(f"contexs://localhost:{server.client_port}", without)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda a, d: Tls(d / "none"), "No such file"),
        (lambda a, d: Tls(a.server().key), "holds no certificate in PEM"),
        (lambda a, d: Tls(a.file, cert=a.file), "a client's certificate needs its key"),
        (lambda a, d: Tls(a.file, key=a.file), "a client's key needs its certificate"),
        (lambda a, d: Tls(a.file, a.file, a.file), "are no certificate and key in PEM"),
        (lambda a, d: Tls(a.file, a.server().cert, a.issue("b").key), "do not belong together"),
        (lambda a, d: Tls(a.file, *a.server(passphrase=b"secret")), "has a passphrase"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_files_that_can_not_be_used_are_named(
    kind: Any, make: Any, said: str, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises((OSError, ValueError), match=said):
        kind("contexs://localhost:1", tls=make(authority, tmp_path))


def test_plain_text_and_tls_are_not_mixed_up() -> None:
    with pytest.raises(ValueError, match="asks for plain text"):
        Client("contex://localhost:1", tls=Tls())
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        Client("contexs://localhost")


@pytest.mark.parametrize(
    ("part", "identity"),
    [
        (None, "cert:spiffe://acme/billing"),
        ("uri", "cert:spiffe://acme/billing"),
        ("dns", "cert:billing.acme.example"),
        ("email", "cert:billing@acme.example"),
        ("cn", "cert:agent"),
    ],
)
async def test_a_certificate_is_an_identity(authority: Authority, part: Any, identity: str) -> None:
    names = [
        x509.DNSName("billing.acme.example"),
        x509.UniformResourceIdentifier("spiffe://acme/billing"),
        x509.UniformResourceIdentifier("spiffe://acme/second"),
        x509.RFC822Name("billing@acme.example"),
    ]
    found: list[str] = []

    async def tell(_request: bytes, context: Any) -> bytes:
        found.append(identity_of(context.auth_context(), part))
        return b""

    tls = ServerTls(TlsFiles(*authority.server(), authority.file))
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(tell)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("t.T", {"Tell": handler})]
    )
    ports = [
        server.add_secure_port("localhost:0", tls.credentials(client_certificates=required))
        for required in (True, False)
    ]
    await server.start()
    try:
        for port in ports:
            async with secure(port, authority, authority.issue("agent", names)) as channel:
                await channel.unary_unary("/t.T/Tell")(b"", timeout=DEADLINE_S)
    finally:
        await server.stop(0)
    # Where none is required, none is asked for.
    assert found == [identity, ""]


async def test_new_connections_see_a_new_certificate_and_streams_go_on(
    start_server: StartServer, valkey: EmbeddedValkey, authority: Authority
) -> None:
    pair = authority.server()
    server = await start_server(valkey.url, **pair.settings)
    ended = asyncio.Event()

    async def publish(api: Api) -> int:
        count = 0
        while not ended.is_set():
            await api.publish(NewEvent(data_key="k", payload=b"1"))
            count += 1
        return count

    async def follow(api: Api, started: asyncio.Event) -> list[str]:
        stream = api.subscribe()
        sequences: list[str] = []
        async for message in stream.call:
            started.set()
            sequences += [event.sequence for event in message.events.events]
            if last[0] in sequences:
                break
        stream.call.cancel()
        return sequences

    def seen() -> int:
        """The serial number that a new connection sees."""
        pem = ssl.get_server_certificate(("127.0.0.1", server.port))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    last = [""]
    apis = [Api(secure(server.port, authority)) for _ in range(3)]
    async with apis[0], apis[1], apis[2]:
        published = asyncio.create_task(publish(apis[0]))
        starts = [asyncio.Event() for _ in range(2)]
        followers = [
            asyncio.create_task(follow(api, start))
            for api, start in zip(apis[1:], starts, strict=True)
        ]
        for start in starts:
            await asyncio.wait_for(start.wait(), DEADLINE_S)
        assert await asyncio.to_thread(seen) == pair.serial
        for number in range(5):
            new = authority.server(f"new-{number}")
            pair.replace(new)
            assert await asyncio.to_thread(seen) == new.serial
            good = pair.cert.read_bytes()
            for broken in (
                b"",
                good[: len(good) // 2],
                authority.server("expired", days=(-2, -1)).cert.read_bytes(),
                authority.server("unlike").cert.read_bytes(),
            ):
                pair.cert.write_bytes(broken)
                assert await asyncio.to_thread(seen) == new.serial
            pair.cert.unlink()
            assert await asyncio.to_thread(seen) == new.serial
            pair.cert.write_bytes(good)
            assert await asyncio.to_thread(seen) == new.serial
        ended.set()
        assert await published > 0
        (last[0],) = await apis[0].publish(NewEvent(data_key="end", payload=b"1"))
        log = [event.sequence for event in await apis[0].log()]
        for received in await asyncio.gather(*followers):
            assert received == log[log.index(received[0]) :]


async def test_a_new_authority_of_clients_counts_for_new_connections(
    start_server: StartServer, valkey: EmbeddedValkey, authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.file.read_bytes())
    server = await start_server(valkey.url, **authority.server().settings, tls_client_ca=trusted)
    other = Authority.new(tmp_path, "other")
    target = f"contexs://localhost:{server.port}"
    before = Tls(authority.file, *authority.issue("before"))
    after = Tls(authority.file, *other.issue("after"))
    await why_not(target, after)
    async with AsyncClient(target, tls=before) as client:
        assert await client.health() == "SERVING"
        trusted.write_bytes(other.file.read_bytes())
        assert await health(target, after) == "SERVING"
        assert await client.health() == "SERVING"
        await why_not(target, before)


@pytest.fixture
def self_signed(
    start_server: StartServer, valkey: EmbeddedValkey, tmp_path: Path
) -> Callable[[], Awaitable[Server]]:
    return partial(start_server, valkey.url, data_dir=tmp_path / "data", tls_self_signed=True)


async def test_a_self_signed_certificate_is_made_once(
    self_signed: Callable[[], Awaitable[Server]], tmp_path: Path
) -> None:
    server = await self_signed()
    file = tmp_path / "data" / CERTIFICATE_FILE
    first = file.read_bytes()
    assert (tmp_path / "data" / "tls.pem").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in first
    for host in ("localhost", "127.0.0.1"):
        target = f"contexs://{host}:{server.port}"
        assert await health(target, Tls(ca=file)) == "SERVING"
    await server.stop()
    server = await self_signed()
    assert file.read_bytes() == first
    assert await health(f"contexs://localhost:{server.port}", Tls(ca=file)) == "SERVING"


async def test_an_own_channel_is_left_as_it_is(
    start_server: StartServer, valkey: EmbeddedValkey, authority: Authority
) -> None:
    server = await start_server(valkey.url, **authority.server().settings)
    async with secure(server.port, authority) as channel:
        client = contex.AsyncClient(channel=channel)
        assert await client.health() == "SERVING"
