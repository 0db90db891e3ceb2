from __future__ import annotations

import ast
import json
import re
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
import toon_format
import yaml
from contex_server.kernel.config import Settings
from contex_server.kernel.model import (
    BEGINNING,
    DATA_DELETED,
    DATA_EXPIRED,
    DATA_PUBLISHED,
    Change,
    Erasure,
    Event,
)
from contex_server.matching.context import (
    ContextFormat,
    ContextItem,
    fit_to_budget,
    render_one,
)
from contex_server.matching.payload_values import NESTING, plain_value
from contex_server.matching.tokens import EstimateCounter, TokenizerFile, token_counter
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

FORMS = [ContextFormat.JSON, ContextFormat.YAML, ContextFormat.MARKDOWN, ContextFormat.TOON]
STRUCTURED = [ContextFormat.JSON, ContextFormat.YAML, ContextFormat.TOON]
ESTIMATE = EstimateCounter()


def render(items: list[ContextItem], form: ContextFormat) -> str:
    """All of them, whatever the size."""
    return fit_to_budget(items, None, form, ESTIMATE).text


def item(
    payload: bytes | Any,
    content_type: str = "",
    key: str = "key",
    description: str = "",
    needs: tuple[int, ...] = (0,),
) -> ContextItem:
    if not isinstance(payload, bytes):
        payload = orjson.dumps(payload)
    return datum(key, description, payload, content_type, frozenset(needs))


def datum(
    key: str, description: str, payload: bytes, content_type: str, needs: frozenset[int]
) -> ContextItem:
    event = Event(BEGINNING, DATA_PUBLISHED, key, payload, content_type, description)
    return ContextItem(event, needs)


def parsed(text: str, form: ContextFormat) -> Any:
    if form is ContextFormat.JSON:
        return json.loads(text)
    return toon_format.loads(text) if form is ContextFormat.TOON else yaml.safe_load(text)


# -- values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "content_type", "value"),
    [
        (b'{"a": [1, 2.5, null, true]}', "", {"a": [1, 2.5, None, True]}),
        (b"123456789012345678901", "", 123456789012345678901),
        (b"0.12345678901234567890", "", Decimal("0.12345678901234567890")),
        (b"{", "", "{"),
        (b'"\\ud800"', "", '"\\ud800"'),
        ("é".encode("latin-1"), "text/plain; charset=iso-8859-1", "é"),
        (b"\xff\x00", "image/png", {"base64": "/wA=", "content_type": "image/png"}),
        (b"a,b\n1,2\n", "text/csv", "a,b\n1,2\n"),
        (b"<a/>", "application/xml", "<a/>"),
        (b"plain", "application/octet-stream", "plain"),
        (
            b"a: 1\nb: [x, '2', ~, true, -0.5]",
            "text/yaml",
            {"a": 1, "b": ["x", "2", None, True, -0.5]},
        ),
        (
            b"version: 3.10\nport: 22:22\nmode: 0755\nday: 2026-01-02\nno: off\nid: 1_000",
            "text/yaml",
            {"version": "3.10", "port": "22:22", "mode": "0755", "day": "2026-01-02"}
            | {"no": "off", "id": "1_000"},
        ),
        (b"a: &x [1]\nb: *x", "text/yaml", "a: &x [1]\nb: *x"),
        (b"a: !!set {x}", "text/yaml", "a: !!set {x}"),
        (b"a: 1\na: 2", "text/yaml", "a: 1\na: 2"),
        (b"1: x", "text/yaml", "1: x"),
        (b"[a]: x", "text/yaml", "[a]: x"),
        (b"a\n---\nb", "text/yaml", "a\n---\nb"),
        (b"a: [", "text/yaml", "a: ["),
        (b"", "text/yaml", ""),
        (b'a = 1\n[b]\nc = "x"', "application/toml", {"a": 1, "b": {"c": "x"}}),
        (b"day = 2026-01-02", "application/toml", "day = 2026-01-02"),
        (b"a = inf", "application/toml", "a = inf"),
        (b"a = 9223372036854775808", "application/toml", "a = 9223372036854775808"),
        (b"a = ", "application/toml", "a = "),
    ],
)
def test_values(payload: bytes, content_type: str, value: Any) -> None:
    assert repr(plain_value(payload, content_type)) == repr(value)


