"""How --help shows the commands: their panels and order, and one example of each."""

import typer

from pistole.cli.running import Command

STAGES = "Stages, in the DAG's order"
TOOLS = "Tools"
MAINTENANCE = "Upkeep"

PANELS: dict[str, tuple[str, ...]] = {
    STAGES: (
        *("params", "pretrain", "data", "base", "finetune", "vectors", "stability", "masks"),
        *("prepare", "select", "merge", "evaluate", "transfer", "frontier", "theory", "gallery"),
        "report",
    ),
    TOOLS: (
        *("profile", "plan", "doctor", "show", "times", "audit", "trace", "diff"),
        *("crate", "statement", "card", "track"),
    ),
    MAINTENANCE: ("commit", "prune", "schema"),
}

# Each works as printed once its inputs are there; tests/e2e/test_whole_dag.py runs them.
EXAMPLES: dict[str, str] = {
    "params": "pistole params --explain",
    "pretrain": "pistole pretrain --seed 1 --out other.safetensors",
    "data list": "pistole data list --suite paper",
    "data check": "pistole data check birds --layout folder --root my-data/birds",
    "data index": "pistole data index clutter",
    "base": "pistole base",
    "finetune": "pistole finetune robust",
    "vectors": "pistole vectors robust",
    "stability": "pistole stability robust",
    "masks": "pistole masks",
    "prepare": "pistole prepare fisher",
    "select": "pistole select",
    "merge": "pistole merge pistole --lambda 0.2",
    "evaluate": "pistole evaluate pistole --model artifacts/merged/pistole",
    "transfer": "pistole transfer",
    "frontier": "pistole frontier pistole",
    "theory": "pistole theory interference",
    "gallery": "pistole gallery",
    "report": "pistole report",
    "profile list": "pistole profile list",
    "profile use": "pistole profile use demo",
    "plan": "pistole plan --profile imagenet-vitl14 --device-rate h100",
    "doctor": "pistole doctor --json",
    "show": "pistole show",
    "times": "pistole times",
    "audit": "pistole audit --allow dirty",
    "trace": "pistole trace models.pistole.sum",
    "diff": "pistole diff HEAD",
    "crate": "pistole crate my-crate --license MIT",
    "statement make": "pistole statement make report/metrics.json --out stated.json",
    "statement verify": "pistole statement verify stated.json",
    "card": "pistole card pistole --out MODEL_CARD.md",
    "track": "pistole track",
    "commit": "pistole commit --track",
    "prune": "pistole prune",
    "schema": "pistole schema --check",
}


class Ordered(typer.core.TyperGroup):
    """The commands in the order of the panels; one that no panel names comes last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """List the commands' names.

        Args:
            ctx: of the application.

        Returns:
            The names.
        """
        order = [name for names in PANELS.values() for name in names]
        last = len(order)
        return sorted(self.commands, key=lambda n: order.index(n) if n in order else last)


def arrange(app: typer.Typer, prefix: str = "") -> None:
    """Give every command its panel and its example.

    Args:
        app: with all its commands.
        prefix: what stands before their names.
    """
    panel_of = {name: panel for panel, names in PANELS.items() for name in names}
    for info in app.registered_commands:
        name = info.name or info.callback.__name__.replace("_", "-")
        info.cls = Command
        info.rich_help_panel = panel_of.get(f"{prefix}{name}")
        info.epilog = _shown(EXAMPLES.get(f"{prefix}{name}"))
    for group in app.registered_groups:
        group.rich_help_panel = panel_of.get(group.name)
        inside = (text for name, text in EXAMPLES.items() if name.startswith(f"{group.name} "))
        group.epilog = _shown(next(inside, None))
        arrange(group.typer_instance, f"{group.name} ")


def _shown(example: str | None) -> str | None:
    return f"Example: [bold]{example}[/bold]" if example else None
