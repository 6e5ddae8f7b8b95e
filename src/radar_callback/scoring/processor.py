"""Finding and loading the processor that belongs to a model, with or without torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radar_callback.errors import ConfigError


def load_processor(name_or_path: str | Path) -> Any:
    """The Hugging Face processor saved with a model.

    Several families (Qwen2-VL and later, LLaVA-OneVision, …) have a processor with a video part, and that part needs
    torchvision. A benchmark of still images does not, so where it cannot be loaded the processor is built without it.

    Args:
        name_or_path: Folder of a checkpoint, or a name on the hub.

    Raises:
        ConfigError: If there is no processor for images and text.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name_or_path)
    except Exception as error:  # transformers raises ImportError, ValueError, OSError, TypeError … for the same cause
        try:
            processor = _load_image_only(name_or_path)
        except Exception as second:
            raise ConfigError(
                f"Found no processor in {str(name_or_path)!r} ({_first_line(second)}; before that: {_first_line(error)}): "
                "pass processor=…"
            ) from second
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise ConfigError(
            f"Expected a processor for images and text in {str(name_or_path)!r}, but got a {type(processor).__name__}: "
            "pass processor=…"
        )
    return processor


def usable_processor(processor: Any, where: str = "processor=…") -> Any:
    """A processor for images and text, loaded if a folder or hub name was given.

    Args:
        processor: What the user handed in.
        where: Names the argument or attribute in the error.

    Raises:
        ConfigError: If it is something else; the message says what, and what to pass.
    """
    if isinstance(processor, str | Path):
        return load_processor(processor)
    wrong = not_a_processor(processor)
    if wrong is not None:
        raise ConfigError(
            f"Expected {where} to be the model's processor for images and text, but got {wrong}: pass the processor, or the "
            "folder or hub name to load it from; for one of your own, an object with a `tokenizer` that is called as "
            "processor(text=[…], images=[[…]], return_tensors='pt')."
        )
    return processor


def not_a_processor(thing: Any) -> str | None:
    """What something is that cannot be used as a processor for images and text; None if it can.

    Example:
        >>> not_a_processor(None), not_a_processor(print)
        ('None', 'a builtin_function_or_method without a tokenizer')
    """
    from torch import nn
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase, ProcessorMixin

    name = type(thing).__name__
    if thing is None:
        return "None"
    if isinstance(thing, type):
        return f"the class {thing.__name__} and no object of it"
    if isinstance(thing, PreTrainedTokenizerBase):
        return f"a tokenizer alone ({name})"
    if isinstance(thing, BaseImageProcessor):
        return f"an image processor alone ({name})"
    tokenizer = _part(thing, "tokenizer")
    if tokenizer is None:
        return (
            f"a torch module ({name}; the model?)" if isinstance(thing, nn.Module) else f"a {name} without a tokenizer"
        )
    if not callable(thing):
        return f"a {name} that cannot be called"
    if isinstance(thing, nn.Module) and hasattr(thing, "config"):
        return f"a torch module ({name}; the model?)"
    if isinstance(thing, ProcessorMixin) and _part(thing, "image_processor") is None:
        return f"a {name} without an image processor"
    missing = [method for method in TOKENIZER_METHODS if not callable(_part(tokenizer, method))]
    if missing:
        return f"a {name} whose tokenizer, a {type(tokenizer).__name__}, lacks {' and '.join(missing)}"
    return None


TOKENIZER_METHODS = ("__call__", "convert_tokens_to_ids", "convert_ids_to_tokens")
"""What is asked of a tokenizer, those of transformers have them all."""


def _part(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # a property of the user's own that raises
        return None


def _load_image_only(name_or_path: str | Path) -> Any:
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    family = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(name_or_path))]
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    settings, _ = family.get_processor_dict(name_or_path)
    settings.setdefault("chat_template", tokenizer.chat_template)
    return image_only(family, AutoImageProcessor.from_pretrained(name_or_path), tokenizer, settings)


class _Absent:
    """Stands where a processor expects its video part, and answers what is asked of it when no video is passed."""

    _auto_class = None
    model_input_names: tuple[str, ...] = ()
    num_frames = fps = None


def image_only(family: Any, image_processor: Any, tokenizer: Any, settings: Mapping[str, Any]) -> Any:
    """A processor without the parts that are neither for images nor for text; it can be used, saved and pickled as any other.

    Args:
        family: A processor class of transformers.
        image_processor: Its image part.
        tokenizer: Its text part.
        settings: Further arguments of the class by name, and what to save of the missing parts.
    """
    parts = {"image_processor": image_processor, "tokenizer": tokenizer}
    names = family.get_attributes()
    missing = [name for name in names if name not in parts]

    class ImageOnly(family):
        def check_argument_for_proper_class(self, name: str, argument: object) -> object:
            return object if name in missing else super().check_argument_for_proper_class(name, argument)

        def to_dict(self) -> dict[str, Any]:
            saved = {name: value for name, value in super().to_dict().items() if name not in missing}
            return {**saved, **{name: settings[name] for name in missing if name in settings}}

        def __reduce__(self) -> tuple[Any, ...]:
            # The class exists in this function only: what is pickled is how to make it anew.
            return image_only, (family, image_processor, tokenizer, dict(settings)), self.__dict__

    ImageOnly.__name__ = ImageOnly.__qualname__ = family.__name__
    return ImageOnly.from_args_and_dict([parts.get(name, _Absent()) for name in names], dict(settings))


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