@pytest.mark.parametrize("content_type", ["", "text/yaml"])
def test_what_nests_too_deep_is_text(content_type: str) -> None:
    fits = b"[" * NESTING + b"]" * NESTING
    assert isinstance(plain_value(fits, content_type), list)
    for depth in (NESTING + 1, 1_000, 100_000):
        deep = b"[" * depth + b"]" * depth
        assert plain_value(deep, content_type) == deep.decode()
    for form in FORMS:
        assert render([item(fits, content_type), item(deep, content_type)], form)


def test_aliases_of_aliases_are_not_written_out() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    bomb = "\n".join(lines).encode()
    assert len(render([item(bomb, "text/yaml")], ContextFormat.JSON)) < 2 * len(bomb)


# -- rendering ---------------------------------------------------------------------------

TWO = [
    item({"price": 5, "tags": ["a", "b"]}, key="offer", description="What it costs."),
    item(b"# Title\n\nWords.\n", "text/markdown", key="readme"),
]


def test_json() -> None:
    assert render(TWO, ContextFormat.JSON) == (
        '[{"data_key":"offer","description":"What it costs.","data":{"price":5,"tags":["a","b"]}},'
        '{"data_key":"readme","data":"# Title\\n\\nWords.\\n"}]'
    )


def test_yaml() -> None:
    assert render(TWO, ContextFormat.YAML) == (
        "- data_key: offer\n  description: What it costs.\n  data:\n    price: 5\n    tags:\n"
        "    - a\n    - b\n- data_key: readme\n  data: |\n    # Title\n\n    Words.\n"
    )


def test_markdown() -> None:
    assert render(TWO, ContextFormat.MARKDOWN) == (
        '## offer\n\nWhat it costs.\n\n```json\n{"price":5,"tags":["a","b"]}\n```\n\n'
        "## readme\n\n# Title\n\nWords.\n"
    )


def test_toon() -> None:
    assert render(TWO, ContextFormat.TOON) == (
        "[2]:\n  - data_key: offer\n    description: What it costs.\n    data:\n      price: 5\n"
        '      tags[2]: a,b\n  - data_key: readme\n    data: "# Title\\n\\nWords.\\n"'
    )


def test_toon_writes_uniform_data_as_a_table() -> None:
    data = [item({"id": n, "ok": True}, key=f"row-{n}") for n in range(2)]
    assert render(data, ContextFormat.TOON) == (
        "[2]{data_key,data{id,ok}}:\n  row-0,0,true\n  row-1,1,true"
    )


@pytest.mark.parametrize("form", STRUCTURED)
def test_one_datum_is_an_object(form: ContextFormat) -> None:
    alone = [parsed(render_one(one.event, form), form) for one in TWO]
    assert alone == parsed(render(TWO, form), form)
    assert parsed(render([], form), form) == []


@pytest.mark.parametrize(
    ("gone", "word"),
    [
        (Event(BEGINNING, DATA_DELETED, "off", description="A switch."), "deleted"),
        (Event(BEGINNING, DATA_EXPIRED, "off", description="A switch."), "expired"),
        (
            Event(BEGINNING, "own", "off", description="A switch.", erased=Erasure(1, "", "")),
            "erased",
        ),
    ],
)
def test_what_is_gone_is_no_empty_text(gone: Event, word: str) -> None:
    for form in STRUCTURED:
        said = {"data_key": "off", "description": "A switch.", word: True}
        assert parsed(render_one(gone, form), form) == said
    assert render_one(gone, ContextFormat.MARKDOWN) == f"## off\n\nA switch.\n\n({word})\n"


@pytest.mark.parametrize(("change", "word"), [(Change.LEFT, "left"), (Change.ERASED, "erased")])
def test_what_an_agent_is_to_drop_is_no_datum(change: Change, word: str) -> None:
    event = Event(BEGINNING, "data_published", "off", payload=b'"on"', description="A switch.")
    for form in STRUCTURED:
        said = {"data_key": "off", "description": "A switch."}
        assert parsed(render_one(event, form, change), form) == {**said, word: True}
        assert parsed(render_one(event, form, Change.UPDATED), form) == {**said, "data": "on"}
    assert render_one(event, ContextFormat.MARKDOWN, change) == f"## off\n\nA switch.\n\n({word})\n"


