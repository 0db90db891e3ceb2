"""python -m benchmarks.matching {prior,fit,evaluate,report} --data FOLDER"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from contex_server.matching.background import shipped_prior
from contex_server.matching.score import Scorer, Weights, shipped_weights

from benchmarks.matching import fitting, report
from benchmarks.matching.baselines import Bm25
from benchmarks.matching.encoded import Encoded, encode
from benchmarks.matching.evaluation import (
    both_directions,
    evaluate,
    rankings,
    rivals,
    stability,
)
from benchmarks.matching.priors import prior_without, write_prior
from benchmarks.matching.projects import Project, measured, sampled
from benchmarks.matching.quality import best_f1, f1
from benchmarks.matching.sets import aws, berkeley, standard_library
from benchmarks.matching.splits import Split, halves

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "service" / "contex_server" / "matching" / "data"
GUIDE = ROOT / "docs" / "guide" / "matching.md"
_TRAIN_SEED = 1
_AS_GOOD = 0.01
"""F1 is flat around its best; of thresholds that are as good the highest pushes least."""
_STRANGERS = {"needs": "aws", "aws": "stdlib", "stdlib": "needs"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.matching", description=__doc__)
    parser.add_argument("verb", choices=("prior", "fit", "evaluate", "report"))
    parser.add_argument("--data", type=Path, required=True, help="documents.jsonl, needs.jsonl")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "embeddings")
    options = parser.parse_args(arguments)
    sets = {
        data.name: encode(data, options.cache)
        for data in (berkeley(options.data), aws(), standard_library())
    }
    split = halves(sets["needs"])
    match options.verb:
        case "prior":
            write_prior(sets, split, SHIPPED)
        case "fit":
            _fit(sets, split)
        case "evaluate":
            print(report.markdown(_findings(sets, split)))
        case "report":
            found = _findings(sets, split)
            report.write(found, GUIDE)
            print(report.markdown(found))


def _train(sets: dict[str, Encoded], split: Split, scorer: Scorer) -> list[Project]:
    prior = prior_without(sets, split, "needs")
    return sampled(sets["needs"], split.train_needs, prior, scorer, seed=_TRAIN_SEED)


def _fit(sets: dict[str, Encoded], split: Split) -> None:
    """Tries shapes, fits each, and writes the weights of the shape that is shipped."""
    shipped = shipped_weights()
    projects = _train(sets, split, Scorer(shipped))
    for shape in _shapes(shipped):
        weights = fitting.fit(projects, shape)
        scores, right = _pooled(projects, Scorer(weights))
        print(
            f"b {shape.fit_lexical:4} n0 {shape.prior_passages:5} r {shape.rival_floor}: "
            f"loss {fitting.log_loss(projects, Scorer(weights)):.4f}, "
            f"F1 {best_f1(scores, right)[0]:.4f}",
            flush=True,
        )
    weights = fitting.fit(projects, shipped)
    scores, right = _pooled(projects, Scorer(weights))
    curve = {step / 100: f1(scores, right, step / 100) for step in range(20, 61)}
    best = max(curve.values())
    threshold = max(at for at, value in curve.items() if value >= best - _AS_GOOD)
    weights = replace(weights, default_threshold=threshold)
    (SHIPPED / "weights.json").write_text(json.dumps(asdict(weights), indent=2) + "\n")
    print(weights)


def _shapes(shipped: Weights) -> list[Weights]:
    """What is shipped, and what differs from it in one number."""
    return [
        shipped,
        *(replace(shipped, fit_lexical=b) for b in (5.0, 7.0, 11.0, 13.0)),
        *(replace(shipped, prior_passages=n) for n in (50.0, 200.0)),
        *(replace(shipped, rival_floor=r) for r in (0.1, 0.5, 1.0)),
    ]


def _pooled(projects: Sequence[Project], scorer: Scorer) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([p.scores(scorer).ravel() for p in projects]),
        np.concatenate([p.right.ravel() for p in projects]),
    )


def _findings(sets: dict[str, Encoded], split: Split) -> report.Findings:
    scorer = Scorer()
    first = sets["needs"]
    prior = prior_without(sets, split, "needs")
    train = _train(sets, split, scorer)
    everything = np.arange(len(first.documents))
    bm25 = Bm25(first)
    whole = measured(first, bm25, everything, split.train_needs, prior, scorer)
    methods = rivals(train, whole, scorer)
    aside = measured(first, bm25, split.test_documents, split.test_needs, prior, scorer)
    found, shipped, moved, directions = [], [], {}, {}
    for name, encoded in sets.items():
        print(f"measuring {name}", flush=True)
        own = prior_without(sets, split, name)
        needs = split.test_needs if name == "needs" else np.arange(len(encoded.needs))
        found.append(evaluate(encoded, needs, own, scorer, methods))
        shipped.append(evaluate(encoded, needs, shipped_prior(), scorer, methods[:2]))
        moved[name] = stability(encoded, sets[_STRANGERS[name]], own, scorer)
        directions[name] = both_directions(encoded, own, scorer)
    return report.Findings(
        scorer.weights,
        found,
        shipped,
        rankings(aside, methods),
        len(split.test_documents),
        moved,
        directions,
    )


if __name__ == "__main__":
    main()
