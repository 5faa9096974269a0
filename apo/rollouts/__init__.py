"""Text from a model: sampling here; experience and judges join it with the methods that learn from own samples."""
