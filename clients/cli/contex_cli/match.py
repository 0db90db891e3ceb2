"""`contex match`, `explain`, `backtest`, `feedback` and `matching`: what fits what, and why."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import contex

from contex_cli import options
from contex_cli import output as out
from contex_cli.bars import bar, part_bar, signed_bar
from contex_cli.command import Session, command
from contex_cli.matches import data_match, parts_lines, show_context, show_matches, show_omitted
from contex_cli.parameters import UsageError, argument, option
from contex_cli.progress import Progress
from contex_cli.records import encode, record
from contex_cli.times import Place

_SIDE = 14
_PART_BAR = 16
_HISTOGRAM_BAR = 40
_PROGRESS_BAR = 30
_ASK_EVERY_S = 1.0
_THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""Those that a backtest counts events at: 0.05, 0.10, … 0.95."""
NEED_INDEX = option(0, "Which of the agent's needs, from 0.", metavar="I", minimum=0)


@command("match")
async def match(
    session: Session,
    questions: tuple[str, ...] = argument(..., "QUESTION", "What to look for, in plain words."),
    top: int | None = option(
        None, "Data for each question, 1 to 100. [default: 10]", metavar="N", minimum=1, maximum=100
    ),
    min_score: float | None = option(
        None, "Lowest score that matches, above 0, at most 1. [default: the server's]", metavar="X"
    ),
    keys: tuple[str, ...] = options.KEYS,
    as_of: Place | None = options.AS_OF,
    explain: bool = option(False, "Draw what each score is made of."),
    max_tokens: int | None = options.MAX_TOKENS,
    written: contex.ContextFormat | None = options.FORMAT,
) -> None:
    answer = await session.client.match(
        session.project,
        questions,
        threshold=min_score,
        max_matches=top,
        data_keys=keys,
        as_of=as_of,
        max_context_tokens=max_tokens,
        context_format=written,
    )

    def show(answer: contex.MatchAnswer) -> None:
        if written is not None:
            show_context(answer.context)
            return
        show_matches(answer.by_need(), explain)
        out.say(f"{data_match(len(answer.data))}, as of {answer.sequence}")
        show_omitted(answer.context, out.say)

    session.answer(answer, show)


@command("explain")
async def explain(
    session: Session,
    first: str | None = argument(None, "NEED", "In plain words; not with --agent."),
    second: str | None = argument(None, "KEY", "The datum; not with --sequence."),
    agent_id: str | None = option(
        None, "A need of this agent instead.", "--agent", metavar="AGENT"
    ),
    need_index: int = NEED_INDEX,
    sequence: str | None = option(
        None, "This very event instead of a key's latest.", metavar="SEQUENCE"
    ),
    threshold: float | None = options.THRESHOLD,
    as_of: Place | None = options.AS_OF,
) -> None:
    words = [word for word in (first, second) if word is not None]
    expected = (["NEED"] if agent_id is None else []) + (["KEY"] if sequence is None else [])
    if len(words) != len(expected):
        takes = " and ".join(expected) or "nothing"
        raise UsageError(f"takes {takes} here, not {len(words)} arguments")
    given = dict(zip(expected, words, strict=True))
    explanation = await session.client.explain(
        session.project,
        need=given.get("NEED"),
        agent_id=agent_id,
        need_index=need_index,
        data_key=given.get("KEY"),
        sequence=sequence,
        threshold=threshold,
        as_of=as_of,
    )
    session.answer(explanation, show_explanation)


def show_explanation(explanation: contex.Explanation) -> None:
    """Prints the verdict, the terms that add up to it, the words and the passages."""
    event, match = explanation.event, explanation.match
    sign = "≥" if explanation.matched else "<"
    verb = "matches" if explanation.matched else "does not match"
    out.say((out.plain(match.need), "bold"))
    out.say(f"{out.plain(event.data_key)} r{event.revision}  {event.sequence}")
    verdict = f"{verb}: score {match.score:.2f} {sign} threshold {match.threshold:.2f}"
    out.say((verdict, "bold green" if explanation.matched else "bold yellow"))
    if explanation.verdict:
        out.say(out.plain(explanation.verdict))
    out.say()
    out.say_lines(parts_lines(match))
    out.say()
    if explanation.contributions:
        out.console().print(_contributions_table(explanation))
        out.say(
            f"log-odds {explanation.log_odds:+.2f} = ln(p / (1 - p)), so p = {match.score:.2f}\n"
        )
    if explanation.terms:
        # The words of the need: how much each weighs, and how much of it the passage has.
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
    if explanation.passages:
        out.show_table(
            explanation.passages,
            {
                "score": "score",
                "": lambda passage: out.styled(bar(passage.score, 8)),
                "cosine": "cosine",
                "lexical": "lexical",
                "path": lambda passage: out.plain(passage.path or "(head)", 60),
                "passage": lambda passage: out.plain(passage.text, 100),
            },
        )
    if explanation.rank:
        out.say(f"place {explanation.rank:,} of {explanation.data_count:,} data for this need")


