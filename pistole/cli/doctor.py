"""The command that looks whether a run can start here."""

import json

import typer

from pistole.cli.common import HERE, AsJson, Project, app


@app.command()
def doctor(project: Project = HERE, as_json: AsJson = False) -> None:
    """Check environment, machine, data, weights, locks, git and store; exit status 0 or 1."""
    from pistole.doctor import diagnose
    from pistole.doctor.finding import lines

    found = diagnose(project)
    if as_json:
        typer.echo(json.dumps(found.plain(), indent=2))
    else:
        typer.echo("\n".join(lines(found.findings)))
        typer.echo("a run can start" if found.ok else "a run would not succeed: see the remedies")
    raise typer.Exit(0 if found.ok else 1)
