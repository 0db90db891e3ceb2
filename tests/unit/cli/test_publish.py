from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from contex_cli import drafts, publish
from contex_cli.exits import ExitCode, InputError
from hypothesis import given
from hypothesis import strategies as st

from tests import command_line


def line(key: str, size: int = 1) -> bytes:
    return b'{"data_key":"%s","data":"%s"}' % (key.encode(), b"x" * size)


def keys(batch: publish.Batch) -> list[str]:
    return [event.data_key for event in batch.events]


async def batches_of(descriptor: int) -> list[publish.Batch]:
    return [batch async for batch in publish.batches(descriptor)]


@given(st.lists(st.integers(1, 400_000), max_size=12))
def test_packing_keeps_every_line_in_order_and_within_the_bounds(sizes: list[int]) -> None:
    lines = [line(f"k{n}", size) for n, size in enumerate(sizes)]
    packed = list(publish.pack(lines, before=10))
    assert [key for batch in packed for key in keys(batch)] == [f"k{n}" for n in range(len(sizes))]
    assert all(len(batch.events) == 1 or batch.size_bytes <= 1_100_000 for batch in packed)
    numbers = [n for b in packed for n in range(b.first_line, b.last_line + 1)]
    assert numbers == list(range(11, 11 + len(sizes)))


def test_packing_closes_a_batch_at_256_events() -> None:
    packed = list(publish.pack([line(f"k{n}") for n in range(600)], before=0))
    assert [len(batch.events) for batch in packed] == [256, 256, 88]


def test_what_comes_before_a_wrong_line_is_published() -> None:
    packing = publish.pack([line("a"), b"", line("b"), b"oops", line("c")], before=4)
    assert keys(next(packing)) == ["a", "b"]
    with pytest.raises(InputError, match="line 8: not JSON"):
        next(packing)


async def test_a_file_is_read_whole_also_without_a_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(line(f"k{n}", 1_000) for n in range(1_000)))
    descriptor = os.open(path, os.O_RDONLY)
    read = await batches_of(descriptor)
    os.close(descriptor)
    assert [key for batch in read for key in keys(batch)] == [f"k{n}" for n in range(1_000)]


async def test_a_slow_pipe_is_published_as_it_arrives() -> None:
    reader, writer = os.pipe()
    arriving = publish.batches(reader)
    os.write(writer, line("a") + b"\n" + line("b") + b"\n" + line("c")[:10])
    assert keys(await anext(arriving)) == ["a", "b"]
    os.write(writer, line("c")[10:] + b"\n")
    assert keys(await anext(arriving)) == ["c"]
    os.close(writer)
    with pytest.raises(StopAsyncIteration):
        await anext(arriving)
    os.close(reader)


async def test_waiting_for_a_pipe_can_be_cancelled() -> None:
    reader, writer = os.pipe()
    waiting = asyncio.ensure_future(anext(publish.batches(reader)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.close(writer)
    await asyncio.sleep(0.01)
    os.close(reader)


async def test_a_directory_cannot_be_read(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InputError, match="can't read on"):
        await batches_of(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["k", "@FOLDER"], "is a folder; publish its files with --dir"),
        (["k", "@FOLDER/empty.json"], "is empty, which is not JSON"),
        (["k", "1", "-d", "  "], "has only spaces; '' removes the description"),
    ],
)
def test_what_can_not_be_published_says_why(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.json").touch()
    (tmp_path / "empty.txt").touch()
    words = [word.replace("FOLDER", str(tmp_path)) for word in arguments]
    done = command_line.invoke("publish", *words, "--target", "127.0.0.1:9")
    assert done.exit_code == ExitCode.USAGE
    assert told in done.stderr
    assert drafts.read_payload(f"@{tmp_path}/empty.txt", None) == (b"", "text/plain; charset=utf-8")
