"""What scoring an item will cost, before it is read: tokens of its images and texts, and how many fit into memory at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import mean
from typing import Any

import torch

from radar_callback.benchmark.manifest import Item
from radar_callback.scoring.encode import EncodedSample

CPU_TOKENS = 2048
"""Tokens of a batch without an accelerator: more of them leave the caches of a processor and gain nothing."""

MOST_TOKENS = 8192
"""Tokens of a batch at most: enough to keep an accelerator busy, and few enough for hundreds of ranks to share evenly."""

SHARE = 0.8
"""Of the memory that is free, so much may be used; the rest is for what a forward takes on top of what was measured."""


def image_tokens(processor: Any, seen: Sequence[tuple[Item, EncodedSample]]) -> Callable[[int, int], float]:
    """What an image of some width and height becomes, as a function.

    Processors of transformers can tell without looking at the image. One that cannot, or is wrong about items that were
    encoded, gives way to the mean of these; so does one that refuses a size, for images of that size alone.

    Args:
        processor: The model's.
        seen: Some items, before and after encoding.
    """
    images = sum(item.n_images for item, _ in seen)
    usual = sum(encoded.vision_tokens for _, encoded in seen) / max(1, images)

    @cache
    def told(width: int, height: int) -> float:
        try:
            answer = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
            tokens = float(answer["num_image_tokens"][0])
        except Exception:  # there is no such method, it is not for this processor, or the image is not
            return usual
        return tokens if 0 <= tokens < math.inf else usual

    if all(_near(sum(told(*size) for size in item.image_sizes), encoded.vision_tokens) for item, encoded in seen):
        return told
    return lambda width, height: usual


def _near(told: float, real: float) -> bool:
    """Some processors count the tokens that stand around an image, others do not."""
    return abs(told - real) <= 0.15 * real


def characters_a_token(seen: Sequence[tuple[Item, EncodedSample]]) -> float:
    """Characters of question and candidates that become one token.

    Args:
        seen: Some items, before and after encoding.

    Example:
        >>> characters_a_token([])
        3.5
    """
    if not seen:
        return 3.5
    return mean(
        (item.question_chars + sum(item.candidate_chars))
        / max(1, one.prefix_length - one.vision_tokens + sum(len(tail.ids) for tail in one.tails))
        for item, one in seen
    )


def token_budget(free_bytes: float, bytes_a_token: float) -> int:
    """Tokens that a batch may hold: a power of two, so that a little more or less memory changes no batch.

    Args:
        free_bytes: Memory that can be used.
        bytes_a_token: What a forward takes for each token of a batch, padding counted.

    Example:
        >>> token_budget(8e9, 1e6)
        4096
    """
    tokens = SHARE * free_bytes / max(bytes_a_token, 1.0)
    return min(MOST_TOKENS, 2 ** max(6, int(tokens).bit_length() - 1))


def free_memory(device: torch.device) -> float:
    """Bytes on an accelerator that nobody uses: free on the device, or held by torch's allocator without being in use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def bytes_a_token(run: Callable[[], int], device: torch.device) -> float:
    """What a forward takes on top of what is there, for each token.

    The device's peak of allocated memory begins anew here, since there is no other way to see one forward's; that happens
    before the first evaluation with a model and when it is wrapped otherwise.

    Args:
        run: Scores a batch and returns its tokens, padding counted.
        device: An accelerator.
    """
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    tokens = run()
    return (torch.cuda.max_memory_allocated(device) - before) / tokens
