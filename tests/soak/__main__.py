"""`python -m soak`: an hour's worth of traffic in some minutes, and models loaded a hundred times on each backend.

PYTHONPATH=tests:tests/backends TRITON_INTERPRET=1 python -m soak --seconds 600 --loads 100
"""

from __future__ import annotations

import logging
import sys

import click

from soak.loads import BACKENDS, growth
from soak.traffic import run


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=600, show_default=True, help="Of traffic.")
@click.option("--loads", type=click.IntRange(min=5), default=100, show_default=True, help="On each backend.")
@click.option("--threads", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(seconds: float, loads: int, threads: int, seed: int) -> None:
    """Look for leaks, mixed-up texts and callers that nobody serves."""
    logging.getLogger("inference").setLevel(logging.CRITICAL)  # faults that are injected are logged
    problems = []
    for lookahead in (0, 1):
        report = run(seconds / 2, threads=threads, seed=seed, lookahead=lookahead)
        assert report.before is not None
        assert report.after is not None
        requests = ", ".join(f"{count:,} {kind}" for kind, count in report.done.most_common())
        click.echo(
            f"lookahead {lookahead}: {sum(report.done.values()):,} requests in {report.seconds:.0f} s from {threads} "
            f"threads, {report.faults} steps failed on purpose\n  {requests}\n"
            f"  resident set {report.before.memory / 2**20:.1f} -> {report.after.memory / 2**20:.1f} MiB, "
            f"threads {report.before.threads} -> {report.after.threads}, "
            f"file descriptors {report.before.descriptors} -> {report.after.descriptors}, "
            f"wrong answers {len(report.wrong)}"
        )
        problems += report.wrong + report.leaks
    for backend in BACKENDS:
        first, last, grown = growth(backend, loads)
        click.echo(
            f"{backend}: loaded {loads} times; "
            f"resident set {first.memory / 2**20:.1f} -> {last.memory / 2**20:.1f} MiB, "
            f"threads {first.threads} -> {last.threads}, file descriptors {first.descriptors} -> {last.descriptors}"
        )
        problems += [f"{backend}: {what}" for what in grown]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
