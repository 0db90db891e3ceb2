"""The command line as a whole: which commands there are."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from contex_server.cli import (
    activity,
    agents,
    audit,
    backtest,
    blame,
    deliveries,
    diff,
    explain,
    export,
    feedback,
    health,
    history,
    imports,
    keeping,
    knew,
    listen,
    match,
    matching,
    publish,
    read,
    serve,
    state,
    stats,
)
from contex_server.cli.demo.command import demo
from contex_server.cli.exits import epilog

application = typer.Typer(
    name="contex",
    epilog=epilog(),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"contex {version('contex-server')}")
        raise typer.Exit


@application.callback(no_args_is_help=True)
def contex(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Contex: an event-sourced context bus for AI agents.

    Publishers write facts into a project's log; agents say in plain words what they need and
    receive each fact that fits. `contex serve` starts a server, `contex demo` shows it all.
    """


application.command()(serve.serve)
application.command()(health.health)
application.command()(publish.publish)
application.command()(read.events)
application.command()(read.replay)
application.command()(read.tail)
application.command()(state.state)
application.command()(diff.diff)
application.command()(history.history)
application.command()(blame.blame)
application.command()(agents.register)
application.command()(listen.listen)
application.add_typer(agents.registry, name="agents")
application.command()(knew.knew)
application.command()(deliveries.deliveries)
application.command()(match.match)
application.command()(explain.explain)
application.command()(backtest.backtest)
application.add_typer(feedback.feedback, name="feedback")
application.command()(matching.matching)
application.command()(stats.stats)
application.command()(activity.activity)
application.command()(audit.audit)
application.command()(export.export)
application.command("import")(imports.import_)
application.command()(imports.clone)
application.add_typer(keeping.retention, name="retention")
application.command()(keeping.remove)
application.command()(keeping.erase)
application.command()(keeping.verify)
application.command()(demo)
