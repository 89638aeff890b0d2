"""The paper's mathematics (docs/method.md A): tensors in, tensors out, no files."""
