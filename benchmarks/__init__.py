"""Measurements that are not part of the DAG; each module's docstring has the command."""
