"""`python -m taquba`, and the console script: the command line, if its extra is installed."""

from __future__ import annotations

import sys

_EXTRA_PACKAGES = ("typer", "rich")


def main() -> None:
    """Run the command line; without its extra, say how to get it."""
    try:
        from taquba._cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA_PACKAGES:
            raise
        print(
            f"taquba: the command line needs {error.name}, which is not installed: "
            "pip install 'taquba[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(run())


if __name__ == "__main__":
    main()