def test_one_datum_in_markdown_and_in_no_form() -> None:
    assert "\n".join(render_one(one.event, ContextFormat.MARKDOWN) for one in TWO) == render(
        TWO, ContextFormat.MARKDOWN
    )
    assert render([], ContextFormat.MARKDOWN) == ""
    assert (
        render(TWO, ContextFormat.UNSPECIFIED)
        == render_one(TWO[0].event, ContextFormat.UNSPECIFIED)
        == ""
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "digits", ["123456789012345678901234567890", "-0.123456789012345678901", "9" * 600]
)
def test_numbers_keep_their_digits(form: ContextFormat, digits: str) -> None:
    one = item(f'{{"n": {digits}}}'.encode())
    assert digits in render([one], form)
    if form is not ContextFormat.MARKDOWN and len(digits) < 100:
        assert parsed(render([one], form), form) == [
            {"data_key": "key", "data": {"n": ast.literal_eval(digits)}}
        ]


@pytest.mark.parametrize("form", STRUCTURED)
@pytest.mark.parametrize(
    "number", [b"1e-400", b"123456789012345678E200", b"0e-99999999999999999999"]
)
def test_numbers_beyond_doubles_parse(form: ContextFormat, number: bytes) -> None:
    ((data,),) = [parsed(render([item(number)], form), form)]
    written = data["data"]
    assert written == number.decode() or float(written) == float(number)


KEYS = st.text("abc_.:/@#$+=~%-0129", min_size=1, max_size=8)
TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "- a",
        "a: b",
        "x\n- data_key: forged\n  data: 1",
        "1",
        "null",
        "[2]:",
        " x ",
        "# c",
        "a\n\n b",
        "a\n",
        "\na",
        "a\n\n",
        " a\nb",
        "a \nb",
        "\t\na",
        "---\n",
        "a\r\nb",
        "\x85",
        "\u2028\n",
        "😀\nb",
        '"',
        "'a'",
        "|",
        "22:22",
        "2026-01-01",
        "=",
        "<<",
        "off",
        "1e5",
        ".5",
        "0x1f",
        "\x00",
        "\ufeffa",
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXTS, inner, max_size=4)
        | st.lists(st.fixed_dictionaries({"id": inner, "b c": inner}), max_size=3)
    ),
    max_leaves=12,
)
TEXT_TYPES = st.sampled_from(["text/plain", "text/markdown", "text/csv", "application/xml", "a/b"])


@st.composite
def items(draw: st.DrawFn, payloads: int = 6) -> list[ContextItem]:
    found = []
    for _ in range(draw(st.integers(0, payloads))):
        if draw(st.booleans()):
            payload, content_type = orjson.dumps(draw(VALUES)), ""
        else:
            payload, content_type = draw(TEXTS).encode(), draw(TEXT_TYPES)
        needs = draw(st.frozensets(st.integers(0, 3), min_size=1))
        found.append(datum(draw(KEYS), draw(TEXTS), payload, content_type, needs))
    return found


def said(one: ContextItem) -> dict[str, Any]:
    event = one.event
    described = {"description": event.description} if event.description else {}
    data = plain_value(event.payload, event.content_type)
    return {"data_key": event.data_key, **described, "data": data}


def as_read(number: Decimal) -> float:
    return float(number)


@given(items(), st.sampled_from(STRUCTURED))
def test_what_is_written_parses_back(data: list[ContextItem], form: ContextFormat) -> None:
    text = render(data, form)
    expected, found = json.dumps([said(one) for one in data], default=as_read), parsed(text, form)
    if form is ContextFormat.TOON:  # Writes the double 1.2e16 as an integer.
        assert json.loads(json.dumps(found), parse_int=float) == json.loads(
            expected, parse_int=float
        )
    else:
        assert found == json.loads(expected)


def holds(description: str, payload: str, content_type: str) -> None:
    """Two headings and two fences, whatever the first datum says."""
    data = [
        datum("one", description, payload.encode(), content_type, frozenset({0})),
        item(1, key="two"),
    ]
    tokens = MarkdownIt("commonmark").parse(render(data, ContextFormat.MARKDOWN))
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert headings == ["one", "two"]
    assert sum(token.type == "fence" for token in tokens) == 2


