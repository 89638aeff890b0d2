"""The embedded world: captioned pictures drawn from a seed, and real handwritten digits."""
