"""`python -m benchmarks.profiled FILE serve …`: the server with cProfile around its event loop."""

from __future__ import annotations

import cProfile
import sys


def main() -> None:
    """Runs `contex` with the remaining arguments; the statistics go to the file."""
    file, sys.argv = sys.argv[1], ["contex", *sys.argv[2:]]
    from contex_cli import main as contex

    profile = cProfile.Profile()
    try:
        code = profile.runcall(contex)
    finally:
        profile.dump_stats(file)
    sys.exit(code)


if __name__ == "__main__":
    main()
