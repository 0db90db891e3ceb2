# ruff: noqa: RUF001
from __future__ import annotations

import re
import string
import threading
from itertools import pairwise
from zlib import crc32

import numpy as np
import pytest
import Stemmer
from contex_server.matching.terms import NO_TERMS, STOP_WORDS, Terms, is_pair, terms_of, words_of
from hypothesis import given
from hypothesis import strategies as st


def counts(*parts: tuple[str, int]) -> dict[int, int]:
    terms = terms_of(parts)
    return dict(zip(terms.ids.tolist(), terms.counts.tolist(), strict=True))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Payments failing", "payment FAILED"),
        ("the payments of the customers", "payments customers"),
        ("show me what payments need", "payment"),
        ("naïve café", "naive cafe"),
        ("billing/invoice-service.v2", "billing invoice service v 2"),
        ("ﬁle", "file"),
        ("2400 ㎒", "2400 mhz"),
        ("İSTANBUL", "istanbul"),
        ("ｶﾞｿﾘﾝ", "ガソリン"),
        ("ＡＰＩ　キー", "api キー"),
        ("か\u3099くせい", "がくせい"),
        ("한국어", "\u1112\u1161\u11ab국어"),
        ("ёлка", "елка"),
        ("τιμή", "ΤΙΜΗ"),
        ("كِتَاب", "كتاب"),
        ("שָׁלוֹם", "שלום"),
        ("می\u200cخواهم", "میخواهم"),
        ("pay\u00adment", "payment"),
        ("葛\U000e0100", "葛"),
    ],
)
def test_texts_that_have_the_same_terms(one: str, other: str) -> None:
    assert counts((one, 1)) == counts((other, 1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("が", "か"),
        ("й", "и"),
        ("किताब", "कतब"),
        ("มา", "มี"),
        ("ї", "і"),
    ],
)
def test_marks_that_make_another_letter_count(one: str, other: str) -> None:
    assert not counts((one, 1)).keys() & counts((other, 1)).keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("商品の価格", ["商品", "品の", "の価", "価格"]),
        ("价格，东京", ["价格", "东京"]),
        ("駅", ["駅"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("人々・物", ["人々", "物"]),
        ("API設定v2 read only", ["api", "設定", "v", "2", "read", "v 2", "2 read"]),
        ("서울의 날씨", ["서울", "울의", "날씨"]),
        ("ราคาน้ำมัน", ["ราคา", "คาน้ํา", "น้ํามั", "มัน"]),
        ("ລາຄາ", ["ລາຄາ"]),
        ("ဈေးနှုန်း", ["ဈေးနှု", "နှုန်း"]),
        ("តម្លៃ", ["តម្លៃ"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा", "हिन्दी भाषा"]),
        ("цены товаров", ["цены", "товаров", "цены товаров"]),
    ],
)
def test_words_in_other_scripts(text: str, words: list[str]) -> None:
    assert [word.word for word in words_of(text)] == words


@pytest.mark.parametrize(
    ("need", "text"),
    [
        ("価格", "東京本店の商品価格表"),
        ("天气预报", "北京市的天气预报每小时更新"),
        ("날씨", "서울날씨가 매시간 갱신된다"),
        ("ราคา", "ตารางราคาสินค้า"),
        ("ລາຄາ", "ຕາຕະລາງລາຄາສິນຄ້າ"),
        ("цена", "список цен товаров"),
        ("कीमत", "उत्पाद की कीमतें"),
    ],
)
def test_a_need_is_found_inside_a_text(need: str, text: str) -> None:
    assert counts((need, 1)).keys() <= counts((text, 1)).keys()


_ENGLISH = Stemmer.Stemmer("english")
_WORDS = re.compile(r"[^\W\d_]+|\d+")


def english_ids(text: str) -> set[int]:
    """The ids of terms as they are stored."""
    words = [word for word in _WORDS.findall(text.lower()) if word not in STOP_WORDS]
    stems = _ENGLISH.stemWords(words)
    pairs = {crc32(f"{a} {b}".encode()) | 0x80000000 for a, b in pairwise(stems)}
    return pairs | {crc32(stem.encode()) & 0x7FFFFFFF for stem in stems}


_ascii_words = st.lists(st.text(string.ascii_letters + string.digits + "'-_/.", max_size=8))


@given(st.text(st.characters(max_codepoint=127)) | _ascii_words.map(" ".join))
def test_ascii_words_keep_their_ids(text: str) -> None:
    assert counts((text, 1)).keys() == english_ids(text)


def test_pairs_of_neighbours_are_terms_of_their_own() -> None:
    one, other = terms_of([("read only replica", 1)]), terms_of([("replica read", 1)])
    assert is_pair(one.ids).tolist() == [False, False, True] or is_pair(one.ids).sum() == 1
    assert not set(one.ids[is_pair(one.ids)]) & set(other.ids[is_pair(other.ids)])


def test_words_count_as_often_as_their_part_says() -> None:
    twice = counts(("payment", 2), ("payment gateway", 1))
    assert sorted(twice.values()) == [1, 1, 3]
    assert counts(("payment " * 300, 2)) == dict.fromkeys(counts(("payment payment", 1)), 255)


@given(st.lists(st.tuples(st.text(), st.integers(1, 3))))
def test_terms_are_ascending_each_once_and_never_none(parts: list[tuple[str, int]]) -> None:
    terms = terms_of(parts)
    assert terms.ids.dtype == np.uint32
    assert terms.counts.dtype == np.uint8
    assert (np.diff(terms.ids.astype(np.int64)) > 0).all()
    assert (terms.counts > 0).all()
    assert terms.length == sum(terms.counts.tolist())


@given(st.text())
def test_the_words_of_a_text_are_its_terms(text: str) -> None:
    assert all(word.word == word.word.lower() for word in words_of(text))
    assert {word.id for word in words_of(text)} == counts((text, 1)).keys()


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 40), unique=True))
def test_counts_of_terms(known: list[int], asked: list[int]) -> None:
    ids = np.array(sorted(known), np.uint32)
    terms = Terms(ids, (ids + 1).astype(np.uint8))
    found = terms.counts_of(np.array(asked, np.uint32))
    assert found.tolist() == [float(i + 1) if i in known else 0.0 for i in asked]


def test_texts_without_words_have_no_terms() -> None:
    assert terms_of([]) is NO_TERMS
    assert terms_of([(" ".join(STOP_WORDS), 1), ("", 2), ("…!", 1)]) is NO_TERMS


def test_threads_stem_alike() -> None:
    texts = [f"shipping containers {n} delayed" for n in range(200)]
    expected, found = [counts((text, 1)) for text in texts], {}

    def work(name: int) -> None:
        found[name] = [counts((text, 1)) for text in texts]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[name] == expected for name in range(4))