@given(TEXTS, TEXTS, st.sampled_from(["", "text/csv", "application/xml", "text/yaml", "a/b"]))
def test_no_fence_or_description_forges_a_heading(
    description: str, payload: str, content_type: str
) -> None:
    holds(description, payload, content_type)


@pytest.mark.parametrize("description", ["# a", "```", "~~~", "> # a", "<!--", "a\n## b", "a\n==="])
@pytest.mark.parametrize("payload", ["```\n## x", "````", "~~~\n# a", "`" * 50 + "\n# a\n"])
def test_fences_hold(description: str, payload: str) -> None:
    holds(description, payload, "a/b")


def test_markdown_names_bytes_and_languages() -> None:
    assert "```base64 image/png\n/w==\n```\n" in render_one(
        item(b"\xff", "image/png").event, ContextFormat.MARKDOWN
    )
    for content_type, language in [
        ("text/yaml", "yaml"),
        ("text/csv", "csv"),
        ("text/xml", "xml"),
        ("text/toml", "toml"),
        ("a/b", ""),
    ]:
        assert f"\n```{language}\nx\n```\n" in render_one(
            item(b"x", content_type).event, ContextFormat.MARKDOWN
        )


# -- fitting -----------------------------------------------------------------------------


class Words:
    """Counts that no sum of parts foretells: a separator may cost nothing, or a lot."""

    name = "words"

    def count(self, text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text)) + 3 * text.count("},{")


COUNTERS = st.sampled_from([ESTIMATE, Words()])


def test_everything_is_kept_without_a_bound() -> None:
    fitted = fit_to_budget(TWO, None, ContextFormat.YAML, ESTIMATE)
    assert (fitted.kept, fitted.omitted, fitted.text) == (
        (0, 1),
        (),
        render(TWO, ContextFormat.YAML),
    )
    assert fitted.tokens == ESTIMATE.count(fitted.text)


def test_each_need_comes_before_the_rest() -> None:
    data = [
        item("x" * 60, key="best", needs=(0,)),
        item("x" * 60, key="second", needs=(0,)),
        item("x" * 60, key="other", needs=(1,)),
        item("x" * 600, key="large", needs=(2,)),
        item("x" * 60, key="instead", needs=(2,)),
        item("x", key="tiny", needs=(0,)),
    ]
    cost = [ESTIMATE.count(render([one], ContextFormat.JSON)) for one in data]
    fitted = fit_to_budget(
        data, cost[0] + cost[2] + cost[4] + cost[5], ContextFormat.JSON, ESTIMATE
    )
    assert fitted.kept == (0, 2, 4, 5)
    assert fitted.omitted == ((1, cost[1]), (3, cost[3]))
    assert fit_to_budget(data, cost[0] + cost[2], ContextFormat.JSON, ESTIMATE).kept == (0, 2)
    assert fit_to_budget(data, cost[0], ContextFormat.JSON, ESTIMATE).kept == (0,)
    assert fit_to_budget(data, cost[0] - 1, ContextFormat.JSON, ESTIMATE).kept == (5,)


@pytest.mark.parametrize("form", FORMS)
def test_a_text_keeps_to_its_bytes(form: ContextFormat) -> None:
    data = [item("é" * 150), item("é" * 100), item("é" * 50), item("é" * 2_000)]
    for budget in (None, 1_000):
        fitted = fit_to_budget(data, budget, form, ESTIMATE, 400)
        assert fitted.kept == (0,)
        assert len(fitted.text.encode()) <= 400
        assert [index for index, _ in fitted.omitted] == [1, 2, 3]
        room = len(render([data[0], data[2]], form).encode())
        assert fit_to_budget(data, budget, form, ESTIMATE, room).kept == (0, 2)


def test_a_datum_may_serve_several_needs() -> None:
    data = [item("a", needs=(0, 1)), item("b", needs=(0,)), item("c", needs=(1,))]
    budget = ESTIMATE.count(render(data[:2], ContextFormat.JSON))
    assert fit_to_budget(data, budget, ContextFormat.JSON, ESTIMATE).kept == (0, 1)


