"""What a diagnosis says: findings, each about one thing, with its size, how sure that is, and what usually causes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What can be found. Alarms say that something broke; notes say how the run develops."""

    REGRESSION = "regression"
    COLLAPSE = "collapse"
    BLIND = "blind"
    PART_STOPPED = "part_stopped"
    STALL = "stall"
    SATURATED = "saturated"
    AT_CHANCE = "at_chance"

    @property
    def is_alarm(self) -> bool:
        """Whether it says that something broke."""
        return self in {Kind.REGRESSION, Kind.COLLAPSE, Kind.BLIND, Kind.PART_STOPPED}


class Cause(StrEnum):
    """Classes of causes that can be told apart."""

    IMAGE_NOT_USED = "image_not_used"
    OPTIMIZATION = "optimization"
    ABILITY_DATA = "ability_data"
    NO_GRADIENT = "no_gradient"
    UNKNOWN = ""


USUAL: Mapping[Cause, str] = {
    Cause.IMAGE_NOT_USED: (
        "images and texts that no longer belong together (shuffled, blank or truncated images, captions that say nothing about "
        "them): look at a batch as the model gets it"
    ),
    Cause.OPTIMIZATION: (
        "a step that was too large (learning rate, a bad batch without clipping, a resume that lost optimizer state): look at "
        "the gradient norm and the learning rate"
    ),
    Cause.ABILITY_DATA: (
        "training data that teaches this ability wrongly or no longer (colour channels, augmentation, a source dropped from "
        "the mix): look at what changed in its data since the step given"
    ),
    Cause.NO_GRADIENT: "frozen parameters, a detached output or a parameter group that was left out of the optimizer",
    Cause.UNKNOWN: "",
}
"""What to look at first."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        kind: What.
        subject: The ability, the part of the model, or `overall`.
        step: Of the evaluation at which it was found.
        since: Of the last evaluation at which it was not so yet.
        size: Of the change, or the level, in SDS (for a part of the model: how far it moved, relative to before).
        low: Lower end of the 95% interval of `size`.
        high: Upper end.
        cause: What class of causes it points to.
        others: Further abilities that the same finding is about.
    """

    kind: Kind
    subject: str
    step: int
    since: int
    size: float
    low: float
    high: float
    cause: Cause = Cause.UNKNOWN
    others: tuple[str, ...] = ()

    @property
    def is_alarm(self) -> bool:
        """Whether it says that something broke."""
        return self.kind.is_alarm

    @property
    def message(self) -> str:
        """One line for a person.

        Example:
            >>> print(Finding(Kind.SATURATED, "colour", 900, 600, 0.97, 0.96, 0.98).message)
            colour is saturated at step 900: 0.97 (0.96 to 0.98) since step 600; its items have nothing left to tell
        """
        size = f"{self.size:.2f} ({self.low:.2f} to {self.high:.2f})"
        signed = f"{self.size:+.2f} ({self.low:+.2f} to {self.high:+.2f})"
        subject = self.subject.replace("_", " ")
        others = f", as have {', '.join(name.replace('_', ' ') for name in self.others)}" if self.others else ""
        text = {
            Kind.REGRESSION: f"{subject} has fallen at step {self.step}: {signed} since step {self.since}{others}",
            Kind.COLLAPSE: f"abilities have fallen together at step {self.step}: {signed} overall since step {self.since}; "
            f"most of all {', '.join(name.replace('_', ' ') for name in self.others[:4])}",
            Kind.BLIND: f"the model does not look at step {self.step}: with the image it scores {signed} better than without",
            Kind.PART_STOPPED: f"{self.subject} has stopped learning at step {self.step}: since step {self.since} its weights "
            f"moved by {self.size:.3f} of what they did before, while other parts went on",
            Kind.STALL: f"{subject} has stalled at step {self.step}: {signed} since step {self.since}, while others go on",
            Kind.SATURATED: f"{subject} is saturated at step {self.step}: {size} since step {self.since}; its items have "
            "nothing left to tell",
            Kind.AT_CHANCE: f"{subject} is still at chance at step {self.step}: {signed} above it",
        }[self.kind]
        return f"{text}. Usual causes: {USUAL[self.cause]}" if USUAL[self.cause] else text

    def to_record(self) -> dict[str, Any]:
        """As JSON types, for a history."""
        return {**asdict(self), "others": list(self.others), "alarm": self.is_alarm, "message": self.message}
