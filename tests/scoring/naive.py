"""The authors' way, written anew as an independent reference: one candidate a forward, no padding, everything by hand."""

import torch

from radar_callback.benchmark.sample import Sample, decode_image


def whole(processor, sample: Sample, prompt: str, joiner: str = " ", apart: bool = False):
    """For each candidate what the processor makes of the whole text, and where the candidate's tokens begin and end in it.

    With `apart`, prompt and answer go to the processor as two texts, as PaliGemma's does for training: it puts a line break
    behind the one and an end-of-text token, which is no part of the answer, behind the other.
    """
    images = [[decode_image(data, "image") for data in sample.images]] if sample.images else None
    start = processor(text=[prompt], images=images, return_tensors="pt")["input_ids"].shape[1]
    for candidate in sample.candidates:
        text = {"text": [prompt], "suffix": [candidate]} if apart else {"text": [prompt + joiner + candidate]}
        inputs = processor(**text, images=images, return_tensors="pt")
        inputs.pop("labels", None)
        yield inputs, start, inputs["input_ids"].shape[1] - apart


@torch.no_grad()
def score(
    model, processor, sample: Sample, prompt: str, joiner: str = " ", apart: bool = False
) -> tuple[list[float], list[float]]:
    """Mean raw logits and mean log-probabilities of each candidate of one item."""
    raw, logprobs = [], []
    for inputs, start, end in whole(processor, sample, prompt, joiner, apart):
        logits = model(**inputs).logits[0].double()
        ids = inputs["input_ids"][0]
        chosen = [(logits[at - 1, ids[at]], logits[at - 1].log_softmax(0)[ids[at]]) for at in range(start, end)]
        raw.append(sum(x.item() for x, _ in chosen) / len(chosen))
        logprobs.append(sum(x.item() for _, x in chosen) / len(chosen))
    return raw, logprobs
