"""apo: train language models on scored text with any method on any task, and compare them fairly."""

__version__ = "0.1.0"
