"""The stages of the DAG: one module each, a recipe to be read from top to bottom."""
