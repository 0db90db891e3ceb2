"""What matches needs and questions, for people: tables, bars, and the text of a prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable

import contex

from contex_cli import output as out
from contex_cli.bars import bar, marked_bar, signed_bar

Pairs = list[tuple[contex.MatchedEvent, contex.Match]]

_BAR = 20
_STANDING_SCALE = 4.0
"""Deviations that fill half a bar: nearly all passages lie within."""


def show_matches(grouped: dict[str, Pairs], explained: bool = False, *, is_cut: bool) -> None:
    """Prints what matches, need by need: a table each, or the scores with their parts.

    `is_cut` says that a budget left out some of what matches.
    """
    for need, pairs in grouped.items():
        out.say((out.plain(need), "bold"))
        if not pairs:
            out.say("  nothing that fits\n" if is_cut else "  nothing yet\n")
        elif explained:
            for matched, match in pairs:
                _show_parts(matched, match)
        else:
            out.show_table(
                pairs,
                {
                    "score": lambda pair: pair[1].score,
                    "data key": lambda pair: pair[0].event.data_key,
                    "rev": lambda pair: pair[0].event.revision,
                    "path": lambda pair: out.plain(pair[1].path, 60),
                    "passage": lambda pair: out.plain(_passage(*pair), 100),
                },
            )


def _passage(matched: contex.MatchedEvent, match: contex.Match) -> str:
    """The words that decided; a server may leave them out where they are the head."""
    return match.passage or matched.event.description or out.payload_preview(matched.event, 60)


def _show_parts(matched: contex.MatchedEvent, match: contex.Match) -> None:
    event = matched.event
    place = f"  at {out.plain(match.path, 60)}" if match.path else ""
    out.say(f"  {match.score:.2f}  {out.plain(event.data_key)} r{event.revision}{place}", cut=True)
    out.say((f"        {out.plain(_passage(matched, match), 100)}", "dim"), cut=True)
    for line in parts_lines(match):
        out.say(f"        {line}", cut=True)
    out.say()


def is_exact(match: contex.Match) -> bool:
    """Whether the need is a filter: then the score is not made of anything."""
    return not match.scorer


def is_relative(match: contex.Match) -> bool:
    """Whether the score is one of earlier versions, which set a datum against all the others."""
    return match.share != 0


def parts_lines(match: contex.Match) -> list[str]:
    """A line for each part of a score, with bars."""
    lines = [probability_line(match)]
    usual = f"{match.background_mean:.2f} ± {match.background_deviation:.2f}"
    if is_relative(match):
        about = f"cosine {match.cosine:.2f}; the project's {usual}"
        return [
            *lines,
            _signed_line("standing", match.standing, _STANDING_SCALE, about),
            f"lexical      {bar(match.lexical, _BAR)}  {match.lexical:5.2f}  of the need's words",
        ]
    contrast, surplus = match.cosine - match.usual_cosine, match.coverage - match.expected_coverage
    return [
        *lines,
        _signed_line(
            "standing",
            match.standing,
            _STANDING_SCALE,
            f"cosine {match.cosine:.2f}; the need's with data {usual}",
        ),
        _signed_line(
            "contrast",
            contrast,
            1.0,
            f"cosine {match.cosine:.2f}; the datum's with needs {match.usual_cosine:.2f}",
        ),
        _signed_line(
            "surplus",
            surplus,
            1.0,
            f"has {match.coverage:.2f} of the need's words; by chance "
            f"{match.expected_coverage:.2f}",
        ),
    ]


def probability_line(match: contex.Match) -> str:
    """The score as a bar with a mark at the threshold."""
    score, threshold = out.told_apart(match.score, match.threshold)
    drawn = marked_bar(match.score, match.threshold, _BAR)
    return f"probability  {drawn}  {score:>5}  ┃ threshold {threshold}"


def _signed_line(name: str, value: float, scale: float, about: str) -> str:
    drawn = signed_bar(value, scale, _BAR // 2 - 1).ljust(_BAR)
    return f"{name:<11}  {drawn}  {value:5.2f}  {about}"


def usual_line(match: contex.Match) -> str:
    """What the cosine is measured against, and where that comes from."""
    usual = f"{match.background_mean:.2f} ± {match.background_deviation:.2f}"
    count, since = match.background_passages, match.background_sequence
    if is_relative(match):
        background = f"{out.counted(count, 'passage')} as of {since}"
        return f"cosine {match.cosine:.2f}; need: usually {usual}; background: {background}"
    background = (
        f"{out.counted(count, 'datum')} since {since}" if since != "0" else "the shipped one"
    )
    return (
        f"cosine {match.cosine:.2f}; need: usually {usual} with data; "
        f"datum: usually {match.usual_cosine:.2f} with needs; background: {background}"
    )


def need_line(need: contex.Need) -> str:
    facts = []
    if need.threshold is not None:
        facts.append(f"threshold {need.threshold:g}")
    if need.max_matches is not None:
        facts.append(f"at most {need.max_matches}")
    if need.exclude_data_keys:
        facts.append(f"not {', '.join(map(out.plain, need.exclude_data_keys))}")
    return out.plain(need.words) + (f"  ({'; '.join(facts)})" if facts else "")


def need_lines(agent: contex.Agent) -> list[str]:
    """The needs of an agent."""
    return list(map(need_line, agent.needs))


def show_context(context: contex.Context | None, data: int) -> None:
    """Prints the data as they are written out, and on stderr their tokens and what is left out.

    `data` is how many there are.
    """
    if context is None:
        return
    text = context.text if not context.text or context.text.endswith("\n") else context.text + "\n"
    sys.stdout.write(text)
    show_omitted(context, out.remark, data)
    out.remark(f"{out.counted(context.tokens, 'token')} ({out.plain(context.token_counter, 60)})")


def data_match(count: int) -> str:
    """How many data match, as a clause."""
    return f"{out.counted(count, 'datum')} {'matches' if count == 1 else 'match'}"


def data_fit(kept: int, context: contex.Context | None) -> str:
    """The same, and how many of them a budget kept, if it left out any."""
    if context is None or not context.omitted_count:
        return data_match(kept)
    fit = "none fits" if not kept else "1 fits" if kept == 1 else f"{kept} fit"
    return f"{data_match(kept + context.omitted_count)} and {fit}"


def is_cut(context: contex.Context | None) -> bool:
    """Whether a budget left out any of what matches."""
    return context is not None and context.omitted_count > 0


def show_omitted(context: contex.Context | None, tell: Callable[[str], None], data: int) -> None:
    """Says what a budget left out, if anything, beside the `data` that it kept."""
    if context is None or not context.omitted_count:
        return
    total, tokens = data + context.omitted_count, context.tokens + context.omitted_tokens
    tell(
        f"cut: {context.omitted_count:,} of {out.counted(total, 'datum')} left out; "
        f"the rest takes {context.tokens:,} of {out.counted(tokens, 'token')}"
    )
    for datum in context.omitted:
        tokens_text = out.counted(datum.tokens, "token")
        tell(f"  {datum.score:.2f}  {out.plain(datum.data_key)}  {tokens_text}")
    if unlisted := context.omitted_count - len(context.omitted):
        tell(f"  and {unlisted:,} more")


def show_missing(count: int, tell: Callable[[str], None]) -> None:
    """Says how many data an answer had no room for, if any."""
    if count:
        match = "matches" if count == 1 else "match"
        tell(f"cut: {count:,} more with lower scores {match}, and had no room in the answer")
