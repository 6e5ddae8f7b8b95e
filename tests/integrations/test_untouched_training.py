"""Training with the callback is training without it, bit for bit."""

import copy
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

from radar_callback import RadarCallback, untouched
from radar_callback.scoring.reading import Reading
from tests.helpers import tiny
from tests.helpers.training import Captions, PreTraining


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=8)


def train(tmp_path, callbacks, trainer_options=None, **module_options) -> dict:
    """Everything that a run leaves behind."""
    seed_everything(11, verbose=False)
    module = PreTraining(**module_options)
    trainer = Trainer(
        max_steps=10, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, accelerator="cpu", devices=1, **(trainer_options or {}),
    )  # fmt: skip
    trainer.fit(module)
    return {
        "losses": module.losses,
        "weights": {k: v.clone() for k, v in module.state_dict().items()},
        "flags": [m.training for m in module.modules()],
        "optimizers": [o.state_dict() for o in trainer.optimizers],
        "streams": (random.random(), np.random.rand(), torch.rand(3).tolist()),
    }


def assert_identical(a: dict, b: dict) -> None:
    assert a["losses"] == b["losses"]
    for name, value in a["weights"].items():
        assert torch.equal(value, b["weights"][name]), name
    assert a["flags"] == b["flags"]
    torch.testing.assert_close(a["optimizers"], b["optimizers"], rtol=0, atol=0)
    assert a["streams"] == b["streams"]


