"""`contex explain`: why a need and a datum match or don't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from contex_server.cli import options
from contex_server.cli.bars import bar, part_bar, signed_bar
from contex_server.cli.found import parts_lines
from contex_server.cli.output import cell, console, plain, print_json, styled, table
from contex_server.cli.positions import parse_moment
from contex_server.cli.records import explanation_record
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import Explanation
    from rich.table import Table

_SIDE = 14
_BAR = 16


def explain(
    first: Annotated[
        str | None, typer.Argument(metavar="NEED", help="In plain words; not with --agent.")
    ] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="KEY", help="The datum; not with --sequence.")
    ] = None,
    agent_id: Annotated[
        str | None, typer.Option("--agent", metavar="AGENT", help="A need of this agent instead.")
    ] = None,
    need_index: Annotated[
        int, typer.Option(min=0, metavar="I", help="Which of the agent's needs, from 0.")
    ] = 0,
    sequence: Annotated[
        str | None,
        typer.Option(metavar="SEQUENCE", help="This very event instead of a key's latest."),
    ] = None,
    threshold: options.Threshold = None,
    as_of: options.AsOf = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Take the score of a need and a datum apart."""
    words = [word for word in (first, second) if word is not None]
    need, data_key = _need_and_key(words, agent_id, sequence)
    moment = parse_moment(as_of, "--at")

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            explanation = await client.explain(
                project,
                need=need,
                agent_id=agent_id,
                need_index=need_index,
                data_key=data_key,
                sequence=sequence,
                threshold=threshold,
                as_of=moment,
            )
        if as_json:
            print_json(explanation_record(explanation))
        else:
            show(explanation)

    run(work())


def _need_and_key(
    words: list[str], agent_id: str | None, sequence: str | None
) -> tuple[str | None, str | None]:
    expected = (["NEED"] if agent_id is None else []) + (["KEY"] if sequence is None else [])
    if len(words) != len(expected):
        wanted = " and ".join(expected) or "nothing"
        raise typer.BadParameter(f"takes {wanted} here, not {len(words)} arguments")
    given = dict(zip(expected, words, strict=True))
    return given.get("NEED"), given.get("KEY")


def show(explanation: Explanation) -> None:
    """Prints the verdict, the terms that add up to it, the words and the passages."""
    event, match = explanation.event, explanation.match
    sign = "≥" if explanation.matched else "<"
    console().print(cell(match.need), style="bold")
    _print(f"{plain(event.data_key)} r{event.revision}  {event.sequence}")
    _print(
        f"{'matches' if explanation.matched else 'does not match'}: "
        f"score {match.score:.2f} {sign} threshold {match.threshold:.2f}",
        style="bold green" if explanation.matched else "bold yellow",
    )
    if explanation.verdict:
        console().print(cell(explanation.verdict))
    console().print()
    for line in parts_lines(match):
        _print(line)
    console().print()
    if explanation.contributions:
        console().print(contributions_table(explanation))
        _print(
            f"log-odds {explanation.log_odds:+.2f} = ln(p / (1 - p)), so p = {match.score:.2f}\n"
        )
    if explanation.terms:
        console().print(terms_table(explanation))
    if explanation.passages:
        console().print(passages_table(explanation))
    if explanation.rank:
        _print(f"place {explanation.rank:,} of {explanation.data_count:,} data for this need")


def contributions_table(explanation: Explanation) -> Table:
    """Each term of the log-odds as a bar to the left or right, on one scale, and their sum."""
    terms, total = explanation.contributions, explanation.log_odds
    scale = max((abs(size) for size in (total, *(term.log_odds for term in terms))), default=0.0)
    result = _bars("term", "value", "weight", "log-odds", numbers=("value", "weight", "log-odds"))
    for term in terms:
        result.add_row(
            cell(term.name, 40),
            f"{term.value:.3f}",
            f"{term.weight:+.3f}",
            f"{term.log_odds:+.2f}",
            _signed(term.log_odds, scale),
        )
    result.add_section()
    result.add_row("sum", "", "", f"{total:+.2f}", _signed(total, scale))
    return result


def terms_table(explanation: Explanation) -> Table:
    """The words of the need: how much each weighs, and how much of it the passage has."""
    scale = max((term.weight for term in explanation.terms), default=0.0)
    result = _bars("word", "stem", "weight", "hit", numbers=("weight", "hit"))
    for term in explanation.terms:
        result.add_row(
            cell(term.word, 40),
            cell(term.stem, 40),
            f"{term.weight:.2f}",
            f"{term.hit:.2f}" if term.hit else "-",
            styled(part_bar(term.hit, term.weight, scale, _BAR)),
        )
    return result


def passages_table(explanation: Explanation) -> Table:
    """The passages of the datum, best first."""
    numbers = ("score", "cosine", "lexical")
    result = table("score", "", "cosine", "lexical", "path", "passage", numbers=numbers)
    for passage in explanation.passages:
        result.add_row(
            f"{passage.score:.2f}",
            styled(bar(passage.score, 8)),
            f"{passage.cosine:.2f}",
            f"{passage.lexical:.2f}",
            cell(passage.path or "(head)", 60),
            cell(passage.text, 100),
        )
    return result


def _bars(*columns: str, numbers: tuple[str, ...]) -> Table:
    result = table(*columns, numbers=numbers)
    result.add_column("", no_wrap=True)
    return result


def _signed(value: float, scale: float) -> Any:
    return styled(signed_bar(value, scale, _SIDE), "green" if value >= 0 else "red")


def _print(text: str, style: str | None = None) -> None:
    console().print(text, style=style, markup=False)
