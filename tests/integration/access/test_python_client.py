"""The Python client, as rights change under its streams."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import contex
import pytest

from tests.integration.access.support import Deployment
from tests.integration.support import DEADLINE_S, P


def client_of(deployment: Deployment, key: str) -> contex.AsyncClient:
    return contex.AsyncClient(f"127.0.0.1:{deployment.server.port}", api_key=key)


async def resumed(stream: contex.Subscription[contex.Event]) -> None:
    """Waits until a stream that is read has been opened again, and is live."""
    async with asyncio.timeout(DEADLINE_S):
        while not (stream.reconnects and stream.caught_up):
            await asyncio.sleep(0.01)


async def test_a_stream_goes_on_with_what_may_be_seen_now(deployment: Deployment) -> None:
    async with client_of(deployment, deployment.secret) as admin:
        public = contex.Grant("readonly", (P,), ("public/*",))
        created = await admin.access.create_key("reader", grants=[public])
        async with (
            client_of(deployment, created.secret_key) as reader,
            reader.subscribe(P, start="end") as stream,
        ):
            await admin.publish(P, "secret/a", 1)
            await admin.publish(P, "public/a", 1)
            assert (await stream.next(DEADLINE_S)).data_key == "public/a"

            following = asyncio.create_task(stream.next(DEADLINE_S))
            await admin.access.set_binding("reader", [contex.Grant("readonly", (P,))])
            await resumed(stream)
            await admin.publish(P, "secret/b", 1)
            assert (await following).data_key == "secret/b"

            await admin.access.revoke_key(created.key.key_id)
            with pytest.raises(contex.Unauthenticated) as ended:
                await stream.next(DEADLINE_S)
            assert ended.value.cause == "REVOKED"


async def test_what_an_agent_held_is_dropped_with_the_right_to_it(deployment: Deployment) -> None:
    both = contex.Grant("consumer", (P,), ("public/*", "secret/*"))
    async with client_of(deployment, deployment.secret) as admin:
        created = await admin.access.create_key("reader", grants=[both])
        await admin.publish(P, "public/apple", "apples", description="apples")
        await admin.publish(P, "secret/apple", "apples", description="apples")
        held: dict[str, contex.MatchedEvent] = {}
        async with client_of(deployment, created.secret_key) as reader:
            registered = await reader.register_agent(P, "picker", ["apples"])
            assert registered.agent.identity == "reader"
            async with reader.listen(P, "picker") as stream:
                while len(held) < 2:
                    (await stream.next(DEADLINE_S)).apply_to(held)
                public = contex.Grant("consumer", (P,), ("public/*",))
                await admin.access.set_binding("reader", [public])
                told = await stream.next(DEADLINE_S)
                assert told.kind is contex.MatchKind.WITHHELD
                told.apply_to(held)
        assert list(held) == ["public/apple"]


async def test_a_decision_and_what_is_done_agree(deployment: Deployment) -> None:
    async with client_of(deployment, deployment.secret) as admin:
        grants = [contex.Grant("publisher", ("sh*",), ("billing/*",))]
        created = await admin.access.create_key("billing", grants=grants)
        async with client_of(deployment, created.secret_key) as billing:
            for key, allowed in (("billing/a", True), ("hr/a", False)):
                asked = await billing.access.can("Publish", P, data_key=key)
                assert bool(asked) is allowed
                if allowed:
                    await billing.publish(P, key, 1)
                else:
                    with pytest.raises(contex.PermissionDenied):
                        await billing.publish(P, key, 1)
            with pytest.raises(contex.PermissionDenied) as denied:
                await billing.get_state(P)
            assert (denied.value.identity, denied.value.method) == ("billing", "GetState")


async def test_a_consumer_is_not_given_what_it_may_no_longer_read(deployment: Deployment) -> None:
    keys = ("public/apple", "secret/apple", "secret/apples")
    both = contex.Grant("consumer", (P,), ("public/*", "secret/*"))
    async with client_of(deployment, deployment.secret) as admin:
        created = await admin.access.create_key("reader", grants=[both])
        for key in keys:
            await admin.publish(P, key, "apples", description="apples")
        async with client_of(deployment, created.secret_key) as reader:
            await reader.register_agent(P, "picker", ["apples"])
            async with reader.listen(P, "picker") as stream:
                decided = {(await stream.next(DEADLINE_S)).event.data_key for _ in keys}
            assert decided == {*keys}
            async with reader.consume(P, "picker", auto_ack=False) as consuming:
                while (claimed := await anext(consuming)).event.data_key != "secret/apple":
                    pass
                await claimed.park("for later")

            public = contex.Grant("consumer", (P,), ("public/*",))
            await admin.access.set_binding("reader", [public])
            content: dict[str, bytes] = {}
            async with (
                asyncio.timeout(DEADLINE_S),
                reader.consume(P, "picker") as consuming,
            ):
                while len(content) < len(keys):  # the last of each key
                    delivery = await anext(consuming)
                    content[delivery.event.data_key] = delivery.event.payload
                    if delivery.kind is not contex.MatchKind.WITHHELD:
                        assert delivery.event.data_key == "public/apple"
            assert content == {"public/apple": b"apples", "secret/apple": b"", "secret/apples": b""}
            assert not [parked async for parked in reader.parked(P, "picker")]
        (whole,) = [parked async for parked in admin.parked(P, "picker")]
        assert whole.matched.event.payload == b"apples"


def _read(app: contex.Client, admin: contex.Client) -> None:
    assert app.access.who_am_i().identity == "app"


def _publish(app: contex.Client, admin: contex.Client) -> None:
    assert app.publish(P, "apple/app", "more").revision == 2


def _state(app: contex.Client, admin: contex.Client) -> None:
    with app.stream_state(P) as state:
        assert [datum.data_key for datum in state] == ["apple/app"]


def _export(app: contex.Client, admin: contex.Client) -> None:
    with app.export(P) as pieces:
        assert b"".join(piece.data for piece in pieces)


def _import(app: contex.Client, admin: contex.Client) -> None:
    with admin.export(P) as pieces:
        file = io.BytesIO(b"".join(piece.data for piece in pieces))
    assert app.import_from("copy", file).imported_count == 1


def _subscribe(app: contex.Client, admin: contex.Client) -> None:
    with app.subscribe(P, start="beginning") as stream:
        assert stream.next(DEADLINE_S).data_key == "apple/app"


def _listen(app: contex.Client, admin: contex.Client) -> None:
    admin.register_agent(P, "picker", ["apples"])
    with app.listen(P, "picker") as stream:
        assert stream.next(DEADLINE_S).event.data_key == "apple/app"


def _consume(app: contex.Client, admin: contex.Client) -> None:
    admin.register_agent(P, "picker", ["apples"])
    with app.consume(P, "picker") as consuming:
        assert next(consuming).event.data_key == "apple/app"


def _publish_stream(app: contex.Client, admin: contex.Client) -> None:
    with app.publish_stream(P, [[contex.NewEvent("apple/app", "more")]]) as results:
        assert [result.error for result in results] == [None]


_CALLS = (
    _read,
    _publish,
    _state,
    _export,
    _import,
    _subscribe,
    _listen,
    _consume,
    _publish_stream,
)


@pytest.mark.parametrize("call", _CALLS)
async def test_a_call_is_made_again_with_the_key_that_has_taken_the_place_of_one(
    deployment: Deployment, tmp_path: Path, call: Callable[[contex.Client, contex.Client], None]
) -> None:
    target = f"127.0.0.1:{deployment.server.port}"
    file = tmp_path / "app.key"

    def work() -> None:
        with contex.Client(target, api_key=deployment.secret) as admin:
            rights = contex.Grant("admin", ("*",))
            created = admin.access.create_key("app", grants=[rights])
            file.write_text(created.secret_key)
            with contex.Client(target, api_key_file=file) as app:
                app.publish(P, "apple/app", "apples", description="apples")
                rotated = admin.access.rotate_key(created.key.key_id)
                admin.access.revoke_key(created.key.key_id)
                with contex.Client(target, api_key=created.secret_key) as old:
                    end = monotonic() + DEADLINE_S
                    while not isinstance(refused_with(old.access.who_am_i), contex.Unauthenticated):
                        assert monotonic() < end
                file.write_text(rotated.secret_key)
                call(app, admin)

    await asyncio.to_thread(work)


def refused_with(call: Callable[[], object]) -> contex.ContexError | None:
    try:
        call()
    except contex.ContexError as error:
        return error
    return None


async def test_streams_go_on_with_the_key_that_has_taken_the_place_of_one(
    deployment: Deployment, tmp_path: Path
) -> None:
    rights = [contex.Grant(role, (P,)) for role in ("consumer", "publisher")]
    reading: list[asyncio.Future[Any]]
    file = tmp_path / "app.key"
    more: asyncio.Queue[str] = asyncio.Queue()

    async def batches() -> AsyncIterator[list[contex.NewEvent]]:
        while True:
            yield [contex.NewEvent(await more.get(), "apples", description="apples")]

    async with client_of(deployment, deployment.secret) as admin:
        created = await admin.access.create_key("app", grants=rights)
        key_id = created.key.key_id
        file.write_text(created.secret_key)
        target = f"127.0.0.1:{deployment.server.port}"
        async with (
            asyncio.timeout(DEADLINE_S),
            contex.AsyncClient(target, api_key_file=file) as app,
            contex.AsyncClient(target, api_key_file=file) as worker,
        ):
            await app.register_agent(P, "picker", ["apples"])
            async with (
                app.subscribe(P, start="end") as subscribed,
                app.listen(P, "picker") as listened,
                worker.consume(P, "picker") as consumed,
                app.publish_stream(P, batches()) as published,
            ):
                for rotations in range(3):
                    reading = [
                        asyncio.ensure_future(anext(subscribed)),
                        asyncio.ensure_future(anext(listened)),
                        asyncio.ensure_future(anext(consumed)),
                    ]
                    streams = (subscribed, listened, consumed)
                    while any(stream.reconnects < rotations for stream in streams):
                        await asyncio.sleep(0.01)
                    await more.put(data_key := f"apple/{rotations}")
                    assert (await anext(published)).error is None
                    event, matched, delivery = await asyncio.gather(*reading)
                    assert event.data_key == data_key
                    assert matched.event.data_key == delivery.event.data_key == data_key
                    rotated = await admin.access.rotate_key(key_id, overlap=60)
                    file.write_text(rotated.secret_key)
                    await admin.access.revoke_key(key_id)
                    key_id = rotated.key.key_id
                assert published.reconnects
