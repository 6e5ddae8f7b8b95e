"""The built-in drawn benchmark, drawn again or from another seed."""

from __future__ import annotations

from radar_callback.benchmark.sources.base import SourceResult
from radar_callback.errors import BenchmarkError

NAME = "radar-mini"


def read_mini(source: str = NAME, *, name: str | None = None) -> SourceResult:
    """Draws `radar-mini`.

    Args:
        source: `radar-mini` for the benchmark that comes with the package, or a number to draw from that seed instead.
        name: Name of the benchmark.

    Raises:
        BenchmarkError: If `source` is neither.
    """
    if source != NAME and not (source.isascii() and source.isdigit()):
        raise BenchmarkError(f"Expected {NAME} or a seed (a number from 0) to draw from, but got {source!r}.")
    # The generator draws with numpy and Pillow; other sources do without.
    from radar_callback.benchmark.mini import TREE, generate

    seed = 0 if source == NAME else int(source)
    groups = {ability: group for group, abilities in TREE.items() for ability in abilities}
    return SourceResult(
        samples=generate(seed=seed),
        groups=groups,
        name=name or (NAME if seed == 0 else f"{NAME}-{seed}"),
        licence="Apache-2.0",
        source=f"drawn by radar-callback, seed {seed}",
    )
