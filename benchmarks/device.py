"""`python -m benchmarks.device`: what only an accelerator can show, at real sizes, in bfloat16 and M3-Bench-like lengths.

Two models with random weights: one as large as LLaVA-OneVision 0.5B (a SigLIP tower with 729 visual tokens, a 24-layer text
model), one as large as Qwen2-VL 2B (768 visual tokens). How near the model part comes to what the machine can do is told against
the rate of a large matrix product measured there and then.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.helpers.families import FAMILIES, Size
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.authors import authors_way
from benchmarks.scoring import RESULTS, batches
from radar_callback import RadarEvaluator
from radar_callback.scoring.check import check
from radar_callback.scoring.choose import WAYS
from radar_callback.scoring.cost import MOST_TOKENS
from radar_callback.scoring.encode import EncodedSample, SampleEncoder, Tail

M3_BENCH = 15_894
"""Items of M3-Bench."""


def llava(dry: bool) -> tuple[Any, int, dict[str, torch.Tensor]]:
    """The smaller model, its visual tokens, and what an image is to it."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

    side, patch = (56, 14) if dry else (378, 14)
    vision = SiglipVisionConfig(
        hidden_size=64 if dry else 1152, intermediate_size=96 if dry else 4304, num_hidden_layers=2 if dry else 26,
        num_attention_heads=2 if dry else 16, image_size=side, patch_size=patch, vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=1000 if dry else 151_936, hidden_size=64 if dry else 896, intermediate_size=128 if dry else 4864,
        num_hidden_layers=2 if dry else 24, num_attention_heads=2 if dry else 14, num_key_value_heads=2,
        max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=7, vision_feature_layer=-1,
        vision_feature_select_strategy="full", tie_word_embeddings=True,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), (side // patch) ** 2, {"pixel_values": torch.rand(1, 3, side, side)}


def qwen2_vl(dry: bool) -> tuple[Any, int, dict[str, torch.Tensor]]:
    """The larger model, its visual tokens, and what an image is to it."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rows, columns = (4, 8) if dry else (48, 64)
    width, heads = (64, 2) if dry else (1536, 12)
    config = Qwen2VLConfig(
        vision_config={"depth": 2 if dry else 32, "embed_dim": 64 if dry else 1280, "hidden_size": width,
                       "num_heads": 2 if dry else 16, "mlp_ratio": 4},
        text_config={"vocab_size": 1000 if dry else 151_936, "hidden_size": width, "num_attention_heads": heads,
                     "intermediate_size": 128 if dry else 8960, "num_hidden_layers": 2 if dry else 28,
                     "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e6,
                                         "mrope_section": [4, 6, 6] if dry else [16, 24, 24]}},
        image_token_id=7, video_token_id=8, vision_start_token_id=9, vision_end_token_id=10, tie_word_embeddings=True,
    )  # fmt: skip
    picture = {
        "pixel_values": torch.rand(rows * columns, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
    }
    return Qwen2VLForConditionalGeneration(config), rows * columns // 4, picture


MODELS: dict[str, Callable[[bool], tuple[Any, int, dict[str, torch.Tensor]]]] = {
    "llava_onevision_0.5b": llava,
    "qwen2_vl_2b": qwen2_vl,
}


def made_up(n: int, visual: int, picture: dict[str, torch.Tensor], kinds: bool) -> list[EncodedSample]:
    """Items of random tokens: an image, 30 to 90 tokens of text, two to four candidates of one to twelve.

    Args:
        n: How many.
        visual: Tokens of the image.
        picture: Its inputs.
        kinds: Whether the model wants to be told which tokens are visual.
    """
    draw = torch.Generator().manual_seed(0)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    samples = []
    for _ in range(n):
        words = torch.randint(20, 900, (number(30, 90),), generator=draw)
        ids = torch.cat([torch.tensor([9]), torch.full((visual,), 7), torch.tensor([10]), words])[None]
        prefix = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if kinds:
            prefix["mm_token_type_ids"] = (ids == 7).int()
        lengths = [number(1, 12) for _ in range(number(2, 4))]
        tails = tuple(Tail(torch.randint(20, 900, (length,), generator=draw), length) for length in lengths)
        samples.append(EncodedSample("", prefix, tails, picture, prompt_images=1, vision_tokens=visual))
    return samples


def clock(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of wall clock until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def matrix_rate(device: torch.device, side: int) -> float:
    """FLOPs a second of a square bfloat16 matrix product: the most that any model could have."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(clock(lambda: a @ b, device) for _ in range(10))
    return 2 * side**3 / best


def worst(way: Any, reference: Any, samples: Sequence[EncodedSample]) -> float:
    """The largest difference of a mean logit from the reference's; in half precision, mostly rounding."""
    got, wanted = way(samples), reference(samples)
    return float((got.mean_logits - wanted.mean_logits).abs()[wanted.mask].max())


@torch.no_grad()
def measure(name: str, device: torch.device, dry: bool, n: int, tokens: int) -> list[dict[str, Any]]:
    """Rows for one model: each way that it honours."""
    with device:
        torch.set_default_dtype(torch.bfloat16)
        model, visual, picture = MODELS[name](dry)
        torch.set_default_dtype(torch.float32)
    model = model.to(device, torch.bfloat16).eval()
    picture = {key: value.cpu().float() if value.is_floating_point() else value.cpu() for key, value in picture.items()}
    samples = made_up(n, visual, picture, kinds="image_grid_thw" in picture)
    rate = matrix_rate(device, 512 if dry else 8192)
    reference = WAYS["reference"](model, 0)
    few = samples[: max(2, n // 8)]
    theirs = min(clock(lambda: authors_way(model, few, 0), device) for _ in range(2)) / len(few)
    with FlopCounterMode(display=False) as counter:
        for sample in few:
            WAYS["packed"](model, 0)([sample])
    floor = counter.get_total_flops() / len(few)
    with FlopCounterMode(display=False) as counter:
        authors_way(model, few, 0)
    theirs_flops = counter.get_total_flops() / len(few)
    rows = []
    for label in ("packed", "cached", "reference"):
        way = WAYS[label](model, 0)
        verdict = check(way, reference, [samples[:4]]) if label != "reference" else None
        if verdict is not None and not verdict.agrees:
            print(f"{name}: {label} is not used: {verdict.why}")
            continue
        formed = batches(samples, way.together, tokens)

        def run(way: Any = way, formed: Sequence[Sequence[EncodedSample]] = formed) -> None:
            for batch in formed:
                way(batch)

        run()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        way.fed = way.padded = 0
        taken = min(clock(run, device) for _ in range(3)) / n
        rows.append(
            {
                "family": name,
                "vocab": model.config.get_text_config().vocab_size,
                "k": sum(len(sample.tails) for sample in samples) / n,
                "strategy": label,
                "items_a_second": 1 / taken,
                "seconds_for_m3_bench": M3_BENCH * taken,
                "ratio_to_authors": theirs / taken,
                "fraction_of_floor": theirs / taken / (theirs_flops / floor),
                "max_abs_diff": worst(way, reference, samples[:4]),
                "matrix_tflops": rate / 1e12,
                "share_of_matrix_rate": floor / taken / rate,
                "padding_share": way.padded / way.fed,
                "peak_mib": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
                "check": verdict.why if verdict else "",
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


@torch.no_grad()
def end_to_end(device: torch.device, dry: bool, items: int, workers: int) -> dict[str, Any]:
    """From shards to scores with the built-in benchmark: whole evaluations against the authors' loop over the same items.

    Args:
        device: Where the model is.
        dry: A tiny model.
        items: Of each ability.
        workers: Processes that prepare items.
    """
    # LLaVA as the tests make it, tokenizer and processor included, as large as the smaller model above.
    size = Size() if dry else Size(
        side=378, patch=14, vision=1152, vision_layers=26, hidden=896, layers=24, heads=14, context=4096,
        vocabulary=151_936, pooled=1,
    )  # fmt: skip
    model, processor = FAMILIES["llava"].__wrapped__(size)
    model = model.to(device, torch.bfloat16).eval()
    evaluator = RadarEvaluator(model, processor, "radar-mini", items_per_ability=items, workers=workers, blind_share=0)
    results = [evaluator.evaluate() for _ in range(3)]
    encode = SampleEncoder(processor, model.config)
    some = range(0, len(evaluator.benchmark), max(1, len(evaluator.benchmark) // 64))

    def theirs() -> None:
        for index in some:
            authors_way(model, [encode(evaluator.benchmark.read(index))], processor.tokenizer.pad_token_id)

    theirs()
    an_item = clock(theirs, device) / len(some)
    later = min(result.seconds for result in results[1:])
    return {
        "family": "llava, radar-mini, end to end",
        "vocab": model.config.get_text_config().vocab_size,
        "k": sum(len(item.candidate_chars) for item in evaluator.benchmark.items) / len(evaluator.benchmark),
        "strategy": results[0].scorer,
        "items": results[0].samples,
        "workers": workers,
        "padding_share": results[0].padding,
        "first_seconds": results[0].seconds,
        "later_seconds": later,
        "ratio_to_authors_first": an_item * results[0].samples / results[0].seconds,
        "ratio_to_authors": an_item * results[0].samples / later,
        "waited_share": [result.waited / result.seconds for result in results],
    }


def main() -> None:
    """Measures and writes `results/scoring_<device>.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true", help="tiny models, nothing written: does it run at all?")
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=MOST_TOKENS)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = [row for name in MODELS for row in measure(name, device, options.dry_run, options.items, options.tokens)]
    rows.append(end_to_end(device, options.dry_run, 2 if options.dry_run else 128, options.workers))
    print(json.dumps(rows[-1]), flush=True)
    if not options.dry_run:
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        slug = re.sub(r"[^a-z0-9]+", "_", machine.lower()).strip("_")
        options.out.mkdir(parents=True, exist_ok=True)
        rows = [{"machine": machine, "torch": torch.__version__, **row} for row in rows]
        (options.out / f"scoring_{slug}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