CASES = {
    "plain": ({}, {}),
    "shuffled workers": ({"workers": 2}, {}),
    "accumulation": ({}, {"accumulate_grad_batches": 3}),
    "gradient checkpointing": ({"checkpointing": True}, {}),
    "two optimizers": ({"optimizers": 2}, {}),
    "bf16-mixed": ({}, {"precision": "bf16-mixed"}),
    "bf16-true": ({}, {"precision": "bf16-true"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_with_the_callback_is_the_run_without_it(case, folder, tmp_path):
    module_options, trainer_options = CASES[case]
    callback = RadarCallback(folder, every_n_steps=2)
    alone = train(tmp_path, [], trainer_options, **module_options)
    watched = train(tmp_path, [callback], trainer_options, **module_options)
    assert callback.errors == 0
    assert len(callback.records) >= 5
    assert_identical(alone, watched)


def test_a_run_whose_evaluations_fail_half_way_is_the_run_without_them(folder, tmp_path):
    class Breaking(RadarCallback):
        def on_fit_start(self, trainer, pl_module):
            super().on_fit_start(trainer, pl_module)
            whole, calls = self._evaluator.evaluate, []

            def breaks(step, **settings):
                def stop(done, total):
                    torch.rand(1), random.random()
                    reached.append((done, total))

                calls.append(step)
                half_way = lambda: len(reached) == 2 * len(calls)  # noqa: E731
                return whole(step, **{**settings, "progress": stop, "cancelled": half_way})

            self._evaluator.evaluate = breaks

    reached = []
    callback = Breaking(folder, every_n_steps=2, batch_tokens=100)
    assert_identical(train(tmp_path, []), train(tmp_path, [callback]))
    assert callback.errors == 6 and callback.records == []
    assert [done for done, _ in reached] == 6 * [1, 2] and all(total > 2 for _, total in reached), "half way, each time"


@pytest.mark.parametrize("part", ["random streams", "train flags"])
def test_these_tests_would_notice(part, folder, tmp_path, monkeypatch):
    """What restores a part is taken out; the comparison above must then fail."""
    if part == "random streams":
        monkeypatch.setattr(untouched, "_random_streams", nullcontext)
        # Evaluations draw no random number of their own today; a tokeniser, a loader or a custom model might.
        monkeypatch.setattr("radar_callback.scoring.reading.Reading.means", _drawing_first())
    else:
        monkeypatch.setattr("radar_callback.evaluator.untouched", _only_eval)
    callback = RadarCallback(folder, every_n_steps=2)
    alone, watched = train(tmp_path, []), train(tmp_path, [callback])
    assert callback.errors == 0
    with pytest.raises(AssertionError):
        assert_identical(alone, watched)


def _drawing_first():
    means = Reading.means

    def draws(self, logits):
        torch.rand(1)
        return means(self, logits)

    return draws


def _only_eval(model):
    model.eval()
    return torch.no_grad()


def test_a_scorer_that_draws_does_not_disturb_training(folder, tmp_path, monkeypatch):
    alone = train(tmp_path, [])
    monkeypatch.setattr("radar_callback.scoring.reading.Reading.means", _drawing_first())
    assert_identical(alone, train(tmp_path, [RadarCallback(folder, every_n_steps=2)]))


def odd(kind):
    """A run whose model is hard to leave alone."""

    class Odd(PreTraining):
        def __init__(self):
            super().__init__()
            if kind == "positions that grow":
                config = copy.deepcopy(self.model.config)
                config.text_config.max_position_embeddings = 60  # longer than items, shorter than what is trained on
                config.text_config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
                self.model = type(self.model)(config)
            if kind == "validated before":
                self.model.register_forward_pre_hook(self._keep, with_kwargs=True)
            if kind == "opaque weights":
                for layer in self.model.model.vision_tower.modules():
                    if isinstance(layer, torch.nn.Linear):
                        layer.weight = torch.nn.Parameter(Packed.pack(layer.weight), requires_grad=False)
            if kind == "tower from inference":
                with torch.inference_mode():
                    tower = copy.deepcopy(self.model.model.vision_tower)
                    for module in tower.modules():
                        for name, parameter in list(module._parameters.items()):
                            if parameter is not None:
                                module._parameters[name] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
                self.model.model.vision_tower = tower

        def _keep(self, module, args, kwargs):
            """As modules do that make a table when they are first called: in `validate`, in inference mode."""
            if not hasattr(module, "table"):
                module.register_buffer("table", torch.ones(3), persistent=False)

        def training_step(self, batch, index):
            if kind == "positions that grow":
                more = (0, 16 + 16 * (index % 2))
                ids = torch.nn.functional.pad(batch["input_ids"], more, value=self.processor.tokenizer.pad_token_id)
                batch = {**batch, "input_ids": ids}
                batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], more)
            return super().training_step(batch, index)

        def validation_step(self, batch, index):
            self.model(**batch)

        def val_dataloader(self):
            return DataLoader(Captions(4), batch_size=4)

    return Odd()


class Packed(torch.Tensor):
    """8 bits and a scale a row, as quantised weights are; it knows only what a frozen linear layer needs."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    @classmethod
    def pack(cls, weight):
        scale = weight.detach().abs().amax(1, keepdim=True) / 127
        return cls((weight.detach() / scale).round().to(torch.int8), scale)

    def __repr__(self):
        return "Packed"

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if op in (aten.detach.default, aten.alias.default):
            return cls(args[0].codes, args[0].scale)
        if op in (aten.t.default, aten.mm.default, aten.addmm.default, aten.linear.default):
            return op(*(a.codes * a.scale if isinstance(a, cls) else a for a in args), **(kwargs or {}))
        raise NotImplementedError(f"Packed does not know {op}")


@pytest.mark.parametrize("kind", ["positions that grow", "validated before", "opaque weights", "tower from inference"])
def test_models_that_are_hard_to_leave_alone(kind, folder, tmp_path):
    runs = []
    callback = RadarCallback(folder, every_n_steps=2)
    for callbacks in ([], [callback]):
        seed_everything(11, verbose=False)
        module = odd(kind)
        trainer = Trainer(
            max_steps=6, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, accelerator="cpu", devices=1, num_sanity_val_steps=0,
        )  # fmt: skip
        if kind == "validated before":
            trainer.validate(module, verbose=False)
            assert module.model.table.is_inference()
        trainer.fit(module)
        runs.append((module.losses, [p.tolist() for p in module.parameters() if p.requires_grad]))
    assert runs[0] == runs[1] and len(runs[0][0]) == 6
    assert callback.errors == 0 and [record["step"] for record in callback.records] == [0, 2, 4, 6]
    assert callback.records[-1]["moved"]["language_model"] > 0
