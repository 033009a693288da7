"""Install llama-cpp-python, showing how far its build is. Run by `make setup`, with the environment's own Python.

pip builds it from source the first time (two to ten minutes) and keeps the wheel in its cache, so that no later
environment of the same user builds it again. Only what the backend loads is built; set CMAKE_ARGS to build for a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOG = ROOT / ".cache" / "llama-cpp-python.log"
MINIMAL = f"-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_INCLUDE={ROOT / 'backends/llama_cpp/minimal_build.cmake'}"
STEP = re.compile(rb"\[(\d+)/(\d+)\]")


def main() -> int:
    """Returns pip's exit status."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    requirement = next(line for line in extras["llama-cpp"] if line.startswith("llama-cpp-python"))
    environment = {**os.environ, "CMAKE_ARGS": f"{MINIMAL} {os.environ.get('CMAKE_ARGS', '')}"}
    command = [sys.executable, "-m", "pip", "install", "--verbose", requirement]
    LOG.parent.mkdir(exist_ok=True)
    say(f"Installing {requirement} (the first time it is compiled; log: {LOG.relative_to(ROOT)})")
    with LOG.open("wb") as log:
        pip = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert pip.stdout is not None
        shown = 0
        for line in pip.stdout:
            log.write(line)
            if match := STEP.search(line):
                percent = 100 * int(match[1]) // int(match[2])
                if percent >= shown + 10:
                    shown = percent - percent % 10
                    say(f"  compiling llama.cpp: {shown} %")
    if pip.wait() != 0:
        say("Its build failed. The end of the log:")
        sys.stderr.writelines(LOG.read_text(errors="replace").splitlines(keepends=True)[-40:])
    return pip.returncode


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
