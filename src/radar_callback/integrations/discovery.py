"""Finding in a LightningModule what `RadarCallback()` was not told: the model, its processor, the run's log folder."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from fsspec.utils import get_protocol
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from radar_callback.errors import ConfigError
from radar_callback.evaluator import ADAPTER_HINT, missing_inputs
from radar_callback.ranks import Replica
from radar_callback.scoring.encode import one_line
from radar_callback.scoring.processor import load_processor, not_a_processor, usable_processor

log = logging.getLogger(__name__)


def find_model(pl_module: LightningModule, chosen: nn.Module | str | None = None) -> nn.Module:
    """The one Hugging Face image-text-to-text model inside a LightningModule.

    Args:
        pl_module: What is being trained.
        chosen: The model itself, or its attribute path such as `"student.vlm"`, where the user said so. Of a LightningModule
            that is no model itself, the one inside it.

    Raises:
        ConfigError: If there is none or more than one, the attribute does not exist, or `chosen` is no module.
    """
    if isinstance(chosen, LightningModule) and not _is_a_model(chosen):
        return find_model(chosen)
    if isinstance(chosen, nn.Module):
        return chosen
    if chosen is not None and not isinstance(chosen, str):
        raise ConfigError(
            f"Expected model=… to be a torch module or its attribute path in {type(pl_module).__name__}, but got a "
            f"{type(chosen).__name__}: pass the model as model=… and its processor as processor=…."
        )
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
            f"module or its attribute path; {ADAPTER_HINT}."
        )
    raise ConfigError(
        f"Found {len(distinct)} image-text-to-text models in {type(pl_module).__name__} ({', '.join(found)}): pass "
        f"RadarCallback(model={next(iter(found))!r}) or another of them."
    )


def _is_a_model(module: LightningModule) -> bool:
    """Whether a LightningModule can be called as a model of transformers is, rather than holding one."""
    own_forward = type(module).forward is not LightningModule.forward
    return own_forward and not missing_inputs(module) and getattr(module, "config", None) is not None


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

    What the user passed, or else the first that is one of: `processor` of the LightningModule, of whatever in it holds the model,
    of the model, of the datamodule, and what lies in the folder or hub name that the model was loaded from. An attribute that is
    something else (an image processor, a collate function) or that raises is passed over.

    Raises:
        ConfigError: If there is none; or if what the user passed is something else.
    """
    if chosen is not None:
        return usable_processor(chosen, "RadarCallback(processor=…)")
    passed_over: list[str] = []
    for owner in _owners(trainer, pl_module, model):
        where = f"{type(owner).__name__}.processor"
        try:
            # A property that raises AttributeError would look like none at all to `getattr` with a default.
            found = owner.processor if hasattr(type(owner), "processor") else getattr(owner, "processor", None)
            found = load_processor(found) if isinstance(found, str | Path) else found
        except Exception as error:  # a property of the user's own, or a folder without a processor
            passed_over.append(f"{where} raised {one_line(error)}")
            continue
        if found is None:
            continue
        wrong = not_a_processor(found)
        if wrong is None:
            _say(passed_over, where)
            return found
        passed_over.append(f"{where} is {wrong}")
    origin = getattr(model, "name_or_path", "") or getattr(getattr(model, "config", None), "name_or_path", "")
    seen = f" ({'; '.join(passed_over)})" if passed_over else ""
    if not origin:
        raise ConfigError(
            f"Found no processor{seen}: pass RadarCallback(processor=…), or set `processor` on the LightningModule or the "
            "datamodule (the model was not loaded from a checkpoint that has one)."
        )
    try:
        processor = load_processor(origin)
    except ConfigError as error:
        raise ConfigError(f"{error}, to RadarCallback, or set `processor` on the LightningModule{seen}.") from error
    _say(passed_over, f"what is saved in {origin}")
    return processor


def _say(passed_over: list[str], used: str) -> None:
    if passed_over:
        log.warning("Using %s as the model's processor, since %s.", used, "; ".join(passed_over))


def _owners(trainer: Trainer, pl_module: LightningModule, model: nn.Module) -> list[Any]:
    """What may have the model's processor as an attribute: the modules from the outermost to the model, and the datamodule."""
    paths = [name for name, module in pl_module.named_modules() if module is model]
    steps = paths[0].split(".") if paths and paths[0] else []
    owners: list[Any] = [pl_module.get_submodule(".".join(steps[:depth])) for depth in range(len(steps) + 1)]
    owners += [model, getattr(trainer, "datamodule", None)]
    return [owner for owner in {id(owner): owner for owner in owners}.values() if owner is not None]


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
