"""Merging methods to compare with, behind one signature (docs/method.md C)."""
