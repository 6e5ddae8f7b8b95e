"""What share of a run's wall clock evaluations may take."""

from __future__ import annotations

from dataclasses import dataclass

from radar_callback.errors import ConfigError

GRACE = 120.0
"""Seconds that evaluations may always take all together, so that a run of minutes has its points. Matters no more once a run
is longer than that divided by the share: 40 minutes at 5%."""

KEPT = 1.2
"""Times what one takes: put aside for the last evaluation of a run, which may take somewhat longer."""


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

    def seconds(self, elapsed: float) -> float:
        """What evaluations may take, all together, in a run of some length; infinite without a bound.

        Args:
            elapsed: Seconds of wall clock since the run began.

        Example:
            >>> Budget(0.05).seconds(60), Budget(0.05).seconds(36_000)
            (120.0, 1800.0)
        """
        return float("inf") if self.most is None else max(GRACE, self.most * elapsed)

    def lasting(self, apart: float) -> float:
        """What each evaluation may take if there is one after every so many seconds of training, for good.

        Example:
            >>> round(Budget(0.05).lasting(apart=190), 6)
            10.0
        """
        return float("inf") if self.most is None else self.most * apart / (1 - self.most)

    def fits(self, elapsed: float, spent: float, cost: float, kept: float = KEPT) -> bool:
        """Whether one more evaluation keeps within the bound now, with time put aside for the last one of the run.

        Args:
            elapsed: Seconds since training began.
            spent: Of it, on evaluations.
            cost: What one takes.
            kept: Times `cost` that is put aside.

        Example:
            >>> Budget(0.05).fits(elapsed=4000, spent=150, cost=10), Budget(0.05).fits(elapsed=4000, spent=190, cost=10)
            (True, False)
        """
        return spent + (1 + kept) * cost <= self.seconds(elapsed + cost)
