"""The rules of docs/adr/0017: what may change in a store that servers of two versions share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex_server.kernel.errors import StartupError
from contex_server.log.embedded import EmbeddedValkey
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from redis.asyncio import Redis

from tests.conftest import StartServer
from tests.golden import functions

pytestmark = pytest.mark.own_store

HERE = Path(__file__).parent
FORMAT_KEY = "ctx:{0}:format"


def test_functions_keep_their_arguments_and_replies() -> None:
    """A difference is a function to be given another name; see functions.py."""
    recorded = json.loads(functions.RECORDED.read_text())
    assert functions.contracts(functions.library()) == recorded


LIBRARY = """
local EACH = 2
local function put(key, args, from)
  redis.call('SET', key, args[from])
end
-- KEYS  one
local function f(keys, args)
  local unrelated = 1
  local at = 1
  put(keys[1], args, at)
  at = at + EACH
  return args[at]
end
redis.register_function('contex1_f', f)
"""


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("args[from])", "args[from + 1])", True),
        ("EACH = 2", "EACH = 3", True),
        ("at = at + EACH", "at = at + 3", True),
        ("return args[at]", "return { args[at] }", True),
        ("put(keys[1]", "put(keys[2]", True),
        ("'contex1_f'", "'contex2_f'", True),
        ("unrelated = 1", "unrelated = 2", False),
        ("-- KEYS  one", "-- KEYS  the one", False),
        ("  put(", "    put(", False),
    ],
)
def test_what_a_contract_notices(before: str, after: str, changes: bool) -> None:
    assert before in LIBRARY
    changed = functions.contracts(LIBRARY.replace(before, after))
    assert (changed != functions.contracts(LIBRARY)) == changes


def test_the_fields_of_stored_events_stay_what_they_are() -> None:
    """A new field is added to fields.json; a field that is given up is `reserved` in the proto and
    stays there."""
    assert _fields(event_pb2.Event.DESCRIPTOR) == json.loads((HERE / "fields.json").read_text())


def _fields(message: Descriptor) -> dict[str, dict[str, str]]:
    """The fields by number, of a message and of those in it."""
    found = {message.full_name: {str(f.number): _describe(f) for f in message.fields}}
    for field in message.fields:
        if field.message_type is not None:
            found |= _fields(field.message_type)
    return found


_TYPES = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def _describe(field: Any) -> str:
    kind = _TYPES[field.type]
    if field.message_type is not None:
        kind = field.message_type.full_name
    return f"{'repeated ' if field.is_repeated else ''}{kind} {field.name}"


@pytest.mark.own_store
async def test_a_new_store_is_marked(valkey: EmbeddedValkey, start_server: StartServer) -> None:
    await start_server(valkey.url)
    async with Redis.from_url(valkey.url) as store:
        assert await store.get(FORMAT_KEY) == b"1"


@pytest.mark.own_store
async def test_a_store_of_another_format_is_refused_and_left_as_it_is(
    valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    async with Redis.from_url(valkey.url) as store:
        await store.set(FORMAT_KEY, "2")
        with pytest.raises(StartupError, match=r"the store has format 2, .* reads format 1:"):
            await start_server(valkey.url)
        assert await store.keys("*") == [FORMAT_KEY.encode()]
        assert await store.get(FORMAT_KEY) == b"2"
        # Another version's functions would be replaced by ours.
        assert await store.function_list() == []


@pytest.mark.own_store
async def test_a_full_store_is_opened_again(
    valkey: EmbeddedValkey, start_server: StartServer
) -> None:
    """The marker is read before it is written: a full store takes no write."""
    await start_server(valkey.url)
    async with Redis.from_url(valkey.url) as store:
        await store.config_set("maxmemory", 1)
        await start_server(valkey.url)
