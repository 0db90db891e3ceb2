"""`contex demo`."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from contex_server.cli.demo import corpus as corpora
from contex_server.cli.exits import ExitCode, InputError, complain, complain_about
from contex_server.cli.output import console, error_console, print_json
from contex_server.cli.running import run

_NEEDS_HELP = (
    "JSON lines with need and optionally data_keys, the right answers; "
    f"{corpora.NEEDS_PER_AGENT} needs make an agent."
)


def demo(
    documents: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON lines with data_key, description and data."),
    ] = None,
    needs: Annotated[Path | None, typer.Option(metavar="FILE", help=_NEEDS_HELP)] = None,
    agents: Annotated[
        int, typer.Option(min=1, max=500, help="At most this many agents for --needs.")
    ] = 100,
    events: Annotated[
        int, typer.Option(min=500, max=100_000, help="Events of the stream that is cut by kill -9.")
    ] = 3_000,
    threshold: Annotated[
        float | None, typer.Option(help="The agents' threshold. [default: the server's]")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the data and the server's log.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The figures as one JSON object on stdout.")
    ] = False,
) -> None:
    """Show it all on real input, and check every claim.

    Publishes the documentation of this machine's Python, or anyone's data, to a server of its own;
    registers agents, delivers updates, kills the server with kill -9 in the middle of a stream and
    starts it again. Compares what every agent received and what is in the log with what must be,
    and removes everything afterwards. Exit code 0 only if every check held.
    """
    if (documents is None) != (needs is None):
        raise typer.BadParameter("they go together", param_hint="--documents, --needs")
    run(_demo(documents, needs, agents, events, threshold, keep, as_json))


async def _demo(
    documents: Path | None,
    needs: Path | None,
    agents: int,
    events: int,
    threshold: float | None,
    keep: bool,
    as_json: bool,
) -> ExitCode:
    from contex import AsyncClient, ContexError

    from contex_server.cli.demo.rendering import View
    from contex_server.cli.demo.server import ServerFailed, ServerProcess
    from contex_server.cli.demo.story import PUBLISHER, TIMEOUT_S, Story, StoryFailed

    view = View(error_console() if as_json else console())
    if documents is not None and needs is not None:
        corpus = corpora.of_files(documents, needs, agents)
    else:
        corpus = corpora.of_this_machine()
    directory = Path(tempfile.mkdtemp(prefix="contex-demo-"))
    server = ServerProcess(directory)
    held = interrupted = False
    try:
        async with AsyncClient(server.target, publisher=PUBLISHER, timeout=TIMEOUT_S) as client:
            story = Story(corpus, server, view, events=events, threshold=threshold)
            figures = await story.run(client)
        held = figures.hold
        view.summary(figures)
        if as_json:
            print_json(figures.record())
        if not held:
            complain("not everything held")
    except asyncio.CancelledError:
        interrupted = True
        raise
    except ContexError as error:
        complain_about(error)
    except (ServerFailed, StoryFailed, TimeoutError, InputError) as error:
        complain(str(error) or "a step took too long")
    finally:
        server.destroy()
        if keep or not (held or interrupted):
            error_console().print(f"data and log are kept in {directory}", markup=False)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return ExitCode.OK if held else ExitCode.UNEXPECTED
