from __future__ import annotations

import grpc
import pytest
from contex.backoff import BASE_S, CAP_S, PROMISED_WINDOW_S, Backoff, Retry, safe_s
from contex.errors import ContexError, Unauthenticated, is_transient
from hypothesis import given
from hypothesis import strategies as st

Code = grpc.StatusCode


def error(code: Code, reason: str = "", retry_after: float | None = None) -> ContexError:
    return ContexError("no", code, reason, retry_after=retry_after)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(0, 100))
def test_waits_are_jittered_in_full_and_bounded(failures: int) -> None:
    ceilings: list[float] = []
    backoff = Backoff(uniform=lambda low, high: ceilings.append(high) or low)
    for _ in range(failures):
        assert backoff.next_delay() == 0.0
    assert ceilings == [min(CAP_S, BASE_S * 2**n) for n in range(failures)]
    backoff.reset()
    backoff.next_delay()
    assert ceilings[-1] == BASE_S


def test_what_the_server_asks_for_comes_first() -> None:
    assert Backoff(uniform=lambda _, high: high).next_delay(2.0) == 2.0 + BASE_S


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (error(Code.UNAVAILABLE), True),
        (error(Code.UNAVAILABLE, "STORE_UNAVAILABLE"), True),
        (error(Code.DEADLINE_EXCEEDED), True),
        (error(Code.RESOURCE_EXHAUSTED, "OVERLOADED"), True),
        (error(Code.RESOURCE_EXHAUSTED, retry_after=1.0), True),
        (error(Code.ABORTED, "AGENT_CONFLICT"), True),
        (error(Code.INTERNAL), True),  # a reset of the HTTP/2 stream
        (error(Code.CANCELLED), True),
        (error(Code.RESOURCE_EXHAUSTED), False),  # the transport's own: message too large
        (error(Code.INTERNAL, "INTERNAL"), False),
        (error(Code.INVALID_ARGUMENT, "INVALID_FIELD"), False),
        (error(Code.FAILED_PRECONDITION, "REVISION_CONFLICT"), False),
        (error(Code.OUT_OF_RANGE, "SEQUENCE_TRIMMED"), False),
        (error(Code.NOT_FOUND), False),
        (error(Code.UNIMPLEMENTED), False),
        (error(Code.PERMISSION_DENIED), False),
    ],
)
def test_what_a_retry_can_help(failure: ContexError, expected: bool) -> None:
    assert is_transient(failure) is expected


def test_attempts_end_with_the_timeout() -> None:
    clock = Clock()
    retry = Retry(10.0, clock=clock)
    assert retry.attempt_timeout() == 5.0
    clock.now += 5.0
    assert retry.delay_after(error(Code.DEADLINE_EXCEEDED)) <= BASE_S
    assert retry.attempt_timeout() == 2.5
    clock.now += 4.5
    assert retry.attempt_timeout() == 0.5
    with pytest.raises(ContexError):
        retry.delay_after(error(Code.UNAVAILABLE, retry_after=1.0))


def test_a_long_attempt_is_not_cut_short() -> None:
    clock = Clock()
    assert Retry(2400.0, clock=clock).attempt_timeout() == 2400.0  # Too late for another one then.
    retry = Retry(300.0, clock=clock)
    assert retry.attempt_timeout() == 255.0
    clock.now += 255.0
    assert retry.delay_after(error(Code.DEADLINE_EXCEEDED)) <= BASE_S
    assert retry.attempt_timeout() == 22.5


def test_a_call_that_is_not_idempotent_is_repeated_only_after_a_refusal() -> None:
    retry = Retry(10.0, idempotent=False)
    assert retry.attempt_timeout() > 9.0
    assert retry.delay_after(error(Code.RESOURCE_EXHAUSTED, "OVERLOADED")) >= 0
    with pytest.raises(ContexError):
        retry.delay_after(error(Code.UNAVAILABLE))


def test_no_retry_after_the_server_may_have_forgotten_the_request_id() -> None:
    clock = Clock()
    retry = Retry(3600.0, clock=clock)
    assert retry.outlasts_window
    clock.now += safe_s(PROMISED_WINDOW_S)
    with pytest.raises(ContexError):
        retry.delay_after(error(Code.UNAVAILABLE))
    retry.window_s = 3600.0
    retry.delay_after(error(Code.UNAVAILABLE))
    clock.now += safe_s(3600.0)
    with pytest.raises(ContexError):
        retry.delay_after(error(Code.UNAVAILABLE))


def test_only_calls_that_may_outlast_the_window_need_to_know_it() -> None:
    assert not Retry(540.0).outlasts_window
    assert Retry(540.5).outlasts_window
    assert not Retry(3600.0, idempotent=False).outlasts_window
    assert not Retry(3600.0, endless=True).outlasts_window


def test_an_endless_retry_goes_on_for_as_long_as_it_may_help() -> None:
    clock = Clock()
    retry = Retry(2.0, endless=True, clock=clock)
    for _ in range(100):
        assert retry.attempt_timeout() == 2.0
        clock.now += 60 + retry.delay_after(error(Code.UNAVAILABLE))
    with pytest.raises(ContexError):
        retry.delay_after(error(Code.NOT_FOUND))


def test_refused_credentials_are_replaced_once_until_it_works() -> None:
    refusal = {
        cause: Unauthenticated("no", Code.UNAUTHENTICATED, "UNAUTHENTICATED", {"cause": cause})
        for cause in ("REVOKED", "EXPIRED")
    }
    others = iter([True, True, False, False])
    backoff = Backoff(is_renewed=lambda error: next(others))
    backoff.next_delay()  # A connection that was lost before is another matter.
    assert backoff.may_resume(refusal["REVOKED"])
    assert not backoff.may_resume(refusal["REVOKED"])
    backoff.reset()
    assert backoff.may_resume(refusal["EXPIRED"])
    assert not backoff.may_resume(refusal["EXPIRED"])
    backoff.reset()
    assert not backoff.may_resume(refusal["REVOKED"])
    backoff.reset()
    assert backoff.may_resume(refusal["EXPIRED"])
