"""The command line: every node of dvc.yaml is one of these commands, with explicit paths."""

from pistole.cli import cluster, data, doctor, lineage, merging, planning, project, sources
from pistole.cli.common import app
from pistole.cli.layout import arrange

arrange(app)

__all__ = [
    "app",
    "cluster",
    "data",
    "doctor",
    "lineage",
    "merging",
    "planning",
    "project",
    "sources",
]
