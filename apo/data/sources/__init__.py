"""Where documents come from: one module per source, found by its registered name."""
