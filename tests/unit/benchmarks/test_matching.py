"""The measures that the figures in docs/guide/matching.md come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.matching.fitting import best_cut, logistic, nonnegative
from benchmarks.matching.quality import (
    calibration_error,
    decision_quality,
    f1,
    precision_recall,
    ranking_quality,
)
from benchmarks.matching.sets import OWN, SEED, DataSet, Kind, limited, load, load_all


def _labels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int8)


def test_a_ranking_is_judged_by_its_first_right_document() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    quality = ranking_quality(scores, _labels([1, 0, 0], [0, 0, 1]))
    assert quality.hit1 == 0.5
    assert quality.mrr == pytest.approx((1 + 1 / 3) / 2)
    assert quality.ndcg10 == pytest.approx((1 + 1 / np.log2(4)) / 2)


def test_optional_answers_and_needs_without_any_do_not_count_in_a_ranking() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    assert ranking_quality(scores, _labels([-1, 1, 0], [0, 0, 0])).mrr == 1.0


def test_equal_scores_count_against_the_ranking() -> None:
    assert ranking_quality(np.zeros((1, 4)), _labels([1, 0, 0, 0])).mrr == 0.25


def test_decisions_at_a_threshold() -> None:
    scores, labels = np.array([[0.9, 0.8, 0.3, 0.2]]), _labels([1, 0, 1, 0])
    quality = decision_quality(scores, labels, 0.85)
    assert (quality.precision, quality.recall) == (1.0, 0.5)
    assert quality.f1 == f1(scores, labels, 0.85) == pytest.approx(2 / 3)
    assert quality.best_f1 == pytest.approx(0.8)
    assert quality.average_precision == pytest.approx((1 + 2 / 3) / 2)


def test_optional_answers_count_neither_way_in_decisions() -> None:
    scores = np.array([[0.9, 0.8, 0.3, 0.2]])
    assert decision_quality(scores, _labels([1, -1, 1, 0]), 0.25).f1 == 1.0
    assert f1(scores, _labels([1, -1, 1, 0]), 0.25) == 1.0


def test_no_threshold_comes_between_equal_scores() -> None:
    precision, recall, thresholds = precision_recall(np.full(4, 0.5), np.arange(4) == 0)
    assert (precision.tolist(), recall.tolist(), thresholds.tolist()) == ([0.25], [1.0], [0.5])


def test_calibration_error_is_the_gap_of_each_bin() -> None:
    scores = np.array([0.9, 0.9, 0.1, 0.1])
    right = np.array([True, False, False, False])
    assert calibration_error(scores, right) == pytest.approx((0.4 * 2 + 0.1 * 2) / 4)
    assert calibration_error(scores, right, at_least=0.5) == pytest.approx(0.4)


def test_logistic_regression_finds_what_made_the_data() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50_000, 2))
    right = rng.random(50_000) < 1 / (1 + np.exp(-(2 * x[:, 0] - x[:, 1] - 3)))
    np.testing.assert_allclose(logistic(x, right, np.ones(len(x))), [2, -1, -3], atol=0.1)


def test_a_weight_that_would_be_negative_is_zero() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50_000, 2))
    right = rng.random(50_000) < 1 / (1 + np.exp(-(2 * x[:, 0] - x[:, 1] - 3)))
    first, second, bias = nonnegative(x, right, np.ones(len(x)))
    assert first > 1
    assert second == 0
    assert bias < 0


def test_of_cuts_that_are_nearly_as_good_the_highest_that_finds_enough_is_taken() -> None:
    team = np.array([[0.9, 0.6, 0.5, 0.1]]), _labels([1, 1, 0, 0])
    cuts = np.array([0.2, 0.55, 0.58, 0.95])
    assert best_cut([team], cuts) == 0.58
    assert best_cut([team], cuts, as_good=0.3) == 0.58
    missed = np.array([[0.9, 0.3, 0.2, 0.1]]), _labels([1, 1, 0, 0])
    assert best_cut([missed], np.array([0.25, 0.8]), as_good=1.0) == 0.25


@pytest.mark.parametrize("folder", sorted(path for path in OWN.iterdir() if path.is_dir()))
def test_labels_of_our_own_teams_name_documents(folder: Path) -> None:
    lines = (folder / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    keys = [json.loads(line)["data_key"] for line in lines]
    assert len(keys) == len(set(keys))
    for line in (folder / "needs.jsonl").read_text(encoding="utf-8").splitlines():
        need = json.loads(line)
        assert {*need["required"], *need["optional"]} <= set(keys)
        assert not {*need["required"]} & {*need["optional"]}


def test_a_set_is_read_with_its_labels(tmp_path: Path) -> None:
    data = _written(tmp_path)
    assert [d.payload for d in data.documents] == [b'{"x":1}', b"# Title", b"{}", b"{}"]
    assert data.documents[1].content_type == "text/markdown"
    assert data.labels().tolist() == [[1, -1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_a_smaller_set_keeps_the_answers_of_its_needs(tmp_path: Path) -> None:
    data = _written(tmp_path)
    small = limited(data, 3, 3)
    assert len(small.documents) == 3
    kept = [small.documents[at].data_key for need in small.needs for at in need.right]
    assert kept == ["a", "c"]
    assert len(limited(data, 1, 10).needs) == 1
    assert limited(data, 1, 3) == limited(data, 1, 3), f"seeded with {SEED}"


def test_sets_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = load_all(tmp_path, 10, 1_000)
    assert {each.name for each in sets} == {path.name for path in OWN.iterdir()}
    assert all(each.own and each.kind is Kind.TEAM for each in sets)
    assert "left out, not there" in capsys.readouterr().out


def _written(folder: Path) -> DataSet:
    documents = [
        {"data_key": "a", "description": "", "payload": {"x": 1}},
        {"data_key": "b", "payload": "# Title", "content_type": "text/markdown"},
        {"data_key": "c", "description": "C"},
        {"data_key": "d", "description": "D"},
    ]
    needs = [
        {"need": "one", "required": ["a"], "optional": ["b"]},
        {"need": "none", "required": [], "optional": []},
        {"need": "public", "data_keys": ["c"]},
    ]
    for name, rows in (("documents", documents), ("needs", needs)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return load(folder, Kind.TEAM)
