from __future__ import annotations

import pytest
from contex_server.api.shared.cursors import (
    Token,
    decode_position,
    decode_text,
    encode_position,
    encode_text,
)
from contex_server.kernel.call import Call
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Proven, Sequence
from contex_server.kernel.scope import Scope
from hypothesis import given
from hypothesis import strategies as st

u64 = st.integers(0, 2**64 - 1)
proofs = st.just(b"") | st.binary(min_size=8, max_size=8).filter(any)
sequences = st.builds(Sequence, u64, u64).filter(lambda position: position != END_OF_TIME)


def invalid(token: Token, project: str, text: str) -> None:
    with pytest.raises(ContexError) as refused:
        decode_position(token, project, text, "cursor")
    assert refused.value.reason is Reason.CURSOR_INVALID
    assert refused.value.field == "cursor"


@given(st.sampled_from(Token), sequences, st.none() | proofs)
def test_a_position_comes_back(token: Token, position: Sequence, proof: bytes | None) -> None:
    if proof is not None:
        position = Proven.of(position, proof)
    text = encode_position(token, "p", position)
    read = decode_position(token, "p", text, "cursor")
    assert read == position
    if position > BEGINNING:
        assert getattr(read, "proof", None) == proof
    assert len(text) == (28 if proof == b"" else 39)


def test_what_is_before_the_first_event_proves_nothing() -> None:
    text = encode_position(Token.CURSOR, "p", BEGINNING)
    assert not isinstance(decode_position(Token.CURSOR, "p", text), Proven)


def test_a_token_from_before_tokens_had_proofs_is_of_an_event() -> None:
    read = decode_position(Token.CURSOR, "p", "AaYRGRcAAAGatpfoAAAAAAAAAAAH", "cursor")
    assert read == Sequence(1764000000000, 7)
    assert isinstance(read, Proven)
    assert not read.proof


@given(st.text())
def test_a_text_comes_back(value: str) -> None:
    value = value.encode(errors="ignore").decode()
    token = encode_text(Token.AGENTS_PAGE, "p", value)
    assert decode_text(Token.AGENTS_PAGE, "p", token, "page_token") == value


@given(sequences, st.integers(0, 27), st.characters(codec="ascii"))
def test_damage_is_found(position: Sequence, index: int, character: str) -> None:
    text = encode_position(Token.CURSOR, "p", position)
    damaged = text[:index] + character + text[index + 1 :]
    if damaged != text:
        invalid(Token.CURSOR, "p", damaged)


@given(st.text())
def test_anything_else_is_refused(text: str) -> None:
    invalid(Token.CURSOR, "p", text)


def test_tokens_are_for_one_project_and_one_use() -> None:
    text = encode_position(Token.CURSOR, "p", Sequence(1, 2))
    invalid(Token.CURSOR, "q", text)
    invalid(Token.BACKWARDS, "p", text)
    invalid(Token.CURSOR, "p", encode_text(Token.CURSOR, "p", "short"))


REALMS = st.builds(
    lambda project, keys: Call("s", "m", None, project=project, scope=Scope(keys)).realm,
    st.sampled_from(["p", "q", "p.q"]),
    st.none() | st.frozensets(st.sampled_from(["a*", "b", "a*b"]), max_size=2),
)


def test_the_realm_of_one_who_sees_everything_is_the_project() -> None:
    assert Call("s", "m", None, project="p").realm == "p"


@given(st.sampled_from(Token), st.sampled_from(Token), REALMS, REALMS, sequences, st.text("ab"))
def test_a_token_holds_for_its_use_its_project_and_its_scope_alone(
    token: Token, other_token: Token, realm: str, other: str, position: Sequence, value: str
) -> None:
    text, place = encode_text(token, realm, value), encode_position(token, realm, position)
    if (token, realm) == (other_token, other):
        assert decode_text(token, realm, text) == value
        assert decode_position(token, realm, place) == position
        return
    invalid(other_token, other, place)
    if value:
        with pytest.raises(ContexError) as refused:
            decode_text(other_token, other, text)
        assert refused.value.reason is Reason.CURSOR_INVALID


@given(st.sampled_from(Token), REALMS, sequences, st.data())
def test_a_token_that_is_cut_or_put_together_of_two_is_refused(
    token: Token, realm: str, position: Sequence, data: st.DataObject
) -> None:
    text = encode_position(token, realm, position)
    cut = data.draw(st.integers(1, len(text) - 1))
    invalid(token, realm, text[:cut])
    another = encode_position(token, realm, data.draw(sequences))
    mixed = text[:cut] + another[cut:]
    if mixed not in (text, another):
        invalid(token, realm, mixed)
