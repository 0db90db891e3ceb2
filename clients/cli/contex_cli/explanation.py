"""What `contex explain` prints: the verdict, its terms, what is usual, and the words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contex

from contex_cli import output as out
from contex_cli.bars import bar, part_bar, signed_bar
from contex_cli.matches import is_exact, is_relative, parts_lines, probability_line, usual_line

_SIDE = 14
_PART_BAR = 16
_WORDS = 12


def show_explanation(explanation: contex.Explanation) -> None:
    """Prints the verdict, the terms that add up to it, the words and the passages."""
    _show_verdict(explanation)
    match = explanation.need_match
    if is_exact(match):
        return
    out.say_lines(parts_lines(match) if is_relative(match) else [probability_line(match)])
    out.say(usual_line(match))
    out.say()
    if explanation.contributions:
        out.print_table(_contributions_table(explanation))
        out.say(
            f"log-odds {explanation.log_odds:+.2f} = ln(p / (1 - p)), so p = {match.score:.2f}\n"
        )
    if explanation.terms:
        _show_words(explanation)
    if explanation.passages:
        _show_passages(explanation)
    if explanation.rank:
        data = out.counted(explanation.data_count, "datum")
        out.say(f"place {explanation.rank:,} of {data} for this need")


def _show_verdict(explanation: contex.Explanation) -> None:
    event, match = explanation.event, explanation.need_match
    # A need may exclude the key of a datum that reaches the threshold.
    sign = "≥" if match.score >= match.threshold else "<"
    verb = "matches" if explanation.matched else "does not match"
    if is_exact(match):
        out.say((out.plain(match.need), "bold"))
        out.say(f"{out.plain(event.data_key)} r{event.revision}  {event.sequence}")
        out.say((verb, "bold green" if explanation.matched else "bold yellow"))
        out.say(out.plain(explanation.verdict))
        return
    out.say((out.plain(match.need), "bold"))
    out.say(f"{out.plain(event.data_key)} r{event.revision}  {event.sequence}")
    score, threshold = out.told_apart(match.score, match.threshold)
    verdict = f"{verb}: score {score} {sign} threshold {threshold}"
    out.say((verdict, "bold green" if explanation.matched else "bold yellow"))
    if explanation.verdict:
        out.say(out.plain(explanation.verdict))
    out.say()


def _contributions_table(explanation: contex.Explanation) -> out.Table:
    """Each term of the log-odds as a bar to the left or right, on one scale, and their sum."""
    terms, total = explanation.contributions, explanation.log_odds
    scale = max((abs(size) for size in (total, *(term.log_odds for term in terms))), default=0.0)

    def drawn(value: float) -> out.Text:
        return out.styled(signed_bar(value, scale, _SIDE), "green" if value >= 0 else "red")

    columns: out.Columns[contex.Contribution] = {
        "term": lambda term: out.plain(term.name, 40),
        "value": lambda term: f"{term.value:.3f}",
        "weight": lambda term: f"{term.weight:+.3f}",
        "log-odds": lambda term: f"{term.log_odds:+.2f}",
        "": lambda term: drawn(term.log_odds),
    }
    sums: list[Any] = ["sum", "", "", f"{total:+.2f}", drawn(total)]
    # A relative score has no such values, as its parts depend on each other.
    if any(term.needed is not None for term in terms):
        heading = f"to reach {explanation.need_match.threshold:.2f}, all else equal"
        columns = {**columns, heading: lambda term: needed_text(term, explanation.need_match)}
        sums.append("")
    result = out.table_of(terms, columns)
    result.add_section()
    result.add_row(*sums)
    return result


def needed_text(term: contex.Contribution, match: contex.Match) -> str:
    """The value that a term needs for the threshold, and its highest if that is less."""
    if term.needed is None:
        return ""
    highest = _highest(term.name, match)
    beyond = highest is not None and term.needed > highest
    return f"needs {term.needed:.2f}" + (f", at most {highest:.2f} is possible" if beyond else "")


def _highest(name: str, match: contex.Match) -> float | None:
    """The highest value of a term: with a cosine of 1, or all of the need's words."""
    if name == "standing" and match.background_deviation > 0:
        return (1 - match.background_mean) / match.background_deviation
    if name == "contrast":
        return 1 - match.usual_cosine
    return 1 - match.expected_coverage if name == "surplus" else None


def _show_words(explanation: contex.Explanation) -> None:
    """The words of the need: how much each weighs, and how much of it the datum has."""
    out.say(words_line(explanation))
    scale = max(term.weight for term in explanation.terms)
    out.show_table(
        explanation.terms,
        {
            "word": lambda term: out.plain(term.word, 40),
            "stem": lambda term: out.plain(term.stem, 40),
            "weight": "weight",
            "hit": lambda term: term.hit or "-",
            "": lambda term: out.styled(part_bar(term.hit, term.weight, scale, _PART_BAR)),
        },
    )


def words_line(explanation: contex.Explanation) -> str:
    """Which words of the need were found, which are missing, and what share chance would find."""
    match = explanation.need_match
    words = [term for term in explanation.terms if " " not in term.word]
    parts = [
        f"{name} {_listed([out.plain(term.word, 40) for term in words if bool(term.hit) is hit])}"
        for name, hit in (("found", True), ("missing", False))
    ]
    if not is_relative(match):
        parts.append(f"coverage {match.coverage:.2f}, by chance {match.expected_coverage:.2f}")
    return f"words: {'; '.join(parts)}"


def _listed(words: list[str]) -> str:
    more = f" and {len(words) - _WORDS} more" if len(words) > _WORDS else ""
    return ", ".join(words[:_WORDS]) + more if words else "none"


def _show_passages(explanation: contex.Explanation) -> None:
    columns: dict[str, str | Callable[[contex.PassageScore], Any]] = {
        "score": "score",
        "": lambda passage: out.styled(bar(passage.score, 8)),
        "cosine": "cosine",
        "lexical": "lexical",
        "path": lambda passage: out.plain(passage.path or "(head)", 60),
        "passage": lambda passage: out.plain(passage.text, 100),
    }
    if not is_relative(explanation.need_match):  # Then words count for the datum as a whole.
        del columns["lexical"]
    out.show_table(explanation.passages, columns)
