"""Shows the demo to people: steps, progress, tables and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contex_server.cli.demo.corpus import Corpus
from contex_server.cli.demo.figures import Figures
from contex_server.cli.demo.verification import percentile
from contex_server.cli.output import cell, table

if TYPE_CHECKING:
    from contex import Registration
    from rich.console import Console

_SHOWN_AGENTS = 12
_SHOWN_NEEDS = 2
_SHOWN_MATCHES = 3
_SHOWN_RECEIVERS = 8


class View:
    """Tells the story on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 0

    def step(self, title: str) -> None:
        """Begins a step."""
        self._steps += 1
        self._console.print(f"\n{self._steps}. {title}", style="bold", markup=False)

    def say(self, text: str) -> None:
        """Tells how a step went."""
        self._console.print(f"   {text}", markup=False)

    @contextmanager
    def progress(self, verb: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar while a long step runs; yields what advances it."""
        from rich import progress

        with progress.Progress(
            progress.TextColumn("   {task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as bar:
            task = bar.add_task(verb, total=total)
            yield lambda count: bar.advance(task, count)

    def matches(
        self, corpus: Corpus, registrations: Mapping[str, Registration], figures: Figures
    ) -> None:
        """A selection of who was matched with what, and totals."""
        shown = table("agent", "need", "matches", "best matches, with scores", numbers=("matches",))
        # Evenly spread over the agents: not the best ones.
        step = max(1, len(corpus.agents) // _SHOWN_AGENTS)
        for agent in corpus.agents[::step][:_SHOWN_AGENTS]:
            by_need = registrations[agent.agent_id].by_need()
            for index, need in enumerate(agent.needs[:_SHOWN_NEEDS]):
                found = by_need[need.text]
                best = "  ".join(
                    f"{matched.event.data_key} {match.score:.2f}"
                    for matched, match in found[:_SHOWN_MATCHES]
                )
                shown.add_row(
                    cell(agent.agent_id if index == 0 else ""),
                    cell(need.text, 60),
                    str(len(found)),
                    cell(best or "nothing yet"),
                )
        self._console.print(shown)
        self.say(
            f"in all {figures.matches:,} matches with {figures.matched_data:,} data; "
            f"{figures.matched_needs:,} of {figures.needs:,} needs have one; "
            f"{figures.register:.1f} s"
        )
        if figures.hits is not None:
            self.say(
                f"a right answer comes first for {figures.hits.at_1:.0%}, among the first "
                f"ten for {figures.hits.at_10:.0%} of {figures.hits.judged:,} judged needs"
            )

    def received(self, receivers: Sequence[tuple[str, float, float]]) -> None:
        """Who received an event, when, and how well it fits."""
        if not receivers:
            self.say("nobody needs it")
            return
        shown = table("agent", "after", "score", numbers=("after", "score"))
        for agent_id, ms, score in receivers[:_SHOWN_RECEIVERS]:
            shown.add_row(cell(agent_id), f"{ms:.1f} ms", f"{score:.2f}")
        self._console.print(shown)
        more = len(receivers) - _SHOWN_RECEIVERS
        self.say(
            f"{len(receivers)} agents received it" + (f" ({more} not shown)" if more > 0 else "")
        )

    def delivery_times(self, figures: Figures) -> None:
        """The percentiles of the timed deliveries."""
        for name, values in (
            ("known text", figures.delivery_known_ms),
            ("new text, embedded first", figures.delivery_new_ms),
        ):
            self.say(f"{name}: {_percentiles(values)}")

    def killed(self, figures: Figures, deliveries: int) -> None:
        """How the stream went through the kill."""
        self.say(
            f"killed after {figures.acknowledged_before_kill:,} acknowledgements with "
            f"{figures.unanswered_at_kill:,} events unanswered; "
            f"serving again {figures.restart:.1f} s after the restart"
        )
        self.say(
            f"the publisher went on after {figures.outage:.1f} s by itself; {figures.repeated:,} "
            "events turned out to be in the log already and were not appended again"
        )
        self.say(
            f"{figures.streamed:,} acknowledged and {deliveries:,} delivered "
            f"in {figures.stream:.1f} s"
        )

    def summary(self, figures: Figures) -> None:
        """The one table, with every claim and whether it held."""
        shown = table("", "measured", "must be", "", title="Summary")
        log, delivery = figures.log, figures.delivery
        rows: list[tuple[str, str, str, bool | None]] = [
            ("documents", f"{figures.documents:,}", "", None),
            ("agents, needs", f"{figures.agents:,}, {figures.needs:,}", "", None),
            ("matches at registration", f"{figures.matches:,}", "", None),
        ]
        if figures.hits is not None:
            hits = f"{figures.hits.at_1:.1%}, {figures.hits.at_10:.1%}"
            rows.append(("right answer first, among ten", hits, "", None))
        rows += [
            (
                "an update reaches the agent it fits best",
                "yes" if figures.update_reached_best else "no",
                "yes",
                figures.update_reached_best,
            ),
            ("delivery, known text", _percentiles(figures.delivery_known_ms), "", None),
            ("delivery, new text", _percentiles(figures.delivery_new_ms), "", None),
            (
                "streamed: before the kill, after",
                f"{figures.acknowledged_before_kill:,}, "
                f"{figures.streamed - figures.acknowledged_before_kill:,}",
                "",
                None,
            ),
            ("unanswered at the kill", f"{figures.unanswered_at_kill:,} events", "", None),
            ("restart after kill -9", f"{figures.restart:.2f} s", "", None),
            ("publisher waited", f"{figures.outage:.2f} s", "", None),
            (
                "acknowledged",
                f"{figures.acknowledged:,}",
                f"{figures.published:,}",
                figures.acknowledged == figures.published,
            ),
        ]
        if log is not None:
            rows += [
                ("acknowledged and lost", str(log.lost), "0", not log.lost),
                ("altered", str(log.altered), "0", not log.altered),
                (
                    "in the log twice, or never published",
                    f"{log.duplicated}, {log.foreign}",
                    "0, 0",
                    not log.duplicated and not log.foreign,
                ),
                (
                    "gaps or disorder in the log",
                    f"{log.gaps}, {log.unordered}",
                    "0, 0",
                    not log.gaps and not log.unordered,
                ),
            ]
        rows.append(
            (
                "agents that lost the connection and resumed",
                f"{figures.reconnects}",
                f"{figures.agents}",
                figures.reconnects == figures.agents,
            )
        )
        if delivery is not None:
            rows += [
                (
                    "deliveries",
                    f"{figures.deliveries:,}",
                    f"{figures.deliveries_expected:,}",
                    figures.deliveries == figures.deliveries_expected > 0,
                ),
                (
                    "received and not on record",
                    str(figures.unrecorded),
                    "0",
                    not figures.unrecorded,
                ),
                ("deliveries missing", str(delivery.missing), "0", not delivery.missing),
                (
                    "deliveries twice or out of order",
                    f"{delivery.duplicated}, {delivery.unordered}",
                    "0, 0",
                    not delivery.duplicated and not delivery.unordered,
                ),
                (
                    "deliveries of no match or no event",
                    f"{delivery.unexpected}, {delivery.unknown}",
                    "0, 0",
                    not delivery.unexpected and not delivery.unknown,
                ),
            ]
        rows.append(
            (
                "first start, stop by SIGTERM",
                f"{figures.start:.2f} s, {figures.stop:.2f} s",
                "",
                None,
            )
        )
        rows.append(("the whole run", f"{figures.total:.1f} s", "", None))
        for name, measured, required, held in rows:
            verdict = "" if held is None else "[green]ok[/]" if held else "[bold red]FAILED[/]"
            shown.add_row(name, measured, required, verdict)
        self._console.print()
        self._console.print(shown)


def _percentiles(values: Sequence[float]) -> str:
    if not values:
        return "no deliveries"
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(values):,} deliveries"
