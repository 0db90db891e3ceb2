"""`contex match`, `explain`, `backtest`, `feedback` and `matching`: what fits what, and why."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import contex
from contex import THRESHOLDS

from contex_cli import options
from contex_cli import output as out
from contex_cli.bars import bar
from contex_cli.command import Session, command
from contex_cli.explanation import show_explanation
from contex_cli.indexing import default_threshold, indexing_line, when_indexed
from contex_cli.matches import (
    data_fit,
    is_cut,
    show_context,
    show_matches,
    show_missing,
    show_omitted,
)
from contex_cli.parameters import UsageError, argument, option
from contex_cli.progress import Progress
from contex_cli.records import encode, record
from contex_cli.thresholds import Step, show_steps, steps_counted, steps_of
from contex_cli.times import Place

_PROGRESS_BAR = 30
_ASK_EVERY_S = 1.0
_MOST_MATCHES = 100
"""Data for each question: the API's limit."""
NEED_INDEX = option(0, "Which of the agent's needs, from 0.", metavar="I", minimum=0)
NEED_TEXT = option(
    None,
    "The text of that need, as the match has it. Refused if it was never at this place.",
    "--need",
    metavar="TEXT",
)


@command("match")
async def match(
    session: Session,
    questions: tuple[str, ...] = argument(..., "QUESTION", "What to look for, in plain words."),
    top: int | None = option(
        None,
        "Data for each question, 1 to 100. [default: 10]",
        metavar="N",
        minimum=1,
        maximum=_MOST_MATCHES,
    ),
    threshold: float | None = option(
        None,
        "Lowest score that matches, above 0, at most 1. [default: the server's]",
        "--threshold",
        "--min-score",
        metavar="X",
    ),
    keys: tuple[str, ...] = options.KEYS,
    as_of: Place | None = options.AS_OF,
    explain: bool = option(False, "Draw what each score is made of."),
    thresholds: bool = option(
        False, "Show how many data each threshold would deliver, and the lowest of them."
    ),
    max_tokens: int | None = options.MAX_TOKENS,
    written: contex.ContextFormat | None = options.FORMAT,
) -> None:
    if thresholds:
        if top is not None or explain or max_tokens is not None or written is not None:
            others = "--top, --explain, --max-tokens, --format"
            raise UsageError(f"it doesn't go together with {others}", "--thresholds")
        await _match_thresholds(session, questions, threshold, keys, as_of)
        return
    answer = await when_indexed(
        session,
        lambda: session.client.match(
            session.project,
            questions,
            threshold=threshold,
            max_matches=top,
            data_keys=keys,
            as_of=as_of,
            max_context_tokens=max_tokens,
            context_format=written,
        ),
    )

    def show(answer: contex.MatchAnswer) -> None:
        if written is not None:
            show_context(answer.context, len(answer.data))
            show_missing(answer.omitted_count, out.remark)
            return
        show_matches(answer.by_need(), explain, is_cut=is_cut(answer.context))
        out.say(f"{data_fit(len(answer.data), answer.context)}, as of {answer.sequence}")
        show_omitted(answer.context, out.say, len(answer.data))
        show_missing(answer.omitted_count, out.say)

    session.answer(answer, show)


async def _match_thresholds(
    session: Session,
    questions: tuple[str, ...],
    threshold: float | None,
    keys: tuple[str, ...],
    as_of: Place | None,
) -> None:
    """Asks once, below the lowest threshold of the table, and counts here."""
    applied = threshold
    if applied is None:
        applied = await default_threshold(session)
    answer = await when_indexed(
        session,
        lambda: session.client.match(
            session.project,
            questions,
            threshold=min(applied, *THRESHOLDS),
            max_matches=_MOST_MATCHES,
            data_keys=keys,
            as_of=as_of,
        ),
    )
    found: list[list[tuple[float, str]]] = [[] for _ in questions]
    for matched in answer.data:
        for match in matched.matches:
            found[match.need_index].append((match.score, matched.event.data_key))
    by_need = [steps_of(sorted(pairs, reverse=True), applied, _MOST_MATCHES) for pairs in found]
    needs = [
        {"need": question, "threshold": applied, "steps": [step.record() for step in steps]}
        for question, steps in zip(questions, by_need, strict=True)
    ]
    session.answer(
        {"sequence": answer.sequence, "needs": needs},
        lambda _: _show_thresholds(questions, by_need, applied, answer.sequence),
    )


