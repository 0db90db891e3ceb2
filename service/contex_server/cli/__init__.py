"""The command `contex`: a server to start, and a client for people and for pipes."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; the exit codes are those of `exits.ExitCode`."""
    from contex_server.cli.application import application
    from contex_server.cli.exits import ExitCode

    try:
        application()
    except KeyboardInterrupt:  # outside of a command: while modules are imported
        sys.exit(ExitCode.INTERRUPTED)
