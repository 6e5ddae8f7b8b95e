"""The fast way to score: one row an item. Its prefix stands there once, then every candidate, none of which sees another.

A row is the prefix, then of each candidate all tokens but the last (nothing is read behind that). In the item's own order each
candidate goes on where the prefix ended, so the rows are a tree written flat: a token sees the prefix and its own candidate.
What a model's attention allows besides that (a sliding window, an image seen in both directions, a prefix without causality) is
not known here by family. The model is asked: its own mask rule, the one it hands to its attention, is looked up at the
positions that the tokens have in the item's own order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reading import Reading, kept
from radar_callback.scoring.rows import token_inputs, vision_inputs
from radar_callback.scoring.scorer import NotSupportedError, Scorer, unwrapped
from radar_callback.scoring.tree import PADDING, PREFIX, Tree, positions

_tree: ContextVar[tuple[Tree, list[bool]] | None] = ContextVar("radar_callback_tree", default=None)
"""The rows that are being scored, for the mask function, which the model calls; and whether it has been called."""


class PackedScorer(Scorer):
    """Sees each image and each prompt once, and computes logits only from the end of the prompt on.

    The text model's attention is switched, for the length of a forward, to one that differs from the model's own in its mask
    only: PyTorch's scaled-dot-product attention, or the model's eager one where that was chosen.

    Raises:
        NotSupportedError: From the first batch on, if the model builds no mask that could be asked, or takes no positions.
    """

    name = "packed"
    together = True

    def predict(self, samples: Sequence[EncodedSample]) -> tuple[Tensor, Reading]:
        """See :meth:`Scorer.predict`."""
        inner = unwrapped(self.model)
        if not self._accepts("position_ids"):
            raise NotSupportedError(f"{type(inner).__name__}.forward takes no position_ids by name")
        inputs, tree, keep, reading = pack(samples, self.pad_token_id)
        inputs["position_ids"], _ = positions(inner, inputs, tree)
        asked: list[bool] = []
        token = _tree.set((tree.to(self._device), asked))
        try:
            with _own_attention(inner.config.get_text_config()):
                logits, _ = self._forward(inputs, keep, largest=int(reading.token.max()))
        finally:
            _tree.reset(token)
        if not asked:
            raise NotSupportedError(f"{type(inner).__name__} makes its attention masks in a way of its own")
        return logits, reading.to(self._device)


def pack(samples: Sequence[EncodedSample], pad_token_id: int) -> tuple[dict[str, Tensor], Tree, Tensor, Reading]:
    """Packed rows, padded on the left so that their ends align.

    Args:
        samples: At least one item.
        pad_token_id: Any id that is no image token.

    Returns:
        Inputs by name; where each token belongs; `[B, L]` where logits are needed; which is read for which token.

    Raises:
        ValueError: If these items cannot share a batch.
    """
    branches = [[tail.ids[:-1] for tail in sample.tails] for sample in samples]
    behind = [torch.cat(parts) for parts in branches]
    inputs = {
        **token_inputs(list(zip(samples, behind, strict=True)), pad_token_id),
        **vision_inputs(samples),
    }
    length = inputs["input_ids"].shape[1]
    branch, order, places = [], [], []
    for row, (sample, parts) in enumerate(zip(samples, branches, strict=True)):
        prefix, sizes = sample.prefix_length, [len(part) for part in parts]
        left = length - prefix - sum(sizes)
        owner = torch.arange(len(parts) + 1).repeat_interleave(torch.tensor([prefix, *sizes]))
        place = torch.cat([torch.arange(prefix), *(prefix + torch.arange(size) for size in sizes)])
        branch.append(pad(owner, (left, 0), value=PADDING))
        order.append(pad(place, (left, 0)))
        # A candidate's first token is predicted at the end of the prefix, each further one at the token before it.
        end_of_prefix = row * length + left + prefix - 1
        begin = end_of_prefix + 1
        for tail, size in zip(sample.tails, sizes, strict=True):
            predicting = torch.tensor([end_of_prefix, *range(begin, begin + size)])
            places.append(predicting[len(tail.ids) - tail.scored :])
            begin += size
    tree = Tree(torch.stack(branch), torch.stack(order), torch.tensor([int((b == PADDING).sum()) for b in branch]))
    keep, index = kept(places, len(samples), length)
    tokens = [tail.content for sample in samples for tail in sample.tails]
    return inputs, tree, keep, Reading.of(index, tokens, tuple(len(sample.tails) for sample in samples))


@contextmanager
def _own_attention(text_config: Any) -> Iterator[None]:
    """Switches the text model to the attention whose mask is ours, and back."""
    chosen = text_config._attn_implementation
    text_config._attn_implementation_internal = _registered(eager=chosen == "eager")
    try:
        yield
    finally:
        text_config._attn_implementation_internal = chosen


def _registered(eager: bool) -> str:
    """The name under which transformers knows our attention: that of the model, with a mask of our own."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    name = "radar_packed_eager" if eager else "radar_packed"
    if name not in AttentionMaskInterface._global_mapping:
        AttentionInterface.register(name, _eager_attention if eager else sdpa_attention_forward)
        AttentionMaskInterface.register(name, _additive_mask if eager else _visible)
    return name


def _eager_attention(module: Any, *args: Any, **kwargs: Any) -> Any:
    """The eager attention of the model's own file: families differ in what it does besides (soft caps, sinks)."""
    import sys

    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


def _visible(
    batch_size: int, q_length: int, kv_length: int, mask_function: Any, device: Any = "cpu", **unused: Any
) -> Tensor:
    """What each token may see: `[B, 1, L, L]`, true where a query (third dimension) sees a key (last).

    transformers calls this in place of its own mask builder, with the model's rule for one kind of layer: whether the token
    at one index sees the token at another. Asked for places in the item's own order, it answers for the item as if it stood
    there alone with one candidate.
    """
    entry = _tree.get()
    if entry is None or q_length != kv_length or q_length != entry[0].branch.shape[1]:
        raise NotSupportedError("this model asks for attention masks of other tokens than it was given")
    tree, asked = entry
    asked.append(True)
    at = tree.start[:, None] + tree.order
    query, key = tree.branch[:, None, :, None], tree.branch[:, None, None, :]
    item = torch.arange(batch_size, device=device)[:, None, None, None]
    head = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
    allowed: Tensor = mask_function(item, head, at[:, None, :, None], at[:, None, None, :])
    visible = allowed & ((key == PREFIX) | (key == query)) & (key != PADDING) & (query != PADDING)
    # Padding sees itself: a row of a softmax with nothing in it would be NaN, and NaN spreads.
    return visible | (torch.eye(q_length, dtype=torch.bool, device=device) & (query == PADDING))


def _additive_mask(*args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Tensor:
    """The same for eager attention, which adds its mask to the scores: a boolean one would be silently wrong there."""
    visible = _visible(*args, **kwargs)
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)
