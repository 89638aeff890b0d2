"""A trace as a tree, as a Mermaid diagram, and as a page."""

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pistole.lineage.trace import Trace

WIDTH = 120
SHORT = 12
TEMPLATES = Path(__file__).parent / "templates"


def tree(found: Trace) -> str:
    """Draw a trace as a tree; a stage that several others read is written out once.

    Args:
        found: the trace.

    Returns:
        Lines of text.
    """
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    value = "" if found.number is None else f" = {found.number:g}"
    top = Tree(Text(f"{found.target}{value}"))
    seen: set[str] = set()

    def add(parent: Tree, name: str, through: str) -> None:
        label = f"{through} <- {name}" if through else name
        if name in seen:
            parent.add(Text(f"{label} (above)"))
            return
        seen.add(name)
        stage = found.stages[name]
        node = parent.add(Text("\n".join([label, *facts(stage)])))
        for row in stage["inputs"]:
            for above in row["from"]:
                add(node, above, f"{row['path']} {row['md5'][:SHORT]}")
        for line in sources(stage):
            node.add(Text(line))

    for name in found.first:
        add(top, name, "")
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, highlight=False).print(top)
    return "".join([stream.getvalue(), *(f"note: {note}\n" for note in found.notes)])


def facts(stage: Mapping[str, Any]) -> list[str]:
    """Say how a stage was run.

    Args:
        stage: one of :attr:`Trace.stages`.

    Returns:
        Lines.
    """
    params = [f"{k}={v}" for values in stage["params"].values() for k, v in values.items()]
    lines = [f"$ {' && '.join(stage['cmd'])}"]
    lines += [f"params: {', '.join(params)}"] if params else []
    if stage["environment"] is None:
        return [*lines, "no receipt: not run here, or taken as it is"]
    code, environment = stage["code"], stage["environment"]
    dirty = f" DIRTY ({', '.join(code['changed'])})" if code["changed"] else ""
    versions = environment["versions"]
    ran = [f"{name} {versions[name]}" for name in ("pistole", "torch", "numpy") if name in versions]
    lock = (environment["lock_sha256"] or "none")[:SHORT]
    slurm = f", Slurm job {stage['slurm_job']}" if stage["slurm_job"] else ""
    return [
        *lines,
        f"run {stage['run_id'] or 'none'}, commit {(code['commit'] or 'none')[:SHORT]}{dirty}",
        f"lock {lock}, python {environment['python']}, {', '.join(ran)}",
        f"{_when(stage['started'])}, {stage['seconds']:g} s, {stage['user'] or 'unknown'} on "
        f"{stage['host']}, {environment['device']} ({environment['device_name']}){slurm}",
    ]


def sources(stage: Mapping[str, Any]) -> list[str]:
    """List the inputs that no stage writes; the code, which the commit names too, on one line.

    Args:
        stage: one of :attr:`Trace.stages`.

    Returns:
        Lines.
    """
    own = [row for row in stage["inputs"] if not row["from"]]
    code = [row["path"] for row in own if row["path"].endswith(".py")]
    lines = [f"{row['path']} {row['md5'][:SHORT]}" for row in own if row["path"] not in code]
    return lines + ([f"code: {', '.join(code)}"] if code else [])


def mermaid(found: Trace) -> str:
    """Draw a trace as a Mermaid flowchart from the sources down.

    Args:
        found: the trace.

    Returns:
        The diagram's text.
    """
    numbers = {name: f"s{number}" for number, name in enumerate(found.stages)}
    lines = ["flowchart TD"]
    files: dict[str, str] = {}
    for name, stage in found.stages.items():
        lines.append(f'  {numbers[name]}["{name}"]')
        for row in stage["inputs"]:
            label, here = f'"{row["path"]}<br/>{row["md5"][:SHORT]}"', numbers[name]
            lines += [f"  {numbers[above]} -->|{label}| {here}" for above in row["from"]]
            if not row["from"] and not row["path"].endswith(".py"):
                key = files.setdefault(f"{row['path']} {row['md5']}", f"f{len(files)}")
                lines.append(f"  {key}[/{label}/] --> {here}")
    lines.append(f'  target(["{found.target}"])')
    lines += [f"  {numbers[name]} --> target" for name in found.first]
    return "\n".join(lines) + "\n"


def page(found: Trace) -> str:
    """Write a trace as one page without scripts or other files; each stage folds.

    Args:
        found: the trace.

    Returns:
        HTML.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("trace.html")
    return template.render(trace=found, facts=facts, diagram=mermaid(found))


def _when(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00") + " UTC"
