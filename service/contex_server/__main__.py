"""`python -m contex_server serve`: the command `contex`, run by this interpreter."""

import sys

from contex_cli import main

sys.exit(main())