def test_a_table_takes_what_its_rows_leave() -> None:
    data = [item({"identifier": n, "measurement": n}, key=f"k{n}") for n in range(100)]
    whole = ESTIMATE.count(render(data, ContextFormat.TOON))
    assert len(fit_to_budget(data, whole // 2, ContextFormat.TOON, ESTIMATE).kept) >= 45


def test_without_a_form_json_is_counted() -> None:
    unspecified, counted = (
        fit_to_budget(TWO, 30, form, ESTIMATE)
        for form in (ContextFormat.UNSPECIFIED, ContextFormat.JSON)
    )
    assert unspecified.text == ""
    assert unspecified.tokens == counted.tokens
    assert (unspecified.kept, unspecified.omitted) == (counted.kept, counted.omitted)


def test_nothing_fits() -> None:
    for form in FORMS:
        fitted = fit_to_budget(TWO, 1, form, ESTIMATE)
        assert fitted.kept == ()
        assert [index for index, _ in fitted.omitted] == [0, 1]
        assert fitted.tokens <= 1
    assert fit_to_budget([], 1, ContextFormat.JSON, ESTIMATE).text == "[]"


@given(items(8), st.integers(1, 250), st.sampled_from(FORMS), COUNTERS)
def test_fitting(data: list[ContextItem], budget: int, form: ContextFormat, counter: Any) -> None:
    fitted = fit_to_budget(data, budget, form, counter)
    kept = [data[index] for index in fitted.kept]
    assert fitted.text == render(kept, form)
    assert fitted.tokens == counter.count(fitted.text)
    assert fitted.tokens <= budget or not kept
    assert sorted([*fitted.kept, *(index for index, _ in fitted.omitted)]) == [*range(len(data))]
    assert list(fitted.kept) == sorted(fitted.kept)

    alone = [counter.count(render([one], form)) for one in data]
    assert all(tokens == alone[index] for index, tokens in fitted.omitted)
    if counter.count(render(data, form)) <= budget:
        assert not fitted.omitted
    best = [
        next(i for i, one in enumerate(data) if n in one.needs)
        for n in {n for one in data for n in one.needs}
    ]
    if counter.count(render([data[i] for i in sorted(set(best))], form)) <= budget:
        assert set(best) <= set(fitted.kept)
    if data and alone[0] <= budget:
        assert 0 in fitted.kept
    if any(tokens <= budget for tokens in alone):
        assert kept
    if counter is ESTIMATE and form is not ContextFormat.TOON and kept:
        for index, _ in fitted.omitted:
            more = [data[i] for i in sorted([*fitted.kept, index])]
            assert counter.count(render(more, form)) >= budget


# -- counting ----------------------------------------------------------------------------


def test_the_estimate() -> None:
    assert [ESTIMATE.count(text) for text in ("", "a", "abc", "abcd", "éé")] == [0, 1, 1, 2, 2]
    assert token_counter(None).name == "estimate"


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "[CLS]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    path = tmp_path / "word-model" / "tokenizer.json"
    path.parent.mkdir()
    tokenizer.save(str(path))
    return path


def test_a_tokenizer_counts_all_and_no_more(tokenizer_file: Path) -> None:
    counter = token_counter(tokenizer_file)
    assert [counter.count(text) for text in ("", "a", "a b c d e f g h i j")] == [0, 1, 10]
    assert re.fullmatch(r"word-model-[0-9a-f]{8}", counter.name)
    other = tokenizer_file.with_name("mine.json")
    tokenizer_file.rename(other)
    assert TokenizerFile(other).name == counter.name.replace("word-model", "mine")


def test_an_unusable_tokenizer_is_named(tmp_path: Path) -> None:
    missing, broken = tmp_path / "none.json", tmp_path / "broken.json"
    broken.write_text("{}")
    for path in (missing, broken, tmp_path):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            TokenizerFile(path)


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().tokenizer is None
    monkeypatch.setenv("CONTEX_TOKENIZER", "/models/tokenizer.json")
    assert Settings().tokenizer == Path("/models/tokenizer.json")
    assert Settings().limits.context_tokens == 10_000_000
