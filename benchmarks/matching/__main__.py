"""python -m benchmarks.matching {fit,bench}"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from contex_server.matching.background import pack_prior, shipped_prior
from contex_server.matching.score import Weights, shipped_weights

from benchmarks.matching import left_out, report, robustness
from benchmarks.matching.encoded import BUILTIN, UNTUNED, Embeddings, Encoded
from benchmarks.matching.fitting import fit
from benchmarks.matching.pairs import sample
from benchmarks.matching.priors import ABOUT_NEEDS, Priors, need_lines
from benchmarks.matching.sets import DataSet, load_all

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "service" / "contex_server" / "matching" / "data"
GUIDE = ROOT / "docs" / "guide" / "matching.md"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.matching", description=__doc__)
    parser.add_argument("verb", choices=("fit", "bench"))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument(
        "--embedder", default=BUILTIN, help=f"{BUILTIN}, or the directory of a model"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "embeddings")
    parser.add_argument("--needs", type=int, default=300, help="of a set, at most")
    parser.add_argument("--documents", type=int, default=1_000_000, help="of a set, at most")
    parser.add_argument("--print", action="store_true", help="write no file")
    options = parser.parse_args(arguments)
    data = load_all(options.data, options.needs, options.documents)
    embeddings, sets, priors = _embedded(options.embedder, options.cache, data)
    if options.verb == "fit":
        _fit(sets, priors, embeddings, write=not options.print)
    else:
        former, untuned, their_priors = _embedded(UNTUNED, options.cache, data)
        former.close()
        _bench(sets, priors, embeddings, (untuned, their_priors), write=not options.print)
    embeddings.close()


def _embedded(
    name: str, cache: Path, data: list[DataSet]
) -> tuple[Embeddings, list[Encoded], Priors]:
    embeddings = Embeddings(name, cache)
    print(f"{embeddings.model_id}: embedding what is not in {cache}", flush=True)
    sets = embeddings.encode(data)
    return embeddings, sets, Priors(sets, embeddings)


def _fit(sets: list[Encoded], priors: Priors, embeddings: Embeddings, *, write: bool) -> None:
    """Fits the weights of a model, and writes them and, for the built-in one, the prior."""
    print("fitting", flush=True)
    weights = fit([sample(each) for each in sets], priors)
    print(weights)
    if not write:
        return
    path = SHIPPED / "weights.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    known["" if embeddings.builtin else embeddings.model_id.partition("@")[0]] = asdict(weights)
    path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    if embeddings.builtin:
        (SHIPPED / "prior.npz").write_bytes(pack_prior(priors.without()))
        lines = need_lines([each.set for each in sets])
        (SHIPPED / "needs.txt").write_text(ABOUT_NEEDS + "\n".join(lines) + "\n", encoding="utf-8")


def _bench(
    sets: list[Encoded],
    priors: Priors,
    embeddings: Embeddings,
    untuned: tuple[list[Encoded], Priors],
    *,
    write: bool,
) -> None:
    """Measures each set with what was fitted without it, and writes the guide's tables."""
    print("leaving each set out", flush=True)
    results = left_out.leave_each_out(sets, priors, untuned)
    print(report.summary(results), flush=True)
    shipped, steady = _shipped(embeddings), None
    if embeddings.builtin:
        print("copies, strangers, orders", flush=True)
        steady = robustness.measure_all(sets, embeddings, shipped_prior(), shipped)
    tables = report.markdown(results, shipped, steady)
    print(tables)
    if write and embeddings.builtin:
        report.write(tables, results, GUIDE)


def _shipped(embeddings: Embeddings) -> Weights:
    return shipped_weights("" if embeddings.builtin else embeddings.model_id)


if __name__ == "__main__":
    main()
