"""The commands. Where nobody watches, a progress bar writes a line every ten seconds, not ten a second."""

import os
import sys

if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_MININTERVAL", "10")  # which tqdm reads when it is imported
