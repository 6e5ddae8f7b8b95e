"""`radar-callback demo`, a few steps of it: what it promises to leave is there, and it says where."""

from PIL import Image

from radar_callback.cli import main
from radar_callback.history import read_history


def test_everything_it_names_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert main(["demo", "--out", "run", "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    for name in ("curves.png", "radar.png"):
        assert Image.open(tmp_path / "run" / name).width >= 800
        assert f"run/{name}" in shown
    (history,) = (tmp_path / "run").rglob("radar_history.jsonl")
    assert [record["step"] for record in read_history(history)] == [0, 1, 2]
    assert str(history.relative_to(tmp_path)) in shown
    assert "3 evaluations of 1,152 items" in shown
    assert "<h2>Emergence</h2>" in (tmp_path / "run" / "report.html").read_text() and "run/report.html" in shown
    for ability in ("colour", "clock_reading"):
        assert ability in shown.replace(" ", "_")
