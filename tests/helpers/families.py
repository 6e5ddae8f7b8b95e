"""One tiny random model and its real processor for each family of image-text-to-text models.

Every model is the family's own class with weights enlarged so that scores react to mistakes; every processor is the family's own
class with the PIL variant of its image processor and a byte-level tokenizer trained here. Images become tens of tokens at most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from radar_callback.scoring.processor import image_only

Family = tuple[Any, Any]
"""A model in evaluation mode and its processor."""

SIDE, PATCH = 32, 8
SQUARE = {"height": SIDE, "width": SIDE}
WORDS = """The circle is red, green or blue; it is on the left side of the square, not on the right side of it.
What colour is the circle? Here is the first image, and the second: which of them shows 12 yellow triangles?




Answer: one. Two of the three shapes are orange (the small ones)."""
# Joins punctuation to line breaks and numbers to single digits, as the tokenizers of Qwen and Llama 3 do.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
SQUARES = {"image_size": SIDE, "patch_size": PATCH}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
TURNS = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{{ c['text'] if c['type'] == 'text' else IMAGE }}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer(*special: str, first: str | None = None, pad: str = "<pad>", **named: str) -> Any:
    """A byte-level BPE tokenizer with a family's special tokens, the last of which has the highest id.

    Args:
        special: Tokens that no text is ever split inside.
        first: The token that is put before every text.
        pad: Padding token.
        named: Tokens that the processor looks up by attribute of the tokenizer.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator([WORDS] * 4, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    bos = first or "<bos>"
    raw.add_special_tokens(list(dict.fromkeys([pad, bos, "<eos>", *special])))
    if first:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A $B:1", special_tokens=[(first, raw.token_to_id(first))]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=pad, bos_token=bos, eos_token="<eos>", extra_special_tokens=named
    )


def vocabulary(ids: Any) -> dict[str, int]:
    """Rows of the output layer, rounded up beyond what the tokenizer has, and the ids that configurations name."""
    return {
        "vocab_size": -(-len(ids) // 64) * 64,
        "pad_token_id": ids.pad_token_id,
        "bos_token_id": ids.bos_token_id,
        "eos_token_id": ids.eos_token_id,
    }


def made(model_class: Any, config: Any, processor: Any, image: str, scale: float = 4.0) -> Family:
    """The model with random weights that matter: enlarged, and gates and queries that start at zero opened.

    Args:
        model_class: With a language-model head.
        config: Of the tiny model.
        processor: Gets a chat template, as published instruct checkpoints have one.
        image: What stands for an image in that template; empty for a family without one.
        scale: Of the weights.
    """
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() and not name.endswith("bias"):
                parameter.normal_(std=0.5)
            elif parameter.ndim > 1:
                parameter.mul_(scale)
    if image:
        processor.chat_template = TURNS.replace("IMAGE", repr(image))
    return model, processor


def still(family: Any, images: Any, ids: Any, **settings: Any) -> Any:
    """A processor of a family whose video part needs torchvision, without that part."""
    return image_only(family, images, ids, settings)


def _qwen(generation: str, vision: dict[str, Any], processor: str | None = None, **text: Any) -> Family:
    ids = tokenizer(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        pad="<|endoftext|>",
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 40 * 40}
    )
    names = {
        f"{name}_token_id": ids.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start",
                            "vision_end": "vision_end"}.items()
    }  # fmt: skip
    config = getattr(hf, f"{generation}Config")(
        vision_config={"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 2, **vision},
        text_config={**TEXT, "hidden_size": 64, "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2],
                     "rope_theta": 10000.0}, **vocabulary(ids), **text},
        **names,
    )  # fmt: skip
    return made(
        getattr(hf, f"{generation}ForConditionalGeneration"),
        config,
        still(getattr(hf, processor or f"{generation}Processor"), images, ids),
        "<|vision_start|><|image_pad|><|vision_end|>",
    )


def qwen2_vl() -> Family:
    return _qwen("Qwen2VL", {"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2})


def qwen2_5_vl() -> Family:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "window_size": 16}
    return _qwen("Qwen2_5_VL", {**vision, "fullatt_block_indexes": [1]})


def qwen3_vl() -> Family:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
    return _qwen("Qwen3VL", {**vision, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}, head_dim=16)


def qwen3_5() -> Family:
    """A layer with a state in place of attention: nobody can ask it what a token may see."""
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
    }
    state = {f"linear_{part}_head_dim": 16 for part in ("key", "value")}
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    return _qwen(
        "Qwen3_5", vision, processor="Qwen3VLProcessor", head_dim=16, layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2, linear_num_value_heads=4, rope_parameters=rope, **state,
    )  # fmt: skip


def llava() -> Family:
    ids = tokenizer("<image>", first="<s>", image_token="<image>")
    images = CLIPImageProcessorPil(size=SQUARE, crop_size=SQUARE, do_center_crop=False)
    processor = hf.LlavaProcessor(
        images, ids, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION, **SQUARES),
        text_config=hf.LlamaConfig(**TEXT, **vocabulary(ids)),
        image_token_index=ids.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    return made(hf.LlavaForConditionalGeneration, config, processor, "<image>")


