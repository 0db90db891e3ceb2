"""The table of commands: where each is, and what it does in one line.

Help is printed from here, so that no command's module is imported for it. A command's own page
begins with its line, and goes on with the docstring of its function.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from contex_cli.exits import ExitCode

if TYPE_CHECKING:
    from contex_cli.command import Command

COMMANDS = {
    "serve": ("server", "Start a server and run it until Ctrl-C."),
    "health": ("server", "Check that a server is serving: exit code 0, or 6 if not."),
    "info": ("server", "Show a server's version, limits and features."),
    "publish": ("publish", "Publish a fact, or with --stream a file of facts."),
    "events": ("events", "List events of a project's log."),
    "replay": ("events", "Stream every event of a range, as fast as it can be read or at a pace."),
    "tail": ("events", "Show the newest events, and with -f new ones as they arrive."),
    "state": ("state", "Show a project's data as they were at a moment."),
    "get": ("state", "Show one datum as it is now."),
    "diff": ("state", "Show what changed between two moments."),
    "history": ("state", "Show the revisions of a datum."),
    "blame": ("state", "Show who set each field of a datum, or each line, and when."),
    "register": ("agents", "Register an agent and show what matches its needs now."),
    "listen": ("agents", "Print what matches an agent's needs, as it arrives."),
    "agents": ("agents", "List, show and change the registered agents."),
    "agents show": ("agents", "Show one registration, and how far the agent is."),
    "agents update": ("agents", "Change a registration; options not given are left unchanged."),
    "agents unregister": ("agents", "Remove a registration and its cursor."),
    "agents wait": ("agents", "Wait until an agent has passed an event."),
    "agents lag": ("consumers", "Show how far consumers are, who has what, and what blocks."),
    "agents seek": ("consumers", "Move the place from which an agent's consumers go on."),
    "agents assign": ("agents", "Give agents to an identity, whose rights they then have."),
    "agents ack": ("agents", "Move an agent's durable cursor forward, never back."),
    "consume": ("consumers", "Work through an agent's deliveries, shared among its consumers."),
    "parked list": ("consumers", "List an agent's deliveries that were put aside."),
    "parked redrive": ("consumers", "Send parked deliveries on their way again."),
    "parked drop": ("consumers", "Give parked deliveries up."),
    "knew": ("knowledge", "Show what an agent knew at a moment, and what it did not."),
    "deliveries": ("knowledge", "Show who was sent an event, or what an agent was sent."),
    "match": ("match", "Find the data that answer questions, without an agent."),
    "explain": ("match", "Break down the score of a need and a datum."),
    "backtest": ("match", "Show what needs would have received, had they been registered."),
    "feedback give": ("match", "Note in the log whether a match was useful."),
    "feedback export": ("match", "Write all judgements as JSON lines, a training set."),
    "matching": ("match", "Show how a project is matched: model, index, formula."),
    "embedder list": ("embedder", "List the embedding models that can be fetched."),
    "embedder fetch": ("embedder", "Fetch an embedding model for contex serve --embedder-path."),
    "projects": ("project_list", "List the projects."),
    "projects show": ("project_list", "Show whether a project exists, and how it is kept."),
    "projects delete": ("project_list", "Remove a project for good; only its audit stays."),
    "projects encryption": (
        "project_list",
        "Show whether a project is encrypted at rest, or turn that on or off.",
    ),
    "stats": ("projects", "Show a project's size, positions and rate."),
    "activity": ("activity", "Show how many events there were, over time."),
    "audit": ("audit", "Show who did what, when and from where."),
    "export": ("transfer", "Write a project's log up to now into a file."),
    "import": ("transfer", "Read a file into a project, all of it or nothing."),
    "clone": ("transfer", "Copy a project, or a part of it, into another."),
    "retention show": ("projects", "Show how long a project is kept."),
    "retention set": (
        "projects",
        "Decide how long a project is kept; options not given are left unchanged.",
    ),
    "remove": ("projects", "Remove old events for good, in whole segments of the archive."),
    "erase": (
        "projects",
        "Make payloads unreadable everywhere; sequences, times and digests stay.",
    ),
    "verify": ("projects", "Read a project end to end and report every difference."),
    "login": ("keys", "Verify an API key, and keep it for the server."),
    "logout": ("keys", "Forget the API key that is kept for the server."),
    "whoami": ("access", "Show who you are to the server, and what you may do."),
    "can": ("access", "Say whether somebody may do something, and which grants say so."),
    "access list": ("access", "List identities and groups, with their grants."),
    "access grant": ("access", "Give an identity or a group a role for projects and data keys."),
    "access revoke": ("access", "Take a role away from an identity or a group."),
    "access delete": ("access", "Take everything away from an identity or a group."),
    "keys create": ("keys", "Create an API key, and print it, this once."),
    "keys list": ("keys", "List API keys, without their secrets."),
    "keys rotate": ("keys", "Create another key in the place of one, and print it, this once."),
    "keys revoke": ("keys", "End the validity of a key, and the streams that it opened."),
    "roles": ("access", "List, set and delete roles."),
    "roles set": ("access", "Create or change a role."),
    "roles delete": ("access", "Delete a role that no grant names."),
    "tenants": ("tenants", "List, set and delete tenants."),
    "tenants set": (
        "tenants",
        "Create or change a tenant; options not given are left unchanged.",
    ),
    "tenants delete": ("tenants", "Delete a tenant that has no keys and no grants."),
    "usage": ("tenants", "Show what a tenant or a project uses, beside its limits."),
    "demo": ("contex_demo.command", "Tell the whole story on real input, and check every claim."),
}
"""By name: the module, of this package unless it is `contex_demo`'s, and the help."""

