"""Build llama-bench and llama-batched-bench from the sources of the installed library, with the same options. Run by
`make peers`, with the environment's own Python. It takes three to ten minutes, once for each version of the library.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llama_cpp_sources import unpack

from benchmarks.peers.llama_bench import LlamaBatchedBench, LlamaBench, built

OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",  # the programs then run without the folder that they were built in
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
)
PROGRAMS = (LlamaBench.name, LlamaBatchedBench.name)


def main() -> None:
    wanted = [path for path in map(built, PROGRAMS) if not path.exists()]
    if not wanted:
        return
    folder = wanted[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    sys.stderr.write(f"Compiling {' and '.join(PROGRAMS)}: some minutes; log: {log}\n")
    with tempfile.TemporaryDirectory(dir=folder) as name, log.open("wb") as file:
        sources, build = Path(name, "sources"), Path(name, "build")
        unpack(sources)
        extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        cmake = [sys.executable, "-m", "cmake"]
        configure = [*cmake, "-S", sources, "-B", build, *OPTIONS, *extra]
        jobs = str(os.cpu_count() or 1)
        compile_ = [*cmake, "--build", build, "--config", "Release", "--parallel", jobs, "--target", *PROGRAMS]
        for command in (configure, compile_):
            if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
                sys.exit("\n".join(log.read_text(errors="replace").splitlines()[-40:]))
        for path in wanted:
            shutil.copy2(next(found for found in build.rglob(path.name) if found.is_file()), path)


if __name__ == "__main__":
    main()
