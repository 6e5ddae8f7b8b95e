"""Finding in a LightningModule what `RadarCallback()` was not told: the model, its processor, the run's log folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fsspec.utils import get_protocol
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from radar_callback.errors import ConfigError
from radar_callback.ranks import Replica
from radar_callback.scoring.processor import load_processor


def find_model(pl_module: LightningModule, chosen: nn.Module | str | None = None) -> nn.Module:
    """The one Hugging Face image-text-to-text model inside a LightningModule.

    Args:
        pl_module: What is being trained.
        chosen: The model itself, or its attribute path such as `"student.vlm"`, where the user said so.

    Raises:
        ConfigError: If there is none or more than one, or the attribute does not exist.
    """
    if isinstance(chosen, nn.Module):
        return chosen
    if isinstance(chosen, str):
        try:
            return pl_module.get_submodule(chosen)
        except AttributeError as error:
            raise ConfigError(
                f"Expected model={chosen!r} to be a module in {type(pl_module).__name__}: {error}."
            ) from error
    found: dict[str, nn.Module] = {}
    for name, module in pl_module.named_modules():
        if _sees_images(module) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    distinct = list({id(module): module for module in found.values()}.values())
    if len(distinct) == 1:
        return distinct[0]
    if not distinct:
        raise ConfigError(
            f"Found no Hugging Face image-text-to-text model in {type(pl_module).__name__}: pass RadarCallback(model=…), the "
            "module or its attribute path."
        )
    raise ConfigError(
        f"Found {len(distinct)} image-text-to-text models in {type(pl_module).__name__} ({', '.join(found)}): pass "
        f"RadarCallback(model={next(iter(found))!r}) or another of them."
    )


def _sees_images(module: nn.Module) -> bool:
    """Whether a module is a whole image-text-to-text model, head included."""
    from transformers import PreTrainedModel

    return (
        isinstance(module, PreTrainedModel)
        and module.get_output_embeddings() is not None
        and (hasattr(module.config, "vision_config") or hasattr(module, "get_image_features"))
    )


def find_processor(trainer: Trainer, pl_module: LightningModule, model: nn.Module, chosen: Any = None) -> Any:
    """The processor that belongs to the model.

    Looked for in this order: what the user passed, `pl_module.processor`, the datamodule's `processor`, the folder or hub name
    that the model was loaded from.

    Raises:
        ConfigError: If there is none.
    """
    datamodule = getattr(trainer, "datamodule", None)
    for owner in (chosen, getattr(pl_module, "processor", None), getattr(datamodule, "processor", None)):
        if owner is not None:
            return load_processor(owner) if isinstance(owner, str | Path) else owner
    origin = getattr(model, "name_or_path", "") or getattr(getattr(model, "config", None), "name_or_path", "")
    if not origin:
        raise ConfigError(
            "Found no processor: pass RadarCallback(processor=…), or set `processor` on the LightningModule or the "
            "datamodule (the model was not loaded from a checkpoint that has one)."
        )
    try:
        return load_processor(origin)
    except ConfigError as error:
        raise ConfigError(f"{error}, to RadarCallback, or set `processor` on the LightningModule.") from error


def log_folder(trainer: Trainer) -> Path:
    """The folder that belongs to this run alone, the same on every rank.

    The first logger's `log_dir` where it has one; for loggers that only name a place for all runs (W&B's `save_dir`) the folder
    below it that checkpoints go to as well: project, then run. Without loggers, the trainer's `default_root_dir`. For a remote
    one a local folder below `radar_runs` in the working directory.
    """
    folder = trainer.default_root_dir
    for logger in trainer.loggers[:1]:
        if getattr(logger, "log_dir", None):
            folder = str(logger.log_dir)
        elif logger.save_dir:
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            base = str(logger.save_dir).rstrip("/")
            folder = (
                "/".join([base, str(logger.name), version])
                if _is_remote(base)
                else str(Path(base, str(logger.name), version))
            )
    folder = str(trainer.strategy.broadcast(str(folder)))
    if folder.startswith("file://"):
        return Path(folder.removeprefix("file://"))
    return _local_folder(folder) if _is_remote(folder) else Path(folder)


def _is_remote(folder: str) -> bool:
    return get_protocol(folder) not in ("file", "local")


def _local_folder(url: str) -> Path:
    """Where the history of a run goes whose own folder is remote: a file that grows cannot be kept there."""
    scheme, _, rest = url.rpartition("://")
    place = rest.partition("?")[0].rpartition("@")[2]
    parts = [re.sub(r"[^\w.=-]+", "_", part) for part in (scheme, *place.split("/")) if part not in ("", ".", "..")]
    return Path("radar_runs", *parts).absolute()


def replica_of(strategy: Any) -> Replica | None:
    """Of which replica of the model this rank is a part, where Lightning spreads one over several ranks.

    Args:
        strategy: The Trainer's.
    """
    mesh = getattr(strategy, "_device_mesh", None)
    if mesh is None or not {"data_parallel", "tensor_parallel"} <= set(mesh.mesh_dim_names or ()):
        return None
    data, tensor = mesh["data_parallel"], mesh["tensor_parallel"]
    return Replica(data.get_local_rank(), data.size(), speaks=tensor.get_local_rank() == 0)