def llava_onevision() -> Family:
    ids = tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    grid = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [SIDE, 3 * SIDE]]
    images = LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=grid)
    tokens = {"image_token_index": ids.image_token_id, "video_token_index": ids.video_token_id}
    settings = {"num_image_tokens": (SIDE // PATCH) ** 2, "vision_feature_select_strategy": "full"}
    processor = still(hf.LlavaOnevisionProcessor, images, ids, **settings)
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, **SQUARES, vision_use_head=False),
        text_config=hf.Qwen2Config(**TEXT, **vocabulary(ids)),
        image_grid_pinpoints=grid,
        **tokens,
    )
    return made(hf.LlavaOnevisionForConditionalGeneration, config, processor, "<image>")


def internvl() -> Family:
    ids = tokenizer(
        "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    processor = still(hf.InternVLProcessor, images, ids, image_seq_length=4)
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**VISION, image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH]),
        text_config=hf.Qwen2Config(**TEXT, **vocabulary(ids)),
        image_token_id=ids.context_image_token_id,
        image_seq_length=4,
    )
    return made(hf.InternVLForConditionalGeneration, config, processor, "<IMG_CONTEXT>")


def _idefics(name: str, images: Any, build: Callable[..., Any]) -> Family:
    tiles = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    around = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    ids = tokenizer(*tiles, *around, "<image>", first="<|begin_of_text|>")
    size = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = build(images(**size), ids, image_seq_len=4)
    config = getattr(hf, f"{name}Config")(
        vision_config={**VISION, **SQUARES},
        text_config=hf.LlamaConfig(**TEXT, **vocabulary(ids)),
        image_token_id=ids.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=ids.pad_token_id,
    )
    return made(getattr(hf, f"{name}ForConditionalGeneration"), config, processor, "<image>")


def idefics3() -> Family:
    return _idefics("Idefics3", Idefics3ImageProcessorPil, hf.Idefics3Processor)


def smolvlm() -> Family:
    return _idefics("SmolVLM", SmolVLMImageProcessorPil, partial(still, hf.SmolVLMProcessor))


def _paligemma(text: Any) -> Family:
    ids = tokenizer("<image>", first="<bos>", image_token="<image>")
    images = SiglipImageProcessorPil(size=SQUARE)
    images.image_seq_length = (SIDE // PATCH) ** 2
    processor = hf.PaliGemmaProcessor(images, ids)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, **SQUARES, vision_use_head=False, projection_dim=48),
        text_config=text(**TEXT, head_dim=12, **vocabulary(ids)),
        image_token_index=ids.image_token_id,
        projection_dim=48,
    )
    return made(hf.PaliGemmaForConditionalGeneration, config, processor, "<image>")


def paligemma() -> Family:
    return _paligemma(hf.GemmaConfig)


def paligemma2() -> Family:
    """Two kinds of layers, one of them with a window shorter than most prompts."""
    return _paligemma(partial(hf.Gemma2Config, query_pre_attn_scalar=12, sliding_window=16))


def gemma3() -> Family:
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    ids = tokenizer(*names.values(), first="<bos>", **names)
    processor = hf.Gemma3Processor(Gemma3ImageProcessorPil(size=SQUARE), ids, image_seq_length=4)
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION, **SQUARES, vision_use_head=False),
        # A window shorter than most prompts, so that one layer of each kind is really different.
        text_config=hf.Gemma3TextConfig(
            **TEXT, head_dim=12, query_pre_attn_scalar=12, sliding_window=16,
            layer_types=["sliding_attention", "full_attention"], **vocabulary(ids),
        ),
        mm_tokens_per_image=4,
        image_token_index=ids.image_token_id,
        boi_token_index=ids.boi_token_id,
        eoi_token_index=ids.eoi_token_id,
    )  # fmt: skip
    return made(hf.Gemma3ForConditionalGeneration, config, processor, "<start_of_image>")


def mllama() -> Family:
    # The image token has an embedding and no row in the output layer: its id is the size of the vocabulary.
    ids = tokenizer("<|python_tag|>", "<|image|>", first="<|begin_of_text|>")
    processor = hf.MllamaProcessor(MllamaImageProcessorPil(size=SQUARE, max_image_tiles=4), ids)
    config = hf.MllamaConfig(
        vision_config=hf.models.mllama.configuration_mllama.MllamaVisionConfig(
            **SQUARES, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_global_layers=1, attention_heads=2,
            intermediate_layers_indices=[0], vision_output_dim=64, max_num_tiles=4,
        ),
        text_config=hf.models.mllama.configuration_mllama.MllamaTextConfig(
            **{**TEXT, "num_hidden_layers": 3}, cross_attention_layers=[1],
            **{**vocabulary(ids), "vocab_size": len(ids) - 1},
        ),
        image_token_index=len(ids) - 1,
    )  # fmt: skip
    return made(hf.MllamaForConditionalGeneration, config, processor, "<|image|>")


def blip2() -> Family:
    ids = tokenizer(first="</s>")
    processor = hf.Blip2Processor(BlipImageProcessorPil(size=SQUARE), ids, num_query_tokens=4)
    config = hf.Blip2Config(
        vision_config={**VISION, **SQUARES, "initializer_range": 0.02},
        qformer_config={**VISION, "encoder_hidden_size": 32, "vocab_size": 16},
        text_config=hf.OPTConfig(
            hidden_size=48, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=48,
            max_position_embeddings=1024, **vocabulary(ids),
        ),
        num_query_tokens=4,
        image_token_index=ids.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return made(hf.Blip2ForConditionalGeneration, config, processor, "")


FAMILIES: dict[str, Callable[[], Family]] = {
    build.__name__: cache(build)
    for build in (
        qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, llava, llava_onevision, internvl, smolvlm, idefics3, paligemma, paligemma2,
        gemma3, mllama, blip2,
    )
}  # fmt: skip
