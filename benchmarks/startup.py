"""What starting costs, each in a fresh process: the import, the command line, a file's header."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from inference.measuring import Bar, Competitor, Imports, Repeat, Sample, first_line

__all__ = ["PACKAGES", "Choosing", "FindingBackends", "ForeignModules", "HeaderRead", "Help", "Import", "Package"]


@dataclass(frozen=True, slots=True)
class Package:
    """A package, as far as it can be imported."""

    name: str
    ours: bool
    module: str
    packages: tuple[str, ...]

    def reason_unavailable(self) -> str | None:
        from importlib.util import find_spec

        return None if find_spec(self.module) else f"{self.module} is not installed."


PACKAGES = (
    Package("inference", True, "inference", ("native-inference",)),
    Package("llama_cpp", False, "llama_cpp", ("llama-cpp-python",)),
)
"""Ours, and the one that people import today."""


@dataclass(frozen=True, slots=True)
class _InFreshProcess:
    """What the cases share: each repeat is a program that prints its own figure."""

    model: Path | None = None
    bars: Mapping[str, Bar] = field(default_factory=dict)
    unit: ClassVar[str] = "ms"
    isolated: ClassVar[bool] = False

    def facts(self) -> Mapping[str, Any]:
        return {}

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Imports) else "it is not imported"

    def script(self, competitor: Imports) -> str:
        """The program."""
        raise NotImplementedError

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Imports)
        command = [sys.executable, "-c", self.script(competitor)]
        yield lambda _: Sample(float(first_line(command)[0]))


@dataclass(frozen=True, slots=True)
class Import(_InFreshProcess):
    """Milliseconds that the import takes, the interpreter's own start not counted."""

    name: ClassVar[str] = "import"

    def script(self, competitor: Imports) -> str:
        return (
            "import time; began = time.perf_counter()\n"
            f"import {competitor.module}\n"
            "print((time.perf_counter() - began) * 1000)"
        )


@dataclass(frozen=True, slots=True)
class ForeignModules(_InFreshProcess):
    """Modules that the import brings in from outside the standard library and the package itself."""

    name: ClassVar[str] = "import, foreign modules"
    unit: ClassVar[str] = "modules"

    def script(self, competitor: Imports) -> str:
        own = competitor.module.partition(".")[0]
        return (
            "import sys; before = set(sys.modules)\n"
            f"import {competitor.module}\n"
            "tops = [name.partition('.')[0] for name in set(sys.modules) - before]\n"
            f"print(sum(top != {own!r} and top not in sys.stdlib_module_names for top in tops))"
        )


@dataclass(frozen=True, slots=True)
class HeaderRead(_InFreshProcess):
    """Milliseconds that reading a file's header takes, with what the library shows of it."""

    name: ClassVar[str] = "header"

    def script(self, competitor: Imports) -> str:
        return (
            "import time\n"
            f"from {competitor.module}.gguf.reader import read_header\n"
            "began = time.perf_counter()\n"
            f"header = read_header({str(self.model)!r})\n"
            "header.architecture, header.quantization, header.parameters, header.train_context_length\n"
            "print((time.perf_counter() - began) * 1000)"
        )

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if competitor.ours else "it does not read headers alone"


@dataclass(frozen=True, slots=True)
class Checks(_InFreshProcess):
    """Milliseconds that a file costs before llama.cpp sees it, where llama.cpp has taken it before: the header read and
    checked, and its digest looked up."""

    name: ClassVar[str] = "checks of a known file"

    def script(self, competitor: Imports) -> str:
        return (
            "import time\n"
            f"from {competitor.module}.loading import read_model\n"
            f"from {competitor.module}.options import LoadOptions\n"
            "from inference_llama_cpp.vetting import vet\n"
            f"vet(read_model({str(self.model)!r}), LoadOptions())\n"
            "began = time.perf_counter()\n"
            f"vet(read_model({str(self.model)!r}), LoadOptions())\n"
            "print((time.perf_counter() - began) * 1000)"
        )

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if competitor.ours else "it checks no files"


@dataclass(frozen=True, slots=True)
class Choosing(_InFreshProcess):
    """Milliseconds until it is known which engine comes first: on this machine, or for a model, with its header read.
    Modules that this needs are imported in that time, but those of the backends, whose finding is `FindingBackends`."""

    @property
    def name(self) -> str:
        return "choosing" if self.model is None else "choosing for a file"

    def script(self, competitor: Imports) -> str:
        package = competitor.module
        steps = [f"from {package} import default_backend", "default_backend()"]
        if self.model is not None:
            steps = [
                f"from {package}.choosing import choose",
                f"from {package}.loading import read_model",
                f"from {package}.options import LoadOptions",
                "from pathlib import Path",
                f"choose(read_model(Path({str(self.model)!r})), LoadOptions())",
            ]
        return "\n".join(
            [
                "import time",
                f"from {package} import list_backends",
                "list_backends()",
                "began = time.perf_counter()",
                *steps,
                "print((time.perf_counter() - began) * 1000)",
            ]
        )

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if competitor.ours else "it has one engine"


@dataclass(frozen=True, slots=True)
class FindingBackends(_InFreshProcess):
    """Milliseconds to find the installed backends and to import what tells of them, once in a process."""

    name: ClassVar[str] = "finding backends"

    def script(self, competitor: Imports) -> str:
        return (
            f"import time, {competitor.module}; began = time.perf_counter()\n"
            f"{competitor.module}.list_backends()\n"
            "print((time.perf_counter() - began) * 1000)"
        )

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if competitor.ours else "it has one engine"


@dataclass(frozen=True, slots=True)
class Help(_InFreshProcess):
    """Milliseconds from starting Python to the first line of `inference --help`."""

    name: ClassVar[str] = "inference --help"

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if competitor.ours else "it is our own command"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Imports)
        command = [sys.executable, "-m", competitor.module, "--help"]
        yield lambda _: Sample(first_line(command)[1] * 1000)
