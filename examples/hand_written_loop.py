"""RadarEvaluator in a training loop of one's own: no Lightning, no Trainer.

Run it from a source checkout: `.venv/bin/python examples/hand_written_loop.py`. It takes about a minute on two cores.
"""

from pathlib import Path
from tempfile import mkdtemp

import torch

from radar_callback import RadarEvaluator
from radar_callback.demo.data import ScenesDataModule, captions_only
from radar_callback.demo.model import build_model, build_processor, train_tokenizer
from radar_callback.history import History
from radar_callback.reporting.terminal import print_result, summary_line

STEPS, EVERY = 200, 100

processor = build_processor(train_tokenizer(captions_only(seed=0)))
model = build_model(processor.tokenizer)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

radar = RadarEvaluator(model, processor, "radar-mini", items_per_ability=16)
history = History(Path(mkdtemp()) / "radar_history.jsonl")
history.append(radar.evaluate(step=0).to_record())

model.train()
for step, batch in enumerate(ScenesDataModule(processor, STEPS, batch_size=32).train_dataloader(), start=1):
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % EVERY == 0:
        result = radar.evaluate(step)  # the model is in train mode again afterwards, every random stream where it was
        history.append(result.to_record())
        print(summary_line(result))

print_result(result, history.records)
print(f"History: {history.path}")
