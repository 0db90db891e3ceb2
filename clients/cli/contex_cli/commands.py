"""The table of commands: where each is, and what it does in one line.

Help is printed from here, so that no command's module is imported for it. The lines are the
first ones of the commands' docstrings; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from contex_cli.exits import ExitCode

if TYPE_CHECKING:
    from contex_cli.command import Command

COMMANDS = {
    "serve": ("server:serve", "Start a server and run it until Ctrl-C."),
    "health": ("server:health", "Check that a server is serving: exit code 0, or 6 if not."),
    "publish": ("publish:publish", "Publish a fact, or with --stream a file of facts."),
    "events": ("events:events", "List events of a project's log."),
    "replay": ("events:replay", "Stream every event of a range, as fast as it can be read."),
    "tail": ("events:tail", "Show the newest events, and with -f new ones as they arrive."),
    "state": ("state:state", "Show a project's data as they were at a moment."),
    "diff": ("state:diff", "Show what changed between two moments."),
    "history": ("state:history", "Show the revisions of a datum."),
    "blame": ("state:blame", "Show who set each field of a datum, or each line, and when."),
    "register": ("agents:register", "Register an agent and show what matches its needs now."),
    "listen": ("agents:listen", "Print what matches an agent's needs, as it arrives."),
    "agents": ("agents:agents", "List, show and change the registered agents."),
    "agents show": ("agents:show", "Show one registration."),
    "agents update": (
        "agents:update",
        "Change a registration; options not given are left unchanged.",
    ),
    "agents unregister": ("agents:unregister", "Remove a registration and its cursor."),
    "agents ack": ("agents:ack", "Move an agent's durable cursor forward, never back."),
    "knew": ("knowledge:knew", "Show what an agent knew at a moment, and what it did not."),
    "deliveries": (
        "knowledge:deliveries",
        "Show who was sent an event, or what an agent was sent.",
    ),
    "match": ("match:match", "Find the data that answer questions, without an agent."),
    "explain": ("match:explain", "Break down the score of a need and a datum."),
    "backtest": (
        "match:backtest",
        "Show what needs would have received, had they been registered.",
    ),
    "feedback give": ("match:give", "Note in the log whether a match was useful."),
    "feedback export": ("match:export", "Write all judgements as JSON lines, a training set."),
    "matching": ("match:matching", "Show how a project is matched: model, index, formula."),
    "stats": ("projects:stats", "Show a project's size, positions and rate."),
    "activity": ("activity:activity", "Show how many events there were, over time."),
    "audit": ("audit:audit", "Show who did what, when and from where."),
    "export": ("transfer:export", "Write a project's log up to now into a file."),
    "import": ("transfer:import_", "Read a file into a project, all of it or nothing."),
    "clone": ("transfer:clone", "Copy a project, or a part of it, into another."),
    "retention show": ("projects:show", "Show how long a project is kept."),
    "retention set": (
        "projects:set_",
        "Decide how long a project is kept; options not given are left unchanged.",
    ),
    "remove": ("projects:remove", "Remove old events for good, in whole segments of the archive."),
    "erase": (
        "projects:erase",
        "Make payloads unreadable everywhere; sequences, times and digests stay.",
    ),
    "verify": ("projects:verify", "Read a project end to end and report every difference."),
    "demo": (
        "contex_demo.command:demo",
        "Tell the whole story on real input, and check every claim.",
    ),
}
"""By name: the module, of this package unless it is `contex_demo`, with the function; the help."""

GROUPS = {
    "feedback": "Judge matches, and export the judgements.",
    "retention": "How long a project is kept, and where.",
}
"""Groups of commands that are no command themselves."""


def load(name: str) -> Command:
    module, _, function = COMMANDS[name][0].partition(":")
    if module.startswith("contex_demo."):
        try:
            command: Command = import_module(module).demo
        except ModuleNotFoundError as error:
            if error.name != "contex_demo":
                raise
            from contex_cli.server import no_demo as command
        return command
    loaded: Command = getattr(import_module(f"contex_cli.{module}"), function)
    return loaded


_HELP = """\
Usage: contex [OPTIONS] COMMAND [ARGS]...

  Contex: an event-sourced context bus for AI agents.

  Publishers write facts into a project's log; agents say in plain words what they need and receive
  each fact that fits. `contex serve` starts a server, `contex demo` shows it all.

Options:
  --version             Print the version.
  --install-completion  Install completion for the current shell.
  --show-completion     Print what --install-completion would install.
  -h, --help            Show this message and exit.

"""


def overview() -> str:
    """What `contex --help` prints."""
    top = {name: help for name, (_, help) in COMMANDS.items() if " " not in name} | GROUPS
    exits = "".join(f"    {code.value:<4}{code.meaning}\n" for code in ExitCode)
    return f"{_HELP}{listed(top)}\n  Exit codes:\n{exits}"


def group_page(group: str) -> str:
    """What `contex GROUP --help` prints, of a group that is not a command itself."""
    return (
        f"Usage: contex {group} [OPTIONS] COMMAND [ARGS]...\n\n  {GROUPS[group]}\n\n"
        "Options:\n  -h, --help  Show this message and exit.\n\n" + listed(subcommands(group))
    )


def subcommands(group: str) -> dict[str, str]:
    """The commands of a group with their help; none if it is not a group."""
    by_words = {name.partition(" ")[::2]: help for name, (_, help) in COMMANDS.items()}
    return {second: help for (first, second), help in by_words.items() if first == group and second}


def listed(helps: Mapping[str, str]) -> str:
    """The part of a page that lists commands; empty for none."""
    if not helps:
        return ""
    width = max(map(len, helps))
    lines = (f"  {name:<{width}}  {help}\n" for name, help in helps.items())
    return "Commands:\n" + "".join(lines)
