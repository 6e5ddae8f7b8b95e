"""Made-up histories: abilities that rise along given curves, with noise like that of real runs."""

import numpy as np

ABILITIES = ("colour", "shape", "size", "object", "count", "maths")


def rising(height, at, width=1.5):
    return lambda t: 0.25 + height / (1 + np.exp(-(t - at) / width))


CURVES = {
    "colour": rising(0.65, 3),
    "shape": rising(0.6, 7),
    "size": rising(0.7, 2),
    "object": rising(0.65, 5),
    "count": rising(0.1, 14, 2),
    "maths": lambda t: 0.25 + 0 * t,
}


def history(evaluations=20, curves=CURVES, seed=0, change=None, every=100, jitter=0.004, moved=None, gain=None):
    """`change(name, t, value)` may alter a value; `moved(part, t)` and `gain(t)` give what the model did."""
    rng = np.random.default_rng(seed)
    records = []
    for t in range(evaluations):
        abilities, changes = {}, {}
        for name, curve in curves.items():
            value = float(curve(np.float64(t)))
            value = change(name, t, value) if change else value
            group = "reasoning" if name in ("maths", "count") else "perception"
            noisy = float(np.clip(value + jitter * rng.standard_normal(), 0, 1))
            abilities[name] = {"group": group, "sds": noisy, "se": 0.02, "chance": 0.25, "count": 64}
            changes[name] = {"sds": 0.0, "se": 0.012}
        groups = {
            group: {"sds": float(np.mean([row["sds"] for row in abilities.values() if row["group"] == group] or [0.5]))}
            for group in ("perception", "reasoning")
        }
        record = {"step": every * t, "benchmark": "made up", "abilities": abilities, "groups": groups}
        record["change"] = {"since": every * (t - 1), "abilities": changes if t else {}}
        if t:
            parts = ("vision_tower", "projector", "language_model")
            record["moved"] = {part: moved(part, t) if moved else 0.1 for part in parts}
        record["image_gain"] = {"overall": {"sds": gain(t) if gain else 0.02 * t, "se": 0.01, "count": 100}}
        records.append(record)
    return records
