"""A small but real pre-training: captions of drawn circles, next-token loss, dropout, a frozen part, shuffled workers."""

from __future__ import annotations

import io
import os
import random

import torch
from lightning.pytorch import LightningModule, seed_everything
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.helpers import tiny


def as_rank(rank: int, world: int, port: int) -> None:
    """Makes this process one of several that a Trainer finds already running, as torchrun would."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)
    seed_everything(2, verbose=False)


class Captions(Dataset):
    def __init__(self, n: int = 32):
        rng = random.Random(7)
        processor = tiny.llava_processor()
        self.rows = []
        for _ in range(n):
            image = Image.open(io.BytesIO(tiny.picture(rng))).convert("RGB")
            text = f"<image>The circle is {rng.choice(tiny.COLOURS)} on the left."
            self.rows.append(
                {k: v[0] for k, v in processor(text=[text], images=[image], return_tensors="pt", padding="max_length",
                                               max_length=48).items()}
            )  # fmt: skip

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        # A random augmentation, so that the workers' random streams matter.
        row = dict(self.rows[index])
        row["pixel_values"] = row["pixel_values"] + 0.01 * torch.randn_like(row["pixel_values"])
        return row


class PreTraining(LightningModule):
    def __init__(self, workers: int = 0, optimizers: int = 1, checkpointing: bool = False, fail_at: int | None = None):
        super().__init__()
        self.model = tiny.llava(dropout=0.1, scale=1.0)
        self.model.model.vision_tower.requires_grad_(False).eval()
        if checkpointing:
            self.model.gradient_checkpointing_enable()
        self.norm = nn.BatchNorm1d(48)  # has buffers that a forward in train mode would move
        self.noise = nn.Dropout(0.2)
        self.processor = tiny.llava_processor()
        self.losses: list[float] = []
        self.workers, self.n_optimizers, self.fail_at = workers, optimizers, fail_at
        self.automatic_optimization = optimizers == 1

    def training_step(self, batch, index):
        if self.fail_at is not None and self.global_step == self.fail_at:
            raise RuntimeError("power cut")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        output = self.model(**batch, labels=labels)
        hidden = self.noise(self.norm(output.logits[..., :48].mean(1)))
        loss = output.loss + 0.01 * hidden.square().mean()
        self.losses.append(loss.item())
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
        return loss

    def train_dataloader(self):
        return DataLoader(Captions(), batch_size=4, shuffle=True, num_workers=self.workers)

    def configure_optimizers(self):
        parts = [p for p in self.parameters() if p.requires_grad]
        if self.n_optimizers == 1:
            return torch.optim.AdamW(parts, lr=1e-3)
        return [torch.optim.AdamW(parts[k :: self.n_optimizers], lr=1e-3) for k in range(self.n_optimizers)]
