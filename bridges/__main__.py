"""``python -m bridges main:app``, and the console script ``bridges``."""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> int:
    """Run the command line, or say which extra of the package is missing.

    Returns:
        The exit status.
    """
    try:
        cli = import_module("bridges.cli")
    except ImportError as error:
        if error.name not in ("httptools", "wsproto"):
            raise
        sys.stderr.write(f"bridges: {error}\n")
        return 1
    status: int = cli.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