GROUPS = {
    "access": "Who may do what.",
    "embedder": "Models for matching, besides the built-in one.",
    "feedback": "Judge matches, and export the judgements.",
    "keys": "API keys, which prove who calls.",
    "parked": "Deliveries that were put aside.",
    "retention": "How long a project is kept, and where.",
}
"""Groups of commands that are no command themselves."""


def load(name: str) -> Command:
    from contex_cli.command import Command

    module = COMMANDS[name][0]
    try:
        loaded = import_module(module if "." in module else f"contex_cli.{module}")
    except ModuleNotFoundError as error:
        if error.name != "contex_demo":
            raise
        loaded = import_module("contex_cli.server")  # which says how to install the demo
    values = vars(loaded).values()
    return next(value for value in values if isinstance(value, Command) and value.name == name)


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


def help_page(group: str) -> str:
    """What `contex --help` prints; or `contex GROUP --help`, of one in `GROUPS`."""
    if group:
        return (
            f"Usage: contex {group} [OPTIONS] COMMAND [ARGS]...\n\n  {GROUPS[group]}\n\n"
            f"Options:\n  -h, --help  Show this message and exit.\n\n{command_list(group)}"
        )
    exits = "".join(f"    {code.value:<4}{code.meaning}\n" for code in ExitCode)
    return f"{_HELP}{command_list()}\n  Exit codes:\n{exits}"


def subcommands(group: str = "") -> dict[str, str]:
    """The commands of a group with their help; none if it is not a group; "" for all at the top."""
    if not group:
        return {name: help for name, (_, help) in COMMANDS.items() if " " not in name} | GROUPS
    by_words = {name.partition(" ")[::2]: help for name, (_, help) in COMMANDS.items()}
    return {second: help for (first, second), help in by_words.items() if first == group and second}


def command_list(group: str = "") -> str:
    """The part of a page that lists the commands of a group; empty if it is not a group."""
    if not (helps := subcommands(group)):
        return ""
    width = max(map(len, helps))
    lines = (f"  {name:<{width}}  {help}\n" for name, help in helps.items())
    return "Commands:\n" + "".join(lines)
