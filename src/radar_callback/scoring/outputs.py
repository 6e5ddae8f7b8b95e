"""What a model's forward returned, checked before it is read as logits. Shapes only: nothing waits for the accelerator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from radar_callback.errors import LogitsError


@dataclass(frozen=True)
class OutputWidths:
    """The widths a model's output may have, from what is known of its layers and configuration.

    Attributes:
        words: The least that logits can be wide: the tokenizer's words.
        vocabularies: Sizes that a vocabulary has somewhere in the model.
        hidden: Widths that hidden states have somewhere in the model, and no vocabulary.

    Example:
        >>> model = nn.ModuleDict({"embed": nn.Embedding(300, 512), "lm_head": nn.Linear(512, 300)})
        >>> widths = OutputWidths.of(model, words=290)
        >>> sorted(widths.vocabularies), sorted(widths.hidden)
        ([300], [512])
    """

    words: int
    vocabularies: frozenset[int]
    hidden: frozenset[int]

    @classmethod
    def of(cls, model: nn.Module, words: int = 0) -> OutputWidths:
        """Gathers the widths.

        Args:
            model: A model without wrappers.
            words: Words of the tokenizer; 0 where that is not known.
        """
        vocabularies, hidden, square = set[int](), set[int](), set[int]()
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding):
                hidden.add(module.embedding_dim)
                # As many entries as they are wide: of words, or of positions.
                alike = module.num_embeddings == module.embedding_dim
                (square if alike else vocabularies).add(module.num_embeddings)
            elif isinstance(module, nn.Linear) and _names_a_head(name):
                vocabularies.add(module.out_features)
            elif isinstance(module, nn.LayerNorm):
                hidden.update(module.normalized_shape[-1:])
        for config in _configs(getattr(model, "config", None)):
            vocabularies.update(_numbers(config, ["vocab_size", "vocabulary_size", "padded_vocab_size"]))
            hidden.update(_numbers(config, ["hidden_size", "d_model", "n_embd", "dim", "embed_dim", "projection_dim"]))
        if not any(size >= words for size in vocabularies):
            vocabularies |= square
        return cls(words, frozenset(vocabularies), frozenset(hidden - vocabularies))

    def complaint(self, width: int, largest: int) -> str | None:
        """What is wrong with logits so wide, if anything.

        Args:
            width: Of the last dimension.
            largest: Largest token id that is read.
        """
        words = max(self.words, largest + 1)
        if width < words:
            return f"{width} logits a place, fewer than the tokenizer's {words} words"
        if width in self.hidden:
            return f"{width} values a place, which is the width of its hidden states and no vocabulary it has"
        return None


def read_logits(output: Any, who: str, rows: int, length: int, places: int | None, last: int | None) -> Tensor:
    """Takes the logits out of what a forward returned.

    Args:
        output: What the model returned.
        who: Whose forward that was, for the error.
        rows: Rows it was given.
        length: Columns it was given.
        places: How many single places were asked for, if it was told them.
        last: How many of the last columns were asked for, if it was told that.

    Returns:
        `[places, V]` where single places were asked for and only they came, else `[rows, columns, V]` with all columns or the
        last ones asked for.

    Raises:
        LogitsError: If it is no such thing; in one line that says what is probably wrong.
    """
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise LogitsError(
            f"Expected {who}.forward to return an output with `logits`, but got {_described(output)}: "
            "return one, such as types.SimpleNamespace(logits=…)."
        )
    if not logits.is_floating_point():
        raise LogitsError(f"Expected floating-point logits of {who}.forward, but got {logits.dtype}.")
    if logits.ndim == 2 and places is not None:
        if logits.shape[0] == places:
            return logits
        raise LogitsError(
            f"Expected logits of {who}.forward for the {places} places asked for, but got {logits.shape[0]}: "
            "does it read `logits_to_keep` as something else than a mask [rows, length]?"
        )
    if logits.ndim != 3:
        raise LogitsError(
            f"Expected logits [{rows}, {length}, vocabulary] of {who}.forward, but got {_shape(logits)}: "
            "does it return the last place only, or all rows in one?"
        )
    if logits.shape[0] != rows:
        raise LogitsError(
            f"Expected logits for {rows} rows of {who}.forward, but got {_shape(logits)}: "
            "is the batch not its first dimension?"
        )
    if logits.shape[1] not in {length, last if last is not None else length}:
        guess = "does the model put images in by itself, or cut rows?"
        asked = "" if last is None else f" or the last {last}"
        raise LogitsError(
            f"Expected logits of {who}.forward for {length} places{asked}, got {logits.shape[1]}: {guess}"
        )
    return logits


def _described(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, Tensor):
        return f"a bare {kind} {_shape(output)}"
    if isinstance(output, tuple | list):
        return f"a {kind} of {len(output)}"
    if isinstance(output, Mapping):
        return f"a {kind} with {', '.join(map(str, output)) or 'nothing'}"
    return "None" if output is None else f"a {kind} whose `logits` are {getattr(output, 'logits', 'missing')!r:.40}"


def _shape(value: Tensor) -> str:
    return str(list(value.shape))


def _names_a_head(name: str) -> bool:
    """Whether a linear layer is called what output layers are called."""
    last = name.rpartition(".")[2].lower()
    return last in {"head", "output", "decoder", "embed_out", "unembed"} or "lm_head" in last or "logit" in last


def _configs(config: Any) -> Iterable[Any]:
    """A configuration and the parts of it that describe a text model."""
    if config is None:
        return []
    parts = [getattr(config, name, None) for name in ("text_config", "llm_config", "language_config")]
    return [config, *(part for part in parts if part is not None)]


def _numbers(config: Any, names: Iterable[str]) -> set[int]:
    read = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
    return {value for name in names if isinstance(value := read(name), int) and value > 0}
