"""`contex demo`."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from contex import AsyncClient, ContexError
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode, InputError, complain, complain_about
from contex_cli.output import console, error_console, print_json, remark
from contex_cli.parameters import UsageError, option

from contex_demo import corpus as corpora
from contex_demo.rendering import View
from contex_demo.server import ServerFailed, ServerProcess
from contex_demo.story import PUBLISHER, SETTLE_S, TIMEOUT_S, Story, StoryFailed

_NEEDS_HELP = (
    "JSON lines with need and optionally data_keys, the right answers; "
    f"{corpora.NEEDS_PER_AGENT} needs make an agent."
)


_OF_CLIENTS = ("project", "target", "tls", "tls_ca", "tls_cert", "tls_key", "timeout")


@command("demo", without=_OF_CLIENTS)
async def demo(
    session: Session,
    documents: str | None = option(
        None, "JSON lines with data_key, description and data.", metavar="FILE"
    ),
    needs: str | None = option(None, _NEEDS_HELP, metavar="FILE"),
    agents: int = option(100, "At most this many agents for --needs.", minimum=1, maximum=500),
    events: int = option(
        3_000, "Events of the stream that is cut by kill -9.", minimum=500, maximum=100_000
    ),
    threshold: float | None = option(None, "The agents' threshold. [default: the server's]"),
    keep: bool = option(False, "Keep the data and the server's log."),
) -> ExitCode:
    """Publishes the documentation of this machine's Python, or anyone's data, to a server of its
    own; registers agents, delivers updates, kills the server with kill -9 in the middle of a
    stream and starts it again. Compares what every agent received and what is in the log with
    what must be, also for an agent that is away until the end, and removes everything afterwards.
    Exit code 0 only if every check held.
    """
    if (documents is None) != (needs is None):
        raise UsageError("they go together", "--documents, --needs")
    view = View(error_console() if session.json else console())
    if documents is not None and needs is not None:
        corpus = corpora.of_files(Path(documents), Path(needs), agents)
    else:
        corpus = corpora.of_this_machine()
    directory = Path(tempfile.mkdtemp(prefix="contex-demo-"))
    server = ServerProcess(directory)
    held = interrupted = False
    try:
        async with AsyncClient(
            server.target, token=server.admin_key, publisher=PUBLISHER, timeout=TIMEOUT_S
        ) as client:
            story = Story(client, corpus, server, view, events=events, threshold=threshold)
            figures = await story.run()
        held = figures.hold
        view.summary(figures)
        if session.json:
            print_json(figures.record())
        if not held:
            complain("not everything held")
    except asyncio.CancelledError:
        interrupted = True
        raise
    except ContexError as error:
        complain_about(error)
        complain(f"that was in step {view.step_name}")
    except TimeoutError:
        complain(
            f"step {view.step_name}: nothing more happened for {SETTLE_S:.0f} s; is the machine "
            f"busy? --events {max(500, events // 4)} makes it easier"
        )
    except (ServerFailed, StoryFailed, InputError) as error:
        complain(str(error))
    finally:
        server.destroy()
        if keep or not (held or interrupted):
            remark(f"data and log are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return ExitCode.OK if held else ExitCode.UNEXPECTED
