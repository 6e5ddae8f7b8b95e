"""Small real models with real processors, and small real benchmarks, made in a moment."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from radar_callback.benchmark.sample import Sample
from radar_callback.benchmark.writer import write_shards

SIZE, PATCH = 32, 8
COLOURS = ["red", "green", "blue", "yellow", "black", "orange"]
GROUPS = {"colour": "perception", "side": "reasoning", "maths": "reasoning"}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE(byte_fallback=False))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    text = [f"The circle is {colour} on the left side, not the right." for colour in COLOURS] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<pad>", "<image>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", extra_special_tokens={"image_token": "<image>"}
    )


def llava_processor() -> LlavaProcessor:
    images = CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, crop_size={"height": SIZE, "width": SIZE}, do_center_crop=False
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def llava(seed: int = 0, dropout: float = 0.0, scale: float = 4.0) -> LlavaForConditionalGeneration:
    """Random weights, enlarged so that scores react to every mistake; about 60k parameters."""
    ids = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=PATCH,
            attention_dropout=dropout,
        ),
        text_config=LlamaConfig(
            vocab_size=len(ids), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, attention_dropout=dropout, pad_token_id=ids.pad_token_id,
        ),
        image_token_index=ids.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return model


def picture(rng: random.Random, size: int = 40) -> bytes:
    image = Image.new("RGB", (size, size), rng.choice(["white", "lightgray", "beige"]))
    x, y = rng.randint(2, size // 2), rng.randint(2, size // 2)
    ImageDraw.Draw(image).ellipse([x, y, x + size // 3, y + size // 3], fill=rng.choice(COLOURS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def samples(n: int, seed: int = 0) -> list[Sample]:
    """Items with 0 to 3 images, 2 to 5 candidates, marks inside the question, and categories in one ability."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        ability = rng.choice(list(GROUPS))
        images = rng.choice([1, 1, 1, 2, 3, 0])
        candidates = rng.sample([*COLOURS, "left", "right side of it", "12", "1.5"], rng.randint(2, 5))
        question = rng.choice(["The circle is", "What is it?", "On the left side, the circle (not the square) is"])
        if images > 1 and rng.random() < 0.5:
            question = "Here is <image> and" + " <image>" * (images - 1) + " too: the circle is"
        made.append(
            Sample(
                key=f"item-{i:03d}",
                question=question,
                answer=candidates[0],
                distractors=tuple(candidates[1:]),
                ability=ability,
                category=rng.choice(["algebra", "area"]) if ability == "maths" else None,
                images=tuple(picture(rng, rng.choice([24, 40])) for _ in range(images)),
                image_names=tuple(f"{k}.png" for k in range(images)),
                meta={"id": i},
            )
        )
    return made


def benchmark(folder: Path, n: int = 23, seed: int = 0) -> Path:
    """Shards of `samples(n)`, several items a shard."""
    write_shards(samples(n, seed), folder, name="tiny", groups=GROUPS, max_samples=9)
    return folder