def _show_thresholds(
    questions: tuple[str, ...], by_need: list[list[Step]], applied: float, sequence: str
) -> None:
    for question, steps in dict(zip(questions, by_need, strict=True)).items():
        out.say((out.plain(question), "bold"))
        show_steps(steps, applied, "data")
        if any(step.cut for step in steps):
            out.say(f"an answer has at most {_MOST_MATCHES} data: + means that there may be more\n")
    out.say(f"▸ threshold {applied:.2f}, as of {sequence}")


@command("explain")
async def explain(
    session: Session,
    first: str | None = argument(None, "NEED", "In plain words; not with --agent."),
    second: str | None = argument(None, "KEY", "The datum; not with --sequence."),
    agent_id: str | None = option(
        None, "A need of this agent instead.", "--agent", metavar="AGENT"
    ),
    need_index: int = NEED_INDEX,
    need_text: str | None = NEED_TEXT,
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
        raise UsageError(f"takes {takes} here, not {out.counted(len(words), 'argument')}")
    if need_text is not None and agent_id is None:
        raise UsageError("it goes together with --agent only", "--need")
    given = dict(zip(expected, words, strict=True))
    explanation = await session.client.explain(
        session.project,
        need=given.get("NEED", need_text),
        agent_id=agent_id,
        need_index=need_index,
        data_key=given.get("KEY"),
        sequence=sequence,
        threshold=threshold,
        as_of=as_of,
    )
    session.answer(explanation, show_explanation)


@command("backtest")
async def backtest(
    session: Session,
    needs: tuple[str, ...] = argument((), "NEED", "What an agent might need, in plain words."),
    filters: tuple[str, ...] = options.FILTERS,
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
    specs = options.read_needs(needs, needs_file, exclude, filters)
    if not specs:
        raise UsageError("missing; or use --needs-file", "NEED")

    default = threshold
    if default is None:
        default = await default_threshold(session)
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
                    out.print_parts(out.matched_parts(item))
    if summary is None:
        return
    needs_of = [contex.Need(need) if isinstance(need, str) else need for need in specs]
    judged = [
        (need.words, 1.0 if need.filter else default if need.threshold is None else need.threshold)
        for need in needs_of
    ]
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
                for at, count in zip(THRESHOLDS, counted.events_at_threshold, strict=False)
            },
        }
        for (text, threshold), counted in zip(needs, summary.needs, strict=False)
    ]
    return {"summary": record(summary) | {"needs": by_need}}


def _show_summary(summary: contex.BacktestSummary, needs: list[tuple[str, float]]) -> None:
    held_back = summary.updates_held_back
    out.say()
    out.say(
        f"{summary.events_matched:,} of {out.counted(summary.events_judged, 'event')} "
        f"would have been delivered, about {out.counted(summary.data_keys_matched, 'datum')}"
        + (f"; --min-delta held back {out.counted(held_back, 'update')}" if held_back else "")
    )
    for (text, threshold), counted in zip(needs, summary.needs, strict=False):
        out.say()
        out.say((out.plain(text), "bold"))
        show_steps(steps_counted(counted, threshold), threshold, "events")


@command("feedback give")
async def give(
    session: Session,
    agent_id: str = options.AGENT_ID,
    sequence: str = argument(..., "SEQUENCE", "The event that matched."),
    useful: bool = option(..., "Whether the agent could use it.", "--useful/--not-useful"),
    need_index: int = NEED_INDEX,
    need: str | None = NEED_TEXT,
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
        need=need,
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
    with Progress("exported", thing="judgement") as progress, out.open_file(file) as lines:
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
        f"re-embedding  {bar(share, _PROGRESS_BAR)}  {status.texts_embedded:,} "
        f"of {out.counted(total, 'text')} ({share:.0%})"
    )


def _show_status(status: contex.MatchingStatus) -> None:
    rows = {"model": status.model or "none yet"}
    if status.is_embedding_anew:
        rows["configured model"] = status.configured_model
    rows["scorer"] = status.scorer
    rows["default threshold"] = f"{status.default_threshold:.2f}"
    rows["index here"] = (
        f"{out.counted(status.data_indexed, 'datum')}, "
        f"{out.counted(status.passages_indexed, 'passage')}, "
        f"{out.counted(status.needs_indexed, 'need')} of agents that listen, "
        f"{status.index_bytes / 2**20:,.1f} MiB"
    )
    out.show_rows(rows)
    if status.is_indexing:
        out.say(indexing_line(status))
    if status.is_embedding_anew:
        out.say(progress_line(status))
