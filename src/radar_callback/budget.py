"""What share of a run's wall clock evaluations may take, and what is done when they would take more."""

from __future__ import annotations

from dataclasses import dataclass

from radar_callback.errors import ConfigError

GRACE = 20.0
"""Seconds that evaluations may always take all together, so that a run of minutes has its points. Matters no more once a run
is longer than that divided by the share: 400 s at 5%."""

KEPT = 1.2
"""Times what one takes: put aside for the last evaluation of a run, which may take somewhat longer."""

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of each ability's items. Every share is among the larger ones, so points can be compared item by item."""


@dataclass(frozen=True)
class Clock:
    """What is known when an evaluation is due; all in seconds.

    Attributes:
        elapsed: Since training began.
        spent: Of it, on evaluations.
        cost: What the last evaluation took, scaled to all items; None before the first.
        apart: From one due evaluation to the next; None where that is not known yet.
    """

    elapsed: float
    spent: float
    cost: float | None = None
    apart: float | None = None


@dataclass(frozen=True)
class Budget:
    """A bound on the share of wall clock.

    Attributes:
        most: The share, above 0 and below 1; None for no bound.

    Raises:
        ConfigError: If it is no such share.
    """

    most: float | None

    def __post_init__(self) -> None:
        if self.most is not None and not 0 < self.most < 1:
            raise ConfigError(f"Expected max_overhead to be a share between 0 and 1, or None, but got {self.most!r}.")

    def share(self, clock: Clock, last: bool = False) -> float:
        """Which share of the items to score now; 0 to let this one pass.

        Where evaluations come too often for all items, the share is the largest that can be kept up for good, so that it
        hardly ever changes. Where even that would be too much now, one is let pass. The last one of a run finds its time
        put aside.

        Args:
            clock: What is known.
            last: Whether no other one follows.

        Example:
            >>> Budget(0.05).share(Clock(elapsed=1000, spent=10, cost=10, apart=400))
            1.0
            >>> Budget(0.05).share(Clock(elapsed=1000, spent=10, cost=10, apart=100))
            0.5
            >>> Budget(0.05).share(Clock(elapsed=1000, spent=49, cost=10, apart=400))
            0.0
        """
        if self.most is None or clock.cost is None or clock.spent + (1 + KEPT) * clock.cost <= GRACE:
            return 1.0
        for share in SHARES:
            cost = share * clock.cost
            lasting = last or clock.apart is None or cost <= self.most * (clock.apart + cost)
            if (lasting or share == SHARES[-1]) and self._fits(clock, cost, kept=0.0 if last else KEPT * cost):
                return share
            if lasting and not last:
                return 0.0
        return 0.0

    def _fits(self, clock: Clock, cost: float, kept: float) -> bool:
        assert self.most is not None
        return clock.spent + cost + kept <= max(GRACE, self.most * (clock.elapsed + cost))
