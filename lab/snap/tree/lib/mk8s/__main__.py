"""Entry point of what is written in Python in the snap: run as `python3 -I -S $SNAP/lib/mk8s ...`."""

from __future__ import annotations

import sys
from pathlib import Path

# The interpreter is isolated, so the package's own directory has to be named.
sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
sys.dont_write_bytecode = True

from mk8s import cli  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(cli.main(sys.argv[1:]))
