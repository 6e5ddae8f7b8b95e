"""Where to put names at the ends of lines so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence


def declutter(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves positions apart until neighbours are `gap` away from each other, as little as possible (least squares).

    Order is kept. Positions stay within `[low, high]` as long as they all fit in there; if they do not, they are spread
    evenly over it, closer than `gap`.

    Args:
        wanted: Where each label would like to be.
        gap: Smallest distance between two labels.
        low: Lower bound.
        high: Upper bound.

    Returns:
        A position for each, in the order of `wanted`.

    Example:
        >>> [round(y, 2) for y in declutter([0.5, 0.5, 0.9], gap=0.1, low=0, high=1)]
        [0.45, 0.55, 0.9]
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # With the gaps taken out, "at least `gap` apart" becomes "not decreasing": an isotonic regression, which is solved by
    # pooling neighbours that are in the wrong order until none is.
    pools: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        mean, size = wanted[i] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            other, other_size = pools.pop()
            mean = (mean * size + other * other_size) / (size + other_size)
            size += other_size
        pools.append((mean, size))
    top = high - (len(order) - 1) * gap
    flat = [min(max(mean, low), top) for mean, size in pools for _ in range(size)]
    placed = [0.0] * len(order)
    for rank, i in enumerate(order):
        placed[i] = flat[rank] + rank * gap
    return placed
