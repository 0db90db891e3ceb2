import sys

from contex_cli import main

sys.exit(main())
