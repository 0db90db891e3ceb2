# ruff: noqa: RUF001
from __future__ import annotations

import pytest
from contex_server.matching.words import cut, in_words, lines, phrase
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("価格/東京", "価格 東京"),
        ("価格／東京：本店", "価格 東京 本店"),
        ("センサー・温度", "センサー 温度"),
        ("【重要】お知らせ", "重要 お知らせ"),
        ("ｶﾞｿﾘﾝ＿価格", "ガソリン 価格"),
        ("ＡＰＩ設定", "api設定"),
        ("ราคา/กรุงเทพ", "ราคา กรุงเทพ"),
        ("कीमत.दिल्ली", "कीमत दिल्ली"),
        ("Цена_Москва", "цена москва"),
        ("سعر/القاهرة", "سعر القاهرة"),
    ],
)
def test_names_in_words(name: str, words: str) -> None:
    assert in_words(name) == words


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("温度： 23.5。", "温度： 。"),
        ("温度（23.5）", "温度（ ）"),
        ("更新 2026年5月3日 14:02", "更新"),
        ("업데이트 2026년 5월 3일", "업데이트"),
        ("第3四半期", "第3四半期"),
        ("iPhone15", "iPhone15"),
    ],
)
def test_numbers_between_other_letters(text: str, rest: str) -> None:
    assert phrase(text) == rest


@pytest.mark.parametrize(
    ("text", "chars", "found"),
    [
        ("価格は毎日変わる。在庫も同じ。", 10, ["価格は毎日変わる。", "在庫も同じ。"]),
        ("दाम रोज़ बदलता है। भंडार भी।", 20, ["दाम रोज़ बदलता है।", "भंडार भी।"]),
        ("A 価格は毎日変わり在庫も", 8, ["A 価格は毎日変", "わり在庫も"]),
        ("価格は毎日、在庫は毎週", 5, ["価格は毎", "日、在庫は", "毎週"]),
        ("서울의 날씨가 어때요", 6, ["서울의", "날씨가", "어때요"]),
        ("some words of English", 11, ["some words", "of English"]),
    ],
)
def test_lines_end_where_words_do(text: str, chars: int, found: list[str]) -> None:
    assert list(lines(text, chars)) == found


def test_cuts() -> None:
    assert cut("A 価格は毎日変わる", 6) == "A 価格は毎"
    assert cut("some words", 6) == "some"
    assert cut("something", 4) == "some"
    assert cut("날씨가 어때요", 5) == "날씨가"


@given(st.text(), st.integers(1, 20))
def test_lines_lose_only_spaces(text: str, chars: int) -> None:
    text = " ".join(text.split())
    found = list(lines(text, chars))
    assert all(len(line) <= chars for line in found)
    assert "".join("".join(found).split()) == "".join(text.split())
