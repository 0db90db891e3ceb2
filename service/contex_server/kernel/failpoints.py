"""Places where tests let a process be killed: `CONTEX_FAILPOINT=<place>=<pid>`; 0 is itself.

In service the variable is not set, and a place costs a comparison.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

_PLACE, _, _PID = os.environ.get("CONTEX_FAILPOINT", "").partition("=")


def reached(place: str) -> None:
    """Kills the process that the tests chose, if this is the place that they chose."""
    if place == _PLACE:
        with suppress(ProcessLookupError):  # it was killed here before
            os.kill(int(_PID) or os.getpid(), signal.SIGKILL)
