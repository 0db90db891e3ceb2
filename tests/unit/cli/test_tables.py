"""Tables and lines on narrow terminals and in pipes."""

from __future__ import annotations

import re

import pytest
from contex_cli import output
from rich.cells import cell_len
from rich.console import Console

COLUMNS: output.Columns[int] = {
    "sequence": lambda n: f"176400000000{n}-0",
    "time": lambda n: "2026-01-31T15:30:00.000Z",
    "data key": lambda n: "service/payments/config",
    "rev": lambda n: n,
    "type": lambda n: "data_published",
    "publisher": lambda n: "import-of-the-night",
    "payload": lambda n: '{"base_url":"https://api.example.com/v1/payments"}',
}


def show(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(output, "console", lambda: Console(width=width, highlight=False))
    output.show_table([1, 2], COLUMNS)
    captured = capsys.readouterr()
    left_out = ("left out: " in captured.err) and captured.err.split("left out: ")[1].strip()
    assert bool(left_out) is (width < 160)
    return captured.out


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_words(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = show(width, monkeypatch, capsys).splitlines()
    assert max(map(len, lines)) <= width
    for line in lines[3:5]:
        assert "service/payments/config" in line
        assert '{"base_url' in line
        assert "-0 " in line


@pytest.mark.parametrize("width", [12, 20, 30, 40, 60])
def test_on_a_very_narrow_terminal_nothing_is_cut_without_a_mark(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = show(width, monkeypatch, capsys).splitlines()
    assert max(map(len, lines)) <= width
    words = "".join(line[1:16].strip() for line in lines)
    assert "1764000000001-0" in words
    if width == 60:
        assert any("service/payments/config     1   {" in line and "…" in line for line in lines)


@pytest.mark.parametrize(("width", "headings"), [(60, "project events size"), (80, "last")])
def test_counts_and_names_of_projects_are_whole(
    width: int, headings: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=width, highlight=False))
    place = "1764000000000-0  2026-01-31T15:30:00.000Z"
    columns: output.Columns[int] = {
        "project": lambda n: f"shop-of-the-north-{n}",
        "events": lambda n: "1,234,567",
        "size": lambda n: "1,012.3 KiB",
        "first": lambda n: place,
        "last": lambda n: place,
    }
    output.show_table([1, 2], columns)
    shown, told = capsys.readouterr()
    assert re.search(r"shop-of-the-north-2 +1,234,567 +1,012.3 KiB", shown)
    assert set(headings.split()) <= set(shown.split())
    assert "left out: first" in told


def test_a_pipe_gets_all_columns_a_line_a_row_without_spaces_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = show(output._PIPE_COLUMNS, monkeypatch, capsys).splitlines()
    assert all(line == line.rstrip() for line in lines)
    rows = [line for line in lines if "payments" in line]
    assert len(rows) == 2
    assert all(row.endswith('/payments"}') for row in rows)


def test_a_line_that_is_too_long_goes_on_below_so_that_the_payload_is_seen() -> None:
    parts = ["0.83  which payment providers can we use?  ←", "12:00:00.000", "1764000000000-0"]
    parts += ["service/payments/config r1", "x" * 200]
    assert output.fitted_lines(parts[:2], 80) == ["  ".join(parts[:2])]
    lines = output.fitted_lines(parts, 80)
    assert "service/payments/config r1" in lines[1]
    assert lines[-1].endswith("x" * 30 + "…")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "text", ["日本語のキー", "emoji 😀😀", "한국어 데이터", "e\u0301te\u0301", "plain"]
)
def test_a_line_of_wide_characters_fits_the_terminal(text: str) -> None:
    parts = ["12:00:00.000", text * 3, text * 20]
    for width in (30, 41, 80):
        lines = output.fitted_lines(parts, width)
        assert all(cell_len(line) <= width for line in lines)
        assert cell_len(output.shortened(text * 20, width)) <= width
    assert output.shortened(text, max(cell_len(text), len(text))) == text


def test_columns_of_wide_characters_align(capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["日本語のキー", "emoji 😀😀", "plain"]
    output.show_table(keys, {"data key": lambda key: key, "sequence": lambda _: "|"})
    rows = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert len({cell_len(row) for row in rows}) == 1
    assert len(rows) == 3
