"""The demo's run, a few steps of it: everything promised is written, and the loss falls."""

import json

import pytest

from radar_callback import demo
from radar_callback.benchmark.locate import builtin_folder


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    if builtin_folder("radar-mini") is None:
        pytest.skip("the shards of radar-mini are not built")
    out = tmp_path_factory.mktemp("demo")
    return demo.run(out, steps=12, items_per_ability=2, evaluations=2, workers=0, progress=False)


def test_the_history_has_a_point_before_during_and_after(paths):
    records = [json.loads(line) for line in paths.history.read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 6, 12]
    assert all(record["coverage"] == 1.0 and len(record["abilities"]) == 18 for record in records)


def test_the_checkpoint_loads_again(paths):
    from transformers import LlavaForConditionalGeneration

    assert LlavaForConditionalGeneration.from_pretrained(paths.checkpoint).num_parameters() > 5e5
    assert (paths.checkpoint / "tokenizer.json").is_file()


def test_scalars_are_in_the_csv_file_and_the_loss_falls(paths):
    (file,) = paths.out.glob("csv/**/metrics.csv")
    header, *rows = file.read_text().splitlines()
    column = header.split(",").index("train/loss")
    losses = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    assert "radar/sds/colour" in header
    assert losses[-1] < 6.0


def test_wandb_wrote_its_run(paths):
    pytest.importorskip("wandb")
    assert paths.wandb is not None
    assert list(paths.wandb.glob("offline-run-*"))
