"""Whom tokens and client certificates name may do what their bindings say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import contex
import pytest
from contex import AsyncClient, Grant, PermissionDenied, Tls, Unauthenticated
from contex_server.access.bootstrap import ADMIN_KEY_FILE
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server, first_key
from cryptography import x509

from tests.certificates import Authority, Pair
from tests.conftest import StartServer
from tests.integration.support import DEADLINE_S, Words
from tests.issuer import FakeIssuer, running_issuer


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path)


class Deployment:
    """A server with TLS that asks callers who they are, and its clients."""

    def __init__(self, server: Server, authority: Authority, secret: str) -> None:
        self.server = server
        self._authority = authority
        self._clients = AsyncExitStack()
        self.admin = self.client(api_key=secret)

    def client(self, own: Pair | None = None, **credentials: Any) -> AsyncClient:
        """A client that is closed at the end; with a certificate, at the port for those."""
        port = self.server.client_port if own else self.server.port
        tls = Tls(self._authority.file, *(own or ()))
        client = AsyncClient(
            f"contexs://localhost:{port}",
            tls=tls,
            **(credentials or {"api_key": ""}),
        )
        self._clients.push_async_callback(client.close)
        return client

    async def close(self) -> None:
        await self._clients.aclose()


@pytest.fixture
async def deployment(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    authority: Authority,
    issuer: FakeIssuer,
    tmp_path: Path,
) -> AsyncIterator[Deployment]:
    path = tmp_path / ADMIN_KEY_FILE
    server = await start_server(
        valkey.url,
        embedder=Words(),
        access=True,
        admin_key_file=path,
        issuers=[issuer.settings(leeway_s=0)],
        **authority.server().settings,
        tls_client_ca=authority.file,
        tls_client_port=0,
    )
    await first_key(server.settings, valkey.url)
    await server.rooms.access.directory.refresh()
    started = Deployment(server, authority, path.read_text().strip())
    yield started
    await started.close()


async def test_a_token_may_do_what_its_subject_and_groups_may(
    deployment: Deployment, issuer: FakeIssuer
) -> None:
    admin = deployment.admin
    await admin.access.set_binding("acme:ada", [Grant("publisher", ("shop",), ("ada/*",))])
    await admin.access.set_binding("group:acme:readers", [Grant("readonly", ("shop",))])
    ada = deployment.client(token=issuer.token())
    me = await ada.access.who_am_i()
    assert (me.identity, me.credential) == ("acme:ada", contex.Credential.TOKEN)
    await ada.publish("shop", "ada/x", 1)
    with pytest.raises(PermissionDenied):
        await ada.publish("shop", "other", 1)
    with pytest.raises(PermissionDenied):
        await anext(aiter(ada.list_events("shop")))
    reader = deployment.client(token=issuer.token(groups=["readers"]))
    assert [e.publisher async for e in reader.list_events("shop")] == ["acme:ada"]
    for wrong in (issuer.token(aud="another"), issuer.token()[:-8] + "AAAAAAAA", "a.b.c"):
        with pytest.raises(Unauthenticated) as caught:
            await deployment.client(token=wrong).access.who_am_i()
        assert caught.value.metadata["cause"] == "INVALID"


async def test_a_certificate_may_do_what_its_holder_may(
    deployment: Deployment, authority: Authority
) -> None:
    name = x509.UniformResourceIdentifier("spiffe://acme/billing")
    own = authority.issue("billing", [name])
    billing = deployment.client(own)
    me = await billing.access.who_am_i()
    assert (me.identity, me.credential) == (
        "cert:spiffe://acme/billing",
        contex.Credential.CERTIFICATE,
    )
    with pytest.raises(PermissionDenied):
        await billing.publish("shop", "x", 1)
    await deployment.admin.access.set_binding(me.identity, [Grant("publisher", ("shop",))])
    await billing.publish("shop", "x", 1)
    # Without a certificate, and where none is asked for, it is nobody.
    with pytest.raises(Unauthenticated) as caught:
        await deployment.client().access.who_am_i()
    assert caught.value.metadata["cause"] == "MISSING"


@pytest.mark.parametrize("kind", ["token", "certificate"])
async def test_a_stream_ends_with_what_opened_it(
    deployment: Deployment, authority: Authority, issuer: FakeIssuer, kind: str
) -> None:
    identity = "acme:ada" if kind == "token" else "cert:ada"
    await deployment.admin.publish("shop", "x", 1)
    await deployment.admin.access.set_binding(identity, [Grant("readonly", ("shop",))])
    if kind == "token":
        client = deployment.client(token=issuer.token(exp=int(time.time()) + 3))
    else:
        client = deployment.client(authority.issue("ada", days=(-1, 3 / 24 / 3600)))
    seen = asyncio.Event()

    async def follow() -> None:
        async with client.subscribe("shop") as events:
            async for _ in events:
                seen.set()

    following = asyncio.create_task(follow())
    await asyncio.wait_for(seen.wait(), DEADLINE_S)
    with pytest.raises(contex.ContexError) as caught:
        await asyncio.wait_for(following, DEADLINE_S)
    assert isinstance(caught.value, Unauthenticated)
    assert caught.value.metadata["cause"] == "EXPIRED"
