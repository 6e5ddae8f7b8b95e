"""One tiny random model and its real processor for each family of image-text-to-text models.

Every model is the family's own class with weights enlarged so that scores react to mistakes; every processor is the family's own
class with the PIL variant of its image processor and a byte-level tokenizer trained here. Images become tens of tokens at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        side: Pixels of a picture, or of one of its tiles.
        patch: Pixels of a patch.
        vision: Width of the vision tower; `vision_layers` its depth.
        hidden: Width of the text model; `layers` its depth.
        heads: Of the text model; half of them for keys and values.
        vocabulary: Rows of the output layer; as many as the tokenizer needs if None.
        pooled: Patches that become one visual token, in families that pool.
    """

    side: int = 32
    patch: int = 8
    vision: int = 32
    vision_layers: int = 1
    hidden: int = 48
    layers: int = 2
    heads: int = 4
    context: int = 1024
    vocabulary: int | None = None
    pooled: int = 4

    @property
    def square(self) -> dict[str, int]:
        return {"height": self.side, "width": self.side}

    @property
    def squares(self) -> dict[str, int]:
        return {"image_size": self.side, "patch_size": self.patch}

    @property
    def patches(self) -> int:
        return (self.side // self.patch) ** 2

    @property
    def tower(self) -> dict[str, int]:
        return {
            "hidden_size": self.vision, "intermediate_size": self.vision * 3 // 2, "num_hidden_layers": self.vision_layers,
            "num_attention_heads": max(2, self.vision // 64),
        }  # fmt: skip

    @property
    def text(self) -> dict[str, int]:
        return {
            "hidden_size": self.hidden, "intermediate_size": self.hidden * 4 // 3 if self.hidden == 48 else 4 * self.hidden,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.heads // 2,
            "max_position_embeddings": self.context,
        }  # fmt: skip

    def rows(self, ids: Any) -> dict[str, int]:
        """Rows of the output layer, rounded up beyond what the tokenizer has, and the ids that configurations name."""
        return {
            "vocab_size": self.vocabulary or -(-len(ids) // 64) * 64,
            "pad_token_id": ids.pad_token_id,
            "bos_token_id": ids.bos_token_id,
            "eos_token_id": ids.eos_token_id,
        }


TINY = Size()
WORDS = """The circle is red, green or blue; it is on the left side of the square, not on the right side of it.
What colour is the circle? Here is the first image, and the second: which of them shows 12 yellow triangles?




Answer: one. Two of the three shapes are orange (the small ones)."""
# Joins punctuation to line breaks and numbers to single digits, as the tokenizers of Qwen and Llama 3 do.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
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


def made(model_class: Any, config: Any, processor: Any, image: str) -> Family:
    """The model with random weights that matter: enlarged, and gates and queries that start at zero opened.

    Args:
        model_class: With a language-model head.
        config: Of the tiny model.
        processor: Gets a chat template, as published instruct checkpoints have one.
        image: What stands for an image in that template; empty for a family without one.
    """
    # What a narrow layer passes on is small: enlarged, or scores would hardly depend on anything.
    scale = 4.0 if config.get_text_config().hidden_size < 128 else 1.0
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


def _qwen(generation: str, size: Size, vision: dict[str, Any], processor: str | None = None, **text: Any) -> Family:
    ids = tokenizer(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        pad="<|endoftext|>",
    )  # fmt: skip
    # Four patches of half the side become one token, so a picture costs as many tokens as in other families.
    patch, head = size.patch // 2, qwen_width(size) // size.heads
    edges = {"shortest_edge": (size.side // 2) ** 2, "longest_edge": (size.side * 5 // 4) ** 2}
    images = Qwen2VLImageProcessorPil(patch_size=patch, merge_size=2, size=edges)
    names = {
        f"{name}_token_id": ids.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start",
                            "vision_end": "vision_end"}.items()
    }  # fmt: skip
    config = getattr(hf, f"{generation}Config")(
        vision_config={"patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": 2,
                       "depth": max(2, size.vision_layers), "num_heads": max(2, size.vision // 64), **vision},
        text_config={**size.text, "hidden_size": qwen_width(size), "rope_parameters": {"rope_type": "default",
                     "mrope_section": [head // 4, head // 8, head // 8], "rope_theta": 10000.0}, **size.rows(ids), **text},
        **names,
    )  # fmt: skip
    return made(
        getattr(hf, f"{generation}ForConditionalGeneration"),
        config,
        still(getattr(hf, processor or f"{generation}Processor"), images, ids),
        "<|vision_start|><|image_pad|><|vision_end|>",
    )


def qwen_width(size: Size) -> int:
    """Rounded up so that three axes of positions fit into a head."""
    return -(-size.hidden // 64) * 64


def qwen2_vl(size: Size = TINY) -> Family:
    return _qwen("Qwen2VL", size, {"embed_dim": size.vision, "hidden_size": qwen_width(size), "mlp_ratio": 2})


def _qwen_tower(size: Size) -> dict[str, Any]:
    width = {"hidden_size": size.vision, "intermediate_size": size.vision * 3 // 2}
    return {**width, "out_hidden_size": qwen_width(size)}


def qwen2_5_vl(size: Size = TINY) -> Family:
    windows = {"window_size": 2 * size.patch, "fullatt_block_indexes": [1]}
    return _qwen("Qwen2_5_VL", size, {**_qwen_tower(size), **windows})


def qwen3_vl(size: Size = TINY) -> Family:
    grid = {"num_position_embeddings": 4 * size.patches, "deepstack_visual_indexes": [0, 1]}
    return _qwen("Qwen3VL", size, {**_qwen_tower(size), **grid}, head_dim=qwen_width(size) // size.heads)


def qwen3_5(size: Size = TINY) -> Family:
    """A layer with a state in place of attention: nobody can ask it what a token may see."""
    head = qwen_width(size) // size.heads
    kinds = [("linear_attention", "full_attention")[layer % 2] for layer in range(size.layers)]
    rope = {"rope_type": "default", "mrope_section": [head // 4, head // 8, head // 8], "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0}  # fmt: skip
    return _qwen(
        "Qwen3_5", size, {**_qwen_tower(size), "num_position_embeddings": 4 * size.patches}, processor="Qwen3VLProcessor",
        head_dim=head, layer_types=kinds, linear_num_key_heads=size.heads // 2, linear_num_value_heads=size.heads,
        linear_key_head_dim=head, linear_value_head_dim=head, rope_parameters=rope,
    )  # fmt: skip


def llava(size: Size = TINY) -> Family:
    ids = tokenizer("<image>", first="<s>", image_token="<image>")
    images = CLIPImageProcessorPil(size=size.square, crop_size=size.square, do_center_crop=False)
    processor = hf.LlavaProcessor(
        images, ids, patch_size=size.patch, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**size.tower, **size.squares),
        text_config=hf.LlamaConfig(**size.text, **size.rows(ids)),
        image_token_index=ids.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    return made(hf.LlavaForConditionalGeneration, config, processor, "<image>")


def llava_onevision(size: Size = TINY) -> Family:
    ids = tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    grid = [[size.side * rows, size.side * columns] for rows, columns in ((1, 1), (1, 2), (2, 1), (2, 2), (1, 3))]
    images = LlavaOnevisionImageProcessorPil(size=size.square, image_grid_pinpoints=grid)
    tokens = {"image_token_index": ids.image_token_id, "video_token_index": ids.video_token_id}
    settings = {"num_image_tokens": size.patches, "vision_feature_select_strategy": "full"}
    processor = still(hf.LlavaOnevisionProcessor, images, ids, **settings)
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**size.tower, **size.squares, vision_use_head=False),
        text_config=hf.Qwen2Config(**size.text, **size.rows(ids)),
        image_grid_pinpoints=grid,
        **tokens,
    )
    return made(hf.LlavaOnevisionForConditionalGeneration, config, processor, "<image>")


def internvl(size: Size = TINY) -> Family:
    ids = tokenizer(
        "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size=size.square, crop_to_patches=True, min_patches=1, max_patches=4)
    processor = still(hf.InternVLProcessor, images, ids, image_seq_length=size.patches // 4)
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**size.tower, image_size=[size.side] * 2, patch_size=[size.patch] * 2),
        text_config=hf.Qwen2Config(**size.text, **size.rows(ids)),
        image_token_id=ids.context_image_token_id,
        image_seq_length=size.patches // 4,
    )
    return made(hf.InternVLForConditionalGeneration, config, processor, "<IMG_CONTEXT>")


def _idefics(name: str, images: Any, build: Callable[..., Any], size: Size) -> Family:
    tiles = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    around = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    ids = tokenizer(*tiles, *around, "<image>", first="<|begin_of_text|>")
    edges = {"size": {"longest_edge": 2 * size.side}, "max_image_size": {"longest_edge": size.side}}
    processor = build(images(**edges), ids, image_seq_len=size.patches // 4)
    config = getattr(hf, f"{name}Config")(
        vision_config={**size.tower, **size.squares},
        text_config=hf.LlamaConfig(**size.text, **size.rows(ids)),
        image_token_id=ids.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=ids.pad_token_id,
    )
    return made(getattr(hf, f"{name}ForConditionalGeneration"), config, processor, "<image>")


def idefics3(size: Size = TINY) -> Family:
    return _idefics("Idefics3", Idefics3ImageProcessorPil, hf.Idefics3Processor, size)


def smolvlm(size: Size = TINY) -> Family:
    return _idefics("SmolVLM", SmolVLMImageProcessorPil, partial(still, hf.SmolVLMProcessor), size)


def _paligemma(text: Any, size: Size) -> Family:
    ids = tokenizer("<image>", first="<bos>", image_token="<image>")
    images = SiglipImageProcessorPil(size=size.square)
    images.image_seq_length = size.patches
    processor = hf.PaliGemmaProcessor(images, ids)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(
            **size.tower, **size.squares, vision_use_head=False, projection_dim=size.hidden
        ),
        text_config=text(**size.text, head_dim=size.hidden // size.heads, **size.rows(ids)),
        image_token_index=ids.image_token_id,
        projection_dim=size.hidden,
    )
    return made(hf.PaliGemmaForConditionalGeneration, config, processor, "<image>")


def paligemma(size: Size = TINY) -> Family:
    return _paligemma(hf.GemmaConfig, size)


def paligemma2(size: Size = TINY) -> Family:
    """Two kinds of layers, one of them with a window shorter than most prompts."""
    return _paligemma(partial(hf.Gemma2Config, query_pre_attn_scalar=12, sliding_window=size.patches), size)


def gemma3(size: Size = TINY) -> Family:
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    ids = tokenizer(*names.values(), first="<bos>", **names)
    processor = hf.Gemma3Processor(
        Gemma3ImageProcessorPil(size=size.square), ids, image_seq_length=size.patches // size.pooled
    )
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**size.tower, **size.squares, vision_use_head=False),
        # A window shorter than most prompts, so that one layer of each kind is really different.
        text_config=hf.Gemma3TextConfig(
            **size.text, head_dim=size.hidden // size.heads, query_pre_attn_scalar=12, sliding_window=size.patches,
            layer_types=[("sliding_attention", "full_attention")[layer % 2] for layer in range(size.layers)], **size.rows(ids),
        ),
        mm_tokens_per_image=size.patches // size.pooled,
        image_token_index=ids.image_token_id,
        boi_token_index=ids.boi_token_id,
        eoi_token_index=ids.eoi_token_id,
    )  # fmt: skip
    return made(hf.Gemma3ForConditionalGeneration, config, processor, "<start_of_image>")


def mllama(size: Size = TINY) -> Family:
    # The image token has an embedding and no row in the output layer: its id is the size of the vocabulary.
    ids = tokenizer("<|python_tag|>", "<|image|>", first="<|begin_of_text|>")
    processor = hf.MllamaProcessor(MllamaImageProcessorPil(size=size.square, max_image_tiles=4), ids)
    config = hf.MllamaConfig(
        vision_config=hf.models.mllama.configuration_mllama.MllamaVisionConfig(
            **size.squares, hidden_size=size.vision, intermediate_size=size.vision * 3 // 2, num_hidden_layers=size.vision_layers,
            num_global_layers=1, attention_heads=max(2, size.vision // 64), intermediate_layers_indices=[0],
            vision_output_dim=2 * size.vision, max_num_tiles=4,
        ),
        text_config=hf.models.mllama.configuration_mllama.MllamaTextConfig(
            **{**size.text, "num_hidden_layers": size.layers + 1}, cross_attention_layers=[1],
            **{**size.rows(ids), "vocab_size": size.vocabulary or len(ids) - 1},
        ),
        image_token_index=len(ids) - 1,
    )  # fmt: skip
    return made(hf.MllamaForConditionalGeneration, config, processor, "<|image|>")


def blip2(size: Size = TINY) -> Family:
    ids = tokenizer(first="</s>")
    processor = hf.Blip2Processor(BlipImageProcessorPil(size=size.square), ids, num_query_tokens=size.patches // 4)
    config = hf.Blip2Config(
        vision_config={**size.tower, **size.squares, "initializer_range": 0.02},
        qformer_config={**size.tower, "encoder_hidden_size": size.vision, "vocab_size": 16},
        text_config=hf.OPTConfig(
            hidden_size=size.hidden, ffn_dim=size.text["intermediate_size"], num_hidden_layers=size.layers,
            num_attention_heads=size.heads, word_embed_proj_dim=size.hidden, max_position_embeddings=size.context,
            **size.rows(ids),
        ),
        num_query_tokens=size.patches // 4,
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
