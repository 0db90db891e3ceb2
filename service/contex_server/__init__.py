"""The server. What is here makes its libraries load faster: a start is mostly imports."""

import os
import sys

# Pydantic would read the metadata of every installed distribution for plugins.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

if "rich" not in sys.modules:
    # structlog imports rich where it is installed, as it is for the command line: a tenth of a
    # start. Nothing here uses it: tracebacks are plain.
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog as structlog

    del sys.modules["rich"]
