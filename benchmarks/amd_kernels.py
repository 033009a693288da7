"""Compiles every kernel of the backend `rocm` for AMD GPUs, none of which has to be here, and prints what each takes.

python -m benchmarks.amd_kernels --targets gfx942,gfx1100 --kernels attend
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache

import click
from inference_rocm.gpu.compiling import MODULES, Compiled, compiled, specimens_of
from inference_rocm.gpu.specimen import Specimen
from inference_rocm.gpu.targets import COMPILED, target

from inference.hardware import physical_cores

__all__ = ["Job", "Outcome", "compile_all", "fault", "main", "table"]

HEADINGS = (
    "kernel", "variant", "target", "VGPRs", "SGPRs", "spills", "LDS bytes", "waves per SIMD", "instructions", "vector",
    "matrix", "memory", "LDS",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """A variant of a kernel and a target. Only the number of the variant travels between processes: kernels cannot."""

    module: str
    number: int
    target: str
    kernel: str
    name: str
    matrix: bool = False
    """Whether matrix cores have to multiply."""


@dataclass(frozen=True, slots=True)
class Outcome:
    job: Job
    compiled: Compiled | None
    error: str | None = None


@click.command()
@click.option("--targets", default=",".join(COMPILED), show_default=True, help="LLVM's names of GPUs.")
@click.option("--kernels", default="", help="Only kernels whose names have one of these words, with commas between.")
@click.option("--processes", type=click.IntRange(1), default=None, help="[default: one for each physical core]")
def main(targets: str, kernels: str, processes: int | None) -> None:
    """Compile the kernels ahead of time and print a Markdown table of what they take.

    The exit code is 1 if one does not compile, spills registers, or leaves the matrix cores idle that should multiply.
    """
    try:
        names = [target(name.strip()).name for name in targets.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    words = [word.strip() for word in kernels.split(",") if word.strip()]
    outcomes = list(
        compile_all(
            names,
            processes or physical_cores(),
            wanted=lambda job: not words or any(word in job.kernel for word in words),
        )
    )
    if not outcomes:
        raise click.BadParameter(f"no kernel's name has {kernels!r} in it.")
    click.echo(table(outcomes))
    faults = [reason for outcome in outcomes if (reason := fault(outcome))]
    for reason in faults:
        click.echo(reason, err=True)
    click.echo(f"{len(outcomes)} kernels compiled, {len(faults)} of them at fault.", err=True)
    sys.exit(1 if faults else 0)


def compile_all(
    targets: Sequence[str],
    processes: int,
    modules: Sequence[str] = MODULES,
    wanted: Callable[[Job], bool] = lambda _: True,
) -> Iterator[Outcome]:
    """Every variant that is wanted, in order; first the modules that cannot be imported or have none, with an error."""
    places = [(module, name) for module in modules for name in targets]
    # Processes inherit the environment, and kernels are compiled only where Triton does not interpret them.
    interpreting = os.environ.pop("TRITON_INTERPRET", None)
    pool = _pool(processes)
    try:
        found = [entry for entries in pool.map(_jobs, *zip(*places, strict=True)) for entry in entries]
        yield from (entry for entry in found if isinstance(entry, Outcome))
        left = [job for job in found if isinstance(job, Job) and wanted(job)]
        while left:
            try:
                for future in [pool.submit(_compile, job) for job in left]:
                    yield future.result()
                    del left[0]
            except BrokenProcessPool:
                # LLVM ends its process where it cannot go on. What was under way is begun again, its first alone,
                # since that may have been the one.
                pool.shutdown()
                yield _compile_alone(left.pop(0))
                pool = _pool(processes)
    finally:
        pool.shutdown(cancel_futures=True)
        if interpreting is not None:
            os.environ["TRITON_INTERPRET"] = interpreting


def _compile_alone(job: Job) -> Outcome:
    with _pool(1) as pool:
        try:
            return pool.submit(_compile, job).result()
        except BrokenProcessPool:
            return Outcome(job, None, "the compiler ended its process.")


def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))


def fault(outcome: Outcome) -> str | None:
    """What is wrong with a compiled kernel, None if nothing is."""
    job, made = outcome.job, outcome.compiled
    if made is None:
        return f"{job.module}, {job.name}, {job.target}: {outcome.error}"
    if made.spills or made.scratch:
        return (
            f"{job.name}, {job.target}: {made.spills} registers spill, {made.scratch} bytes of scratch for each lane."
        )
    if not made.occupancy:
        return f"{job.name}, {job.target}: {made.lds} bytes of LDS are more than a workgroup may have."
    if job.matrix and not made.instructions.matrix:
        return f"{job.name}, {job.target}: nothing is multiplied by the matrix cores."
    return None


def table(outcomes: Iterable[Outcome]) -> str:
    """In Markdown, a row for each."""
    rows = [HEADINGS, ("---", "---", "---", *["---:"] * (len(HEADINGS) - 3)), *map(_row, outcomes)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(outcome: Outcome) -> tuple[str, ...]:
    job, made = outcome.job, outcome.compiled
    variant = job.name.removeprefix(job.kernel).lstrip(" ,")
    if made is None:
        return job.kernel, variant, job.target, "does not compile", *[""] * (len(HEADINGS) - 4)
    counts = made.instructions
    numbers = made.vgprs, made.sgprs, made.spills, made.lds
    kinds = counts.all, counts.vector, counts.matrix, counts.memory, counts.lds
    return (
        job.kernel, variant, job.target, *map(str, numbers), f"{made.occupancy} of {made.most}", *map(str, kinds)
    )  # fmt: skip


# In the pool's processes ---------------------------------------------------------------------------------------------


def _jobs(module: str, name: str) -> list[Job | Outcome]:
    """The variants of a module."""
    try:
        found = _specimens(module, target(name).wave)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a module is said of it
        return [Outcome(Job(module, 0, name, module, module), None, _sentence(error))]
    if not found:
        return [Outcome(Job(module, 0, name, module, module), None, "it has no variants of kernels.")]
    return [Job(module, i, name, each.kernel.__name__, each.name, each.matrix) for i, each in enumerate(found)]


def _compile(job: Job) -> Outcome:
    try:
        return Outcome(job, compiled(_specimens(job.module, target(job.target).wave)[job.number], job.target))
    except Exception as error:  # noqa: BLE001 - Triton raises errors of many kinds
        return Outcome(job, None, _sentence(error))


@cache
def _specimens(module: str, wave: int) -> list[Specimen]:
    return specimens_of(module, wave)


def _sentence(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = str(cause) if cause is error else f"{error}\n{cause}"
    return f"{type(error).__name__}: {text}".strip()


if __name__ == "__main__":
    main()
