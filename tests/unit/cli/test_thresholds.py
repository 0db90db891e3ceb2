from __future__ import annotations

import pytest
from contex import THRESHOLDS, NeedSummary
from contex_cli.output import console
from contex_cli.thresholds import Step, show_steps, steps_counted, steps_of
from hypothesis import given
from hypothesis import strategies as st

COUNTS = tuple(range(20, 1, -1))

scores = st.lists(st.floats(0.05, 1), max_size=30)


@given(scores, st.floats(0.05, 1), st.integers(31, 100))
def test_each_step_has_what_reaches_it_and_the_last_of_these(
    found: list[float], applied: float, limit: int
) -> None:
    pairs = [(score, f"k{score}") for score in sorted(found, reverse=True)]
    steps = steps_of(pairs, applied, limit)
    assert [step.threshold for step in steps] == sorted({step.threshold for step in steps})
    assert any(abs(step.threshold - applied) < 0.005 for step in steps)
    for step in steps:
        reaching = [pair for pair in pairs if pair[0] >= step.threshold]
        assert step == Step(step.threshold, len(reaching), reaching[-1] if reaching else None)


@given(scores.filter(bool))
def test_a_full_answer_leaves_open_how_many_reach_its_lowest_score(found: list[float]) -> None:
    pairs = [(score, "k") for score in sorted(found, reverse=True)]
    for step in steps_of(pairs, 0.2, limit=len(pairs)):
        assert step.cut == (step.threshold <= pairs[-1][0])
        assert step.lowest is None or not step.cut


@pytest.mark.parametrize(("applied", "steps"), [(0.1, 19), (0.12, 20), (0.101, 19)])
def test_a_backtest_counts_at_the_applied_threshold_too(applied: float, steps: int) -> None:
    counted = steps_counted(NeedSummary(3, COUNTS), applied)
    assert len(counted) == steps
    assert {step.threshold: step.count for step in counted}.items() >= dict(
        zip(THRESHOLDS, COUNTS, strict=True)
    ).items()
    if steps == 20:
        assert counted[2] == Step(0.12, 3)


def test_the_applied_threshold_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    console.cache_clear()
    show_steps([Step(0.05, 4), Step(0.12, 3), Step(0.15, 0)], 0.12, "events")
    console.cache_clear()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "0." in line]
    assert rows[0] == ["0.05", "4", "█" * 30]
    assert rows[1] == ["▸", "0.12", "3", "█" * 22 + "▌"]
    assert rows[2] == ["0.15", "0"]
