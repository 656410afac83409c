"""`python -m betadiffusion` is the command `betadiffusion`, for launchers that take a module."""

import sys

from betadiffusion.cli.main import main

sys.exit(main())
