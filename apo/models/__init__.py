"""The policy and what methods need beside it: loading, heads, and log-probabilities computed in one place."""
