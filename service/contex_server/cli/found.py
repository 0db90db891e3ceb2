"""What was found for needs and questions, for people: tables, bars, and the text of a prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from contex_server.cli.bars import bar, marked_bar, signed_bar
from contex_server.cli.output import (
    cell,
    console,
    error_console,
    payload_preview,
    plain,
    print_cut,
    styled,
    table,
)

if TYPE_CHECKING:
    from contex import Context, Match, MatchedEvent
    from rich.console import Console

Pairs = list[tuple["MatchedEvent", "Match"]]

_BAR = 20
_STANDING_SCALE = 4.0
"""Deviations that fill half a bar: nearly all passages lie within."""


def show_found(grouped: dict[str, Pairs], explained: bool = False) -> None:
    """Prints what was found, need by need: a table each, or the scores with their parts."""
    for need, found in grouped.items():
        console().print(cell(need), style="bold")
        if not found:
            console().print("  nothing yet\n")
        elif explained:
            for matched, match in found:
                _show_parts(matched, match)
        else:
            _show_table(found)


def _show_table(found: Pairs) -> None:
    result = table("score", "data key", "rev", "path", "passage", numbers=("score", "rev"))
    for matched, match in found:
        event = matched.event
        result.add_row(
            f"{match.score:.2f}",
            cell(event.data_key),
            str(event.revision),
            cell(match.path, 60),
            cell(passage(matched, match), 100),
        )
    console().print(result)


def passage(matched: MatchedEvent, match: Match) -> str:
    """The words that decided; a server may leave them out where it is the head."""
    return match.passage or matched.event.description or payload_preview(matched.event, 60)


def _show_parts(matched: MatchedEvent, match: Match) -> None:
    event = matched.event
    place = f"  at {plain(match.path, 60)}" if match.path else ""
    print_cut(f"  {match.score:.2f}  {plain(event.data_key)} r{event.revision}{place}")
    print_cut(styled(f"        {plain(passage(matched, match), 100)}", "dim"))
    for line in parts_lines(match):
        print_cut(f"        {line}")
    console().print()


def parts_lines(match: Match) -> list[str]:
    """A score's parts as bars."""
    standing = signed_bar(match.standing, _STANDING_SCALE, _BAR // 2 - 1).ljust(_BAR)
    return [
        f"probability  {marked_bar(match.score, match.threshold, _BAR)}  {match.score:5.2f}  "
        f"┃ threshold {match.threshold:.2f}",
        f"standing     {standing}  {match.standing:5.2f}  cosine {match.cosine:.2f}; "
        f"the project's {match.background_mean:.2f} ± {match.background_deviation:.2f}",
        f"lexical      {bar(match.lexical, _BAR)}  {match.lexical:5.2f}  of the need's words",
    ]


def show_context(context: Context | None) -> None:
    """Prints the data as they are written out, and on stderr what they take and leave out."""
    if context is None:
        return
    text = context.text if not context.text or context.text.endswith("\n") else context.text + "\n"
    sys.stdout.write(text)
    show_omitted(context, error_console())
    error_console().print(f"{context.tokens:,} tokens ({plain(context.token_counter, 60)})")


def show_omitted(context: Context | None, where: Console) -> None:
    """Names the data that a budget left out, if any."""
    if context is None or not context.omitted:
        return
    where.print(f"left out, as {context.tokens:,} tokens are taken:", markup=False)
    for datum in context.omitted:
        where.print(
            f"  {datum.score:.2f}  {plain(datum.data_key)}  {datum.tokens:,} tokens",
            markup=False,
        )
