"""Attacks, training under attack, and the evaluation ensemble."""
