"""Whatever a client sends to prove who it is: it is told so, and nobody else of what it sent."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from contex.v1 import access_service_pb2 as pb
from contex.v1 import event_service_pb2
from contex_server.api.shared.cursors import Token, encode_text
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.canaries import captured_logs
from tests.integration.access.support import Deployment, grant
from tests.integration.hostile.table import forged
from tests.integration.support import DEADLINE_S, P, Refusal, event

ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
"""What gRPC lets a client send in a header."""
LONGEST = 7_000
"""With the others, just below gRPC's limit on what a client may send in headers."""


def quick(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def headers_like(secret: str, other_id: str) -> st.SearchStrategy[list[str]]:
    """Values of "authorization" that are no valid credential, though some nearly are."""
    key_id, own = secret.split("_", 2)[1:]

    def flipped(place: int, bit: int) -> str:
        place %= len(secret)
        changed = chr(ord(secret[place]) ^ 1 << bit)
        return secret[:place] + (changed if " " <= changed <= "~" else "!") + secret[place + 1 :]

    keys = st.one_of(
        st.integers(0, len(secret) - 1).map(lambda n: secret[:n]),
        st.tuples(st.integers(0, 100), st.integers(0, 6)).map(lambda at: flipped(*at)),
        st.just(f"ctx_{other_id}_{own}"),
        st.just(f"ctx_{key_id}_{own}{own}"),
        st.just(f"ctx_{key_id.upper()}_{own}") if key_id.upper() != key_id else st.just("ctx__"),
        st.just(f"{secret}="),
        st.just("x" * LONGEST),
        st.just(f"ctx_{'0' * 16}_{'A' * LONGEST}"),
    )
    whole = st.one_of(
        ASCII,
        st.tuples(st.sampled_from(["Bearer ", "bearer ", "Bearer", "Basic "]), keys).map("".join),
        st.sampled_from(["Basic ", "Digest ", "", "Bearer:", "Token "]).map(lambda s: s + secret),
        ASCII.map(lambda text: f"Bearer {text}"),
    )
    valid = f"Bearer {secret}"
    alone = whole.filter(lambda text: text.strip().split() != ["Bearer", secret]).map(
        lambda text: [text]
    )
    # Two are none, even if both are valid.
    return st.one_of(alone, alone, whole.map(lambda text: [valid, text]), st.just([valid, valid]))


async def test_no_credential_but_a_valid_one_is_taken(deployment: Deployment) -> None:
    issued = await deployment.key("reader", grant("readonly"))
    other = await deployment.key("other", grant("admin"))
    await deployment.admin.publish(event("a"))
    secret, own = issued.secret_key, issued.secret_key.split("_", 2)[2]
    channel = deployment.with_key("").channel
    paths = ("EventService/ListEvents", "AccessService/WhoAmI", "EventService/Subscribe")
    body = event_service_pb2.ListEventsRequest(project=P).SerializeToString()

    told: list[str] = []

    async def call(path: str, *headers: tuple[str, str | bytes]) -> Refusal | None:
        kind: Any = channel.unary_stream if path.endswith("Subscribe") else channel.unary_unary
        made = kind(f"/contex.v1.{path}")(body, metadata=headers, timeout=DEADLINE_S)
        try:
            await (made.read() if path.endswith("Subscribe") else made)
        except grpc.aio.AioRpcError as error:
            told.append(f"{error!r} {error.trailing_metadata()!r}")
            return Refusal.of(error)
        return None

    for path in paths[:2]:
        assert await call(path, ("authorization", f"Bearer {secret}")) is None
        assert await call(path, ("authorization", f"bEARER   {secret}  ")) is None

    identities = st.none() | ASCII | st.just("%ff") | st.just("a" * 200) | st.just("other")
    sent = st.tuples(headers_like(secret, other.key.key_id), identities, st.sampled_from(paths))

    @quick(25)
    @given(st.lists(sent, min_size=12, max_size=12))
    def refused(many: list[tuple[list[str], str | None, str]]) -> None:
        async def ask(given: tuple[list[str], str | None, str]) -> None:
            values, identity, path = given
            headers = [("authorization", value) for value in values]
            if identity is not None:
                headers.append(("contex-identity", identity))
            answer = await call(path, *headers)
            assert answer is not None, given
            # Both may be at fault.
            assert answer.reason in ("UNAUTHENTICATED", "INVALID_FIELD"), given
            if answer.reason == "UNAUTHENTICATED":
                assert answer.metadata["cause"] in ("MISSING", "INVALID"), given

        async def ask_all() -> None:
            await asyncio.gather(*map(ask, many))

        asyncio.run_coroutine_threadsafe(ask_all(), loop).result(DEADLINE_S)

    loop = asyncio.get_running_loop()
    with captured_logs() as logs:
        await asyncio.to_thread(refused)
    assert own[:12] not in f"{logs} {told}"
    assert not [entry for entry in logs if entry["event"] == "internal_error"]
    answer = await call(paths[0], ("authorization-bin", f"Bearer {secret}".encode()))
    assert answer is not None
    assert answer.metadata["cause"] == "MISSING"


async def test_forged_pages_of_keys_and_bindings(deployment: Deployment) -> None:
    await deployment.tenant("acme", "acme-*")
    acme = await deployment.caller("acme/root", grant("admin"), tenant="acme")
    others = {(await deployment.key(f"i{n}", grant("readonly"))).key.key_id for n in range(5)}
    contents = st.one_of(
        st.binary(max_size=40), st.sampled_from([b"", b"\xff", b"\0", b"~" * 90_000, b"f" * 16])
    )
    tokens = st.one_of(
        st.text(max_size=60),
        st.tuples(st.sampled_from(Token), contents, st.sampled_from(["", P])).map(
            lambda given: forged(*given)
        ),
        st.sampled_from([encode_text(kind, "", text) for kind in Token for text in ("", "a")]),
    )
    loop = asyncio.get_running_loop()

    async def page(token: str) -> None:
        for kind in ("ListKeys", "ListBindings"):
            request = getattr(pb, f"{kind}Request")(page_token=token, page_size=2)
            try:
                answer = await getattr(acme.access, kind)(request, timeout=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                reasons.add(Refusal.of(error).reason)
                continue
            # It has what it administers, wherever it begins.
            listed = answer.keys if kind == "ListKeys" else answer.bindings
            assert {each.tenant for each in listed} <= {"acme"}
            assert not others & {getattr(each, "key_id", "") for each in listed}

    @quick(40)
    @given(tokens)
    def paged(token: str) -> None:
        asyncio.run_coroutine_threadsafe(page(token), loop).result(DEADLINE_S)

    reasons = set[str]()
    await asyncio.to_thread(paged)
    assert reasons == {"CURSOR_INVALID"}