def _contributions_table(explanation: contex.Explanation) -> out.Table:
    """Each term of the log-odds as a bar to the left or right, on one scale, and their sum."""
    terms, total = explanation.contributions, explanation.log_odds
    scale = max((abs(size) for size in (total, *(term.log_odds for term in terms))), default=0.0)

    def drawn(value: float) -> out.Text:
        return out.styled(signed_bar(value, scale, _SIDE), "green" if value >= 0 else "red")

    result = out.table_of(
        terms,
        {
            "term": lambda term: out.plain(term.name, 40),
            "value": lambda term: f"{term.value:.3f}",
            "weight": lambda term: f"{term.weight:+.3f}",
            "log-odds": lambda term: f"{term.log_odds:+.2f}",
            "": lambda term: drawn(term.log_odds),
        },
    )
    result.add_section()
    result.add_row("sum", "", "", f"{total:+.2f}", drawn(total))
    return result


@command("backtest")
async def backtest(
    session: Session,
    needs: tuple[str, ...] = argument((), "NEED", "What an agent might need, in plain words."),
    needs_file: str | None = options.NEEDS_FILE,
    exclude: tuple[str, ...] = options.EXCLUDE,
    *,
    range: options.Range,
    threshold: float | None = options.THRESHOLD,
    min_delta: options.MinDelta,
    summary_only: bool = option(False, "Only the summary, not each event.", "--summary"),
) -> None:
    """Each event is judged as a live delivery is. The summary counts the events at other
    thresholds.
    """
    specs = options.read_needs(needs, needs_file, exclude)
    if not specs:
        raise UsageError("missing; or use --needs-file", "NEED")

    default = threshold
    if default is None:
        default = (await session.client.matching_status(session.project)).default_threshold
    summary = None
    shown = summary_only or session.json or not out.console().is_terminal
    with Progress("read", shown=shown, bar=True) as progress:
        async with session.client.backtest(
            session.project,
            specs,
            threshold=threshold,
            **vars(range),
            min_delta=min_delta.value(),
            summary_only=summary_only,
        ) as items:
            async for item in items:
                if isinstance(item, contex.BacktestProgress):
                    progress.reach(item.events_read, item.events_total)
                    out.flush()
                elif isinstance(item, contex.BacktestSummary):
                    summary = item
                elif session.json:
                    out.print_json(item)
                else:
                    out.print_line(out.matched_line(item))
    if summary is None:
        return
    needs_of = [contex.Need(need) if isinstance(need, str) else need for need in specs]
    judged = [(n.text, default if n.threshold is None else n.threshold) for n in needs_of]
    if session.json:
        out.print_json(summary_record(summary, judged))
    else:
        _show_summary(summary, judged)


def summary_record(
    summary: contex.BacktestSummary, needs: list[tuple[str, float]]
) -> dict[str, Any]:
    """What a backtest found, for programs; `needs` are texts and thresholds."""
    by_need = [
        {
            "need": text,
            "threshold": threshold,
            "events_matched": counted.events_matched,
            "events_at_threshold": {
                f"{at:.2f}": count
                for at, count in zip(_THRESHOLDS, counted.events_at_threshold, strict=False)
            },
        }
        for (text, threshold), counted in zip(needs, summary.needs, strict=False)
    ]
    return {"summary": record(summary) | {"needs": by_need}}


def _show_summary(summary: contex.BacktestSummary, needs: list[tuple[str, float]]) -> None:
    held_back = summary.updates_held_back
    out.say()
    out.say(
        f"{summary.events_matched:,} of {summary.events_judged:,} events would have been "
        f"delivered, about {summary.data_keys_matched:,} data"
        + (f"; --min-delta held back {held_back:,} updates" if held_back else "")
    )
    for (text, threshold), counted in zip(needs, summary.needs, strict=False):
        out.say()
        out.say((out.plain(text), "bold"))
        out.say_lines(histogram(counted, threshold))


