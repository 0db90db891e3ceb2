"""Shows the demo to people: steps, progress, tables and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from contex import Registration
from contex_cli.output import cell, table
from rich import progress
from rich.console import Console

from contex_demo.corpus import Corpus
from contex_demo.figures import Figures

_SHOWN_AGENTS = 12
_SHOWN_NEEDS = 2
_SHOWN_MATCHES = 3
_SHOWN_MISSED = 20
_SHOWN_RECEIVERS = 8


class View:
    """Tells the story on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 0
        self.step_name = ""

    def step(self, title: str) -> None:
        self._steps += 1
        self.step_name = f"{self._steps}. {title}"
        self._console.print(f"\n{self.step_name}", style="bold", markup=False)

    def say(self, text: str) -> None:
        self._console.print(f"   {text}", markup=False)

    @contextmanager
    def progress(self, verb: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar while a long step runs; yields what advances it."""
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
        shown = table("agent", "need", "matches", "best matches, with scores")
        # Evenly spread over the agents: not the best ones.
        step = max(1, len(corpus.agents) // _SHOWN_AGENTS)
        for agent in corpus.agents[::step][:_SHOWN_AGENTS]:
            by_need = registrations[agent.agent_id].by_need()
            for index, need in enumerate(agent.needs[:_SHOWN_NEEDS]):
                pairs = by_need[need.text]
                best = "  ".join(
                    f"{matched.event.data_key} {match.score:.2f}"
                    for matched, match in pairs[:_SHOWN_MATCHES]
                )
                name = cell(agent.agent_id if index == 0 else "")
                shown.add_row(
                    name, cell(need.text, 60), str(len(pairs)), cell(best or "nothing yet")
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

    def missed(self, figures: Figures) -> None:
        """The expected answers that were not delivered, with their scores and the reasons."""
        if not figures.answers_expected:
            return
        absent = figures.answers_expected - figures.answers_delivered
        self.say(
            f"{figures.answers_delivered:,} of {figures.answers_expected:,} answers that a person "
            f"would expect were delivered at once{', the others not:' if absent else ''}"
        )
        if not absent:
            return
        shown = table("need", "expected", "score", "place", "why it was not delivered")
        for one in figures.missed[:_SHOWN_MISSED]:
            # Three digits: a score just below the threshold must not look like it.
            score = f"{one.score:.3f}"
            shown.add_row(
                cell(one.need, 60), cell(one.data_key), score, f"{one.rank:,}", cell(one.reason)
            )
        self._console.print(shown)
        if absent > _SHOWN_MISSED:
            self.say(f"{absent - _SHOWN_MISSED:,} not shown")

    def received(self, receivers: Sequence[tuple[str, float, float]]) -> None:
        if not receivers:
            self.say("nobody needs it")
            return
        shown = table("agent", "after", "score")
        for agent_id, ms, score in receivers[:_SHOWN_RECEIVERS]:
            shown.add_row(cell(agent_id), f"{ms:.1f} ms", f"{score:.2f}")
        self._console.print(shown)
        more = len(receivers) - _SHOWN_RECEIVERS
        not_shown = f" ({more} not shown)" if more > 0 else ""
        self.say(f"{len(receivers)} agents received it{not_shown}")

    def told(self, agent_id: str, kinds: Mapping[str, str]) -> None:
        """What an agent was told of some data."""
        shown = table("datum", f"what {agent_id} was told")
        for key, kind in kinds.items():
            shown.add_row(cell(key), kind)
        self._console.print(shown)

    def twins(self, online: tuple[str, Mapping[str, int]], offline: Mapping[str, int]) -> None:
        """The deliveries to two agents, one of them listening all the time, by kind."""
        name, counts = online
        shown = table("delivered", name, "the one that was away")
        for kind in dict.fromkeys((*counts, *offline)):
            shown.add_row(kind, f"{counts.get(kind, 0):,}", f"{offline.get(kind, 0):,}")
        self._console.print(shown)

    def killed(self, figures: Figures, deliveries: int) -> None:
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
        for name, measured, required, held in figures.rows():
            verdict = "[green]ok[/]" if held else "[bold red]FAILED[/]"
            shown.add_row(name, measured, required, verdict if required else "")
        self._console.print()
        self._console.print(shown)
