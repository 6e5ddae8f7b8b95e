"""Encoded items as rows of model inputs: what the ways of scoring have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from radar_callback.scoring.encode import EncodedSample


def token_inputs(rows: Sequence[tuple[EncodedSample, Tensor]], pad_token_id: int) -> dict[str, Tensor]:
    """Token-wise inputs of rows that each hold an item's prefix and more ids behind it, padded on the left.

    Args:
        rows: For each row the item and the ids `[T]` behind its prefix. Numbers of images may differ unless a token-wise
            input has a place for each image (Mllama's cross-attention mask).
        pad_token_id: Any id that is no image token; padding is masked.

    Returns:
        By name, each `[rows, length, …]`.

    Raises:
        ValueError: If these items cannot share a batch.
    """
    _check_alike([sample for sample, _ in rows])
    length = max(sample.prefix_length + len(ids) for sample, ids in rows)
    return {
        name: torch.cat([_row(sample, ids, name, length, pad_token_id) for sample, ids in rows])
        for name in rows[0][0].prefix
    }


def following_inputs(
    samples: Sequence[EncodedSample], ids: Sequence[Tensor], length: int, pad_token_id: int
) -> dict[str, Tensor]:
    """Token-wise inputs of what stands behind prefixes that the model has seen already, padded on the right.

    Args:
        samples: Items.
        ids: What follows, for each candidate of each item, in order.
        length: Columns to fill.
        pad_token_id: Any id that is no image token; padding is masked.

    Returns:
        By name, each `[candidates, length, …]`.
    """
    owners = [sample for sample in samples for _ in sample.tails]
    rows = [
        {name: _following(sample, part, name, length, pad_token_id) for name in sample.prefix}
        for sample, part in zip(owners, ids, strict=True)
    ]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def vision_inputs(samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
    """Inputs that belong to images, of all items in order; an item that stands there twice brings its images twice."""
    # Names of all items: one without images has none of these.
    names = dict.fromkeys(name for sample in samples for name in sample.vision)
    return {name: _stack([sample.vision[name] for sample in samples if name in sample.vision]) for name in names}


def _check_alike(samples: Sequence[EncodedSample]) -> None:
    shapes = {tuple(sorted((name, value.shape[2:]) for name, value in sample.prefix.items())) for sample in samples}
    if len(shapes) > 1:
        # Padding over images would not do: in Mllama, tokens before the first image attend to every image there is.
        raise ValueError(f"Expected items with the same number of images in a batch, but their inputs differ: {shapes}")


def _row(sample: EncodedSample, ids: Tensor, name: str, length: int, pad_token_id: int) -> Tensor:
    """One token-wise input `[1, length, …]` of one row: padding, prefix, what follows."""
    prefix = sample.prefix[name]
    body = torch.cat([prefix, _following(sample, ids, name, len(ids), pad_token_id)], 1)
    filler = pad_token_id if name == "input_ids" else 0
    return pad(body, [0, 0] * (body.ndim - 2) + [length - body.shape[1], 0], value=filler)


def _following(sample: EncodedSample, ids: Tensor, name: str, length: int, pad_token_id: int) -> Tensor:
    """One token-wise input `[1, length, …]` of ids behind a prefix, padded on the right."""
    prefix, filler = sample.prefix[name], 0
    if name == "input_ids":
        body, filler = ids[None], pad_token_id
    elif name == "attention_mask":
        body = prefix.new_ones(1, len(ids))
    else:
        # Other token-wise inputs say what kind of token stands there. Inputs with more dimensions (Mllama's cross-attention
        # mask) go on as they were for the last token of the prompt.
        last = prefix[:, -1:] if prefix.ndim > 2 else prefix.new_full((1, 1), sample.tail_values.get(name, 0))
        body = last.expand(1, len(ids), *prefix.shape[2:])
    return pad(body, [0, 0] * (body.ndim - 2) + [0, length - len(ids)], value=filler)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates along the first dimension (rows, images or patches), the others padded with zeros to a common size."""
    shape = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    padded = [
        pad(t, [p for s, full in zip(reversed(t.shape[1:]), reversed(shape), strict=True) for p in (0, full - s)])
        for t in tensors
    ]
    return torch.cat(padded)