def histogram(
    counted: contex.NeedSummary, threshold: float, thresholds: tuple[float, ...] = _THRESHOLDS
) -> list[str]:
    """Events at each threshold as bars; the chosen one is marked, or put between."""
    counts = dict(zip(thresholds, counted.events_at_threshold, strict=False))
    chosen = next((at for at in counts if abs(at - threshold) < 0.005), threshold)
    counts.setdefault(chosen, counted.events_matched)
    highest = max(counts.values())
    return [
        f"{'▸' if at == chosen else ' '} {at:.2f}  "
        f"{bar(counts[at] / highest if highest else 0.0, _HISTOGRAM_BAR)}  {counts[at]:,}"
        for at in sorted(counts)
    ]


@command("feedback give")
async def give(
    session: Session,
    agent_id: str = options.AGENT_ID,
    sequence: str = argument(..., "SEQUENCE", "The event that matched."),
    useful: bool = option(..., "Whether the agent could use it.", "--useful/--not-useful"),
    need_index: int = NEED_INDEX,
    comment: str = option("", "A remark for people."),
    request_id: str | None = option(
        None, "Makes repeating this command safe. [default: a new one]", metavar="ID"
    ),
) -> None:
    noted = await session.client.record_feedback(
        session.project,
        agent_id,
        sequence,
        useful=useful,
        need_index=need_index,
        comment=comment,
        request_id=request_id,
    )
    verdict = "useful" if useful else "not useful"
    session.answer(
        {"sequence": noted},
        lambda _: out.print_line(f"{sequence} was {verdict} for {out.plain(agent_id)}  {noted}"),
    )


@command("feedback export", without=["json"])
async def export(
    session: Session,
    file: str = argument("-", "FILE", "Where to write; - is stdout."),
    *,
    range: options.Range,
) -> None:
    """Each has the need, the datum, the verdict, and what the match was made of when it was
    judged.
    """
    with Progress("exported", things="judgements") as progress, out.open_file(file) as lines:
        async with session.client.export_feedback(session.project, **vars(range)) as judgements:
            async for judgement in judgements:
                lines.write(encode(judgement))
                progress.advance(1)


@command("matching")
async def matching(
    session: Session,
    watch: bool = option(False, "Show the progress of re-embedding, until it is done."),
) -> None:
    session.follows = watch
    status = await session.client.matching_status(session.project)
    if watch:
        status = await _watch(session, status)
    session.answer(status, _show_status)


async def _watch(session: Session, status: contex.MatchingStatus) -> contex.MatchingStatus:
    """Shows each change until the models agree; returns the last status."""
    from rich.live import Live
    from rich.text import Text

    errors = out.error_console()
    moving = Live(console=errors, transient=True, auto_refresh=False)
    with moving if errors.is_terminal and not session.json else nullcontext():
        shown = ""
        while status.is_embedding_anew:
            line = progress_line(status)
            if line != shown and session.json:
                out.print_json(status)
                out.flush()
            elif line != shown and errors.is_terminal:
                moving.update(Text(line), refresh=True)
            elif line != shown:
                out.remark(line)
            shown = line
            await asyncio.sleep(_ASK_EVERY_S)
            status = await session.client.matching_status(session.project)
    return status


def progress_line(status: contex.MatchingStatus) -> str:
    total = status.texts_total
    share = status.texts_embedded / total if total else 0.0
    return (
        f"re-embedding  {bar(share, _PROGRESS_BAR)}  {status.texts_embedded:,} of {total:,} texts "
        f"({share:.0%})"
    )


def _show_status(status: contex.MatchingStatus) -> None:
    rows = {"model": status.model or "none yet"}
    if status.is_embedding_anew:
        rows["configured model"] = status.configured_model
    rows["scorer"] = status.scorer
    rows["default threshold"] = f"{status.default_threshold:.2f}"
    rows["index here"] = (
        f"{status.data_indexed:,} data, {status.passages_indexed:,} passages, "
        f"{status.needs_indexed:,} needs of agents that listen, "
        f"{status.index_bytes / 2**20:,.1f} MiB"
    )
    out.show_rows(rows)
    if status.is_embedding_anew:
        out.say(progress_line(status))
