"""The command line: every node of dvc.yaml is one of these commands, with explicit paths."""

from pistole.cli.common import app

# Importing a module registers its commands; --help lists them in this order.
# isort: off
from pistole.cli import project, data, sources, merging, planning, lineage, cluster
# isort: on

__all__ = ["app", "cluster", "data", "lineage", "merging", "planning", "project", "sources"]
