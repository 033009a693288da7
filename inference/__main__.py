"""The command `inference`, also as `python -m inference`."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; never returns."""
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"Error: the command line needs {' and '.join(missing)}. Try: pip install 'native-inference[cli]'")
    from inference.cli.program import program

    # On Windows click would expand wildcards and variables, in prompts too.
    program(prog_name="inference", windows_expand_args=False)


if __name__ == "__main__":
    main()
