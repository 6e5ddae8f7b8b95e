"""A LLaVA small enough for a laptop: real transformers classes, random weights, its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE = 48
"""Pixels of the model's picture."""

PATCH = 16

SPREAD = 0.06
"""Standard deviation of the random weights. The usual 0.02 is meant for a width of thousands; at a width of 128 about
1 / sqrt(128) = 0.09 keeps the size of a signal from layer to layer."""

PAD, START, END, IMAGE = "<pad>", "<s>", "</s>", "<image>"


def train_tokenizer(captions: Iterable[str], vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE: the captions' words become one token each, any other word is spelled out, none is unknown.

    Args:
        captions: What to learn the words from.
        vocabulary: Number of tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[PAD, START, END, IMAGE],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Puts tokenizer and picture scaling together; the scaling is Pillow's, so that torchvision is not needed."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    square = {"height": SIDE, "width": SIDE}
    scaling = CLIPImageProcessorPil(size=square, crop_size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        image_processor=scaling,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0, width: int = 128) -> Any:
    """Builds the model with random weights.

    Args:
        tokenizer: Decides how many words the model has, and which stand for pictures and padding.
        seed: Of the weights; the global random state is left as it was.
        width: Of the hidden layers, a multiple of 4.
    """
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=SPREAD,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=SPREAD,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if "position_embedding" in name:
                # No weaker than what a patch shows: "at the top left" is learned from these alone.
                torch.nn.init.normal_(parameter, std=4 * SPREAD)
    return model
