"""Checks of the paper's two theorems on tensors (docs/method.md E)."""
