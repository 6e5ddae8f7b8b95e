"""Every error this library raises on purpose. Each message is one line: what was expected, what came, what to do."""

from __future__ import annotations

from enum import StrEnum


class RadarError(Exception):
    """Root of all errors of this library; the command line turns one into exit status 2."""


class BenchmarkError(RadarError):
    """A benchmark, shard, manifest or source folder is not what it should be."""


class ConfigError(RadarError):
    """An argument has a value that cannot work: unknown prompt style, unknown ability, no processor found."""


class LogitsError(ConfigError):
    """What a model's forward returned cannot be read as logits of the rows it was given."""


class EvaluationError(RadarError):
    """A whole evaluation could not be finished on some rank; all ranks raise it together."""


class RanksApartError(EvaluationError):
    """A forward that needs every rank failed in its middle on this one; the others are waiting for it.

    Nothing can be put right: going on with training here would pair this rank's exchanges with those of an evaluation there.
    It ends the run, as the same error in a training step would.
    """


class Reason(StrEnum):
    """Why an item was not scored. `coverage` says how many were; these say what became of the rest."""

    UNREADABLE = "unreadable"
    """The bytes could not be read, or their checksum, JSON or schema is wrong."""
    BAD_IMAGE = "bad_image"
    """An image is missing, damaged or too large to open."""
    TOO_MANY_IMAGES = "too_many_images"
    """Left out when the shards were built, by the source's own rule (M3-Bench: more than 12 images)."""
    INVALID = "invalid"
    """Left out when the shards were built: the item itself makes no sense, such as an answer among its distractors."""
    NOT_ENCODABLE = "not_encodable"
    """The processor or the prompt style refused it."""
    TOO_LONG = "too_long"
    """Prompt and longest candidate exceed the model's context; cutting would score another question."""
    OUT_OF_MEMORY = "out_of_memory"
    """The accelerator's memory does not even hold a forward of this item alone."""
    NOT_FINITE = "not_finite"
    """A logit of one of its candidates is NaN or infinite."""


class ItemError(RadarError):
    """One item cannot be scored; the evaluation counts it under `reason` and goes on.

    Args:
        reason: The category it is counted under.
        detail: One line for the log: what was expected, what came, where.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
