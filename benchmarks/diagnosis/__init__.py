"""The study that decides whether the diagnosis is real: healthy runs, runs with a planted fault, simulated curves."""
