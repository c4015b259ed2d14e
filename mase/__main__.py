"""Run the command line by ``python -m mase``."""

from __future__ import annotations

from mase.cli import main

if __name__ == "__main__":
    main()
