"""What one sees of a run: curves, radar chart, terminal table, and what goes to the loggers. Import from the modules."""
