"""The whole integration in one line of a Lightning script: `callbacks=[RadarCallback()]`.

Replace model, processor and data by yours. As it stands it trains the demo's small model for a minute on two cores:
`.venv/bin/python examples/pretrain_with_lightning.py`.
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from radar_callback import RadarCallback
from radar_callback.demo.data import ScenesDataModule, captions_only
from radar_callback.demo.model import build_model, build_processor, train_tokenizer

STEPS = 200


class PreTraining(LightningModule):
    def __init__(self):
        super().__init__()
        self.processor = build_processor(train_tokenizer(captions_only(seed=0)))  # where RadarCallback() looks for it
        self.model = build_model(self.processor.tokenizer)  # any Hugging Face image-text-to-text model

    def training_step(self, batch, batch_idx):
        loss = self.model(**batch).loss
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    module = PreTraining()
    trainer = Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=1,
        callbacks=[
            RadarCallback(every_n_steps=50, items_per_ability=16),
            # Ability scores can be monitored like any other metric.
            ModelCheckpoint(monitor="radar/sds/perception", mode="max", every_n_train_steps=50),
        ],
        logger=CSVLogger("radar-example"),
        log_every_n_steps=10,
    )
    trainer.fit(module, ScenesDataModule(module.processor, STEPS, batch_size=32))
    print("Best checkpoint:", trainer.checkpoint_callback.best_model_path)
