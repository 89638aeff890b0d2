"""What happened: an action per stage, the workflow's steps, and the tools that ran them."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pistole.lineage.crate.entities import Graph, ref, timestamp
from pistole.lineage.lockfile import Entry
from pistole.lineage.paths import overlapping
from pistole.lineage.store import params_of

COMPLETED = "http://schema.org/CompletedActionStatus"
HOME = "https://openreview.net/forum?id=KOO1cDm2bt"
ENGINE = "urn:pistole:engine"
ENGINES = {"dvc": "https://dvc.org", "snakemake": "https://snakemake.github.io"}
PACKAGES = {  # all others have a package URL (purl)
    "python": "https://www.python.org/downloads/release/python-{version}",
    "envs/runtime.txt": "urn:pistole:lock:{version}",
}
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"


def describe(
    graph: Graph,
    lock: Mapping[str, Entry],
    found: Mapping[str, dict[str, Any]],
    paths: list[str],
) -> None:
    """Add the workflow, its run, and an action per stage.

    Args:
        graph: takes them; it has the files already.
        lock: entries of dvc.lock.
        found: receipts of the stages that have one.
        paths: all inputs and outputs.
    """
    _add_workflow(graph, found)
    controls = []
    for position, (stage, entry) in enumerate(lock.items(), 1):
        _add_stage(graph, stage, entry, found.get(stage))
        tool = graph.add(f"#run/{stage}", "CreateAction", {})["instrument"]
        about = {"name": stage, "position": str(position), "workExample": tool}
        graph.add(f"#step/{stage}", "HowToStep", about)
        about = {"name": f"orchestrate {stage}", "instrument": ref(f"#step/{stage}")}
        about["object"] = ref(f"#run/{stage}")
        graph.add(f"#control/{stage}", "ControlAction", about)
        controls.append(ref(f"#control/{stage}"))
        workflow = graph.of_path("dvc.yaml")
        workflow["step"].append(ref(f"#step/{stage}"))
        if tool not in workflow["hasPart"]:
            workflow["hasPart"].append(tool)
    _add_run(graph, lock, found, paths)
    organised = {"name": "the engine's work", "instrument": ref(ENGINE), "result": ref("#run")}
    graph.add("#organise", "OrganizeAction", {**organised, "object": controls})
    actions = [ref("#run"), *(ref(f"#run/{stage}") for stage in lock)]
    graph.root["mentions"] = actions


def _add_workflow(graph: Graph, found: Mapping[str, dict[str, Any]]) -> None:
    workflow = graph.of_path("dvc.yaml")
    commits = sorted({str(r["code"]["commit"]) for r in found.values() if r["code"]["commit"]})
    workflow |= {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        "programmingLanguage": ref(
            "https://dvc.org/doc/user-guide/project-structure/dvcyaml-files"
        ),
        "conformsTo": ref(BIOSCHEMAS),
        "version": ", ".join(commits) or "not in git",
        "step": [],
        "hasPart": [],
    }
    language = workflow["programmingLanguage"]["@id"]
    graph.add(language, "ComputerLanguage", {"name": "dvc.yaml", "url": ref(language)})
    graph.add(BIOSCHEMAS, "CreativeWork", {"name": "ComputationalWorkflow", "version": "1.0"})
    graph.root["mainEntity"] = ref("dvc.yaml")
    names = sorted({receipt["engine"] for receipt in found.values()}) or ["dvc"]
    versions = [r["environment"]["versions"].get(names[0], "unknown") for r in found.values()]
    about = {"name": ", ".join(names), "softwareVersion": versions[0] if versions else "unknown"}
    graph.add(ENGINE, "SoftwareApplication", {**about, "url": ENGINES.get(names[0], HOME)})


def _add_stage(graph: Graph, stage: str, entry: Entry, receipt: dict[str, Any] | None) -> None:
    inputs = [ref(graph.of_path(path)["@id"]) for path in sorted(entry["deps"])]
    for name, value in params_of(entry).items():
        identity = f"#parameter/{stage}/{name}"
        graph.add(identity, "PropertyValue", {"name": name, "value": value})
        inputs.append(ref(identity))
    about = {
        "name": stage,
        "description": " && ".join(entry["cmd"]),
        "instrument": _tool(graph, receipt),
        "object": inputs,
        "result": [ref(graph.of_path(path)["@id"]) for path in sorted(entry["outs"])],
        "actionStatus": ref(COMPLETED),
    }
    if receipt is not None:
        end = receipt["started"] + 1000 * receipt["seconds"]
        about |= {"startTime": timestamp(receipt["started"]), "endTime": timestamp(end)}
        about["agent"] = _agent(graph, receipt)
        device = receipt["environment"]["device_name"]
        about["description"] += f" (run {receipt['run_id']} on {device})"
    graph.add(f"#run/{stage}", "CreateAction", about)


def _tool(graph: Graph, receipt: dict[str, Any] | None) -> dict[str, str]:
    """Return the software of a stage, one thing per environment that was used."""
    if receipt is None:
        about = {"name": "pistole", "softwareVersion": "unknown", "url": HOME}
        graph.add("urn:pistole:tool:unknown", "SoftwareApplication", about)
        return ref("urn:pistole:tool:unknown")
    environment = receipt["environment"]
    used = {
        **environment["versions"],
        "python": environment["python"],
        "envs/runtime.txt": f"sha256:{environment['lock_sha256']}",
    }
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:12]
    parts = []
    for name, version in sorted(used.items()):
        if name != "pistole":
            identity = PACKAGES.get(name, "pkg:pypi/{name}@{version}")
            identity = identity.format(name=name, version=quote(version))
            about = {"name": name, "softwareVersion": version, "url": identity}
            graph.add(identity, "SoftwareApplication", about)
            parts.append(ref(identity))
    about = {"name": "pistole", "softwareVersion": used["pistole"], "url": HOME}
    graph.add(
        f"urn:pistole:tool:{digest}",
        "SoftwareApplication",
        {**about, "softwareRequirements": parts},
    )
    return ref(f"urn:pistole:tool:{digest}")


def _agent(graph: Graph, receipt: dict[str, Any]) -> dict[str, str]:
    user = receipt.get("user") or "unknown"
    graph.add(f"#user/{user}", "Person", {"name": user})
    return ref(f"#user/{user}")


def _add_run(
    graph: Graph,
    lock: Mapping[str, Entry],
    found: Mapping[str, dict[str, Any]],
    paths: list[str],
) -> None:
    outs = {path for entry in lock.values() for path in entry["outs"]}
    read = {path for entry in lock.values() for path in entry["deps"]}
    about: dict[str, Any] = {
        "name": "the whole run",
        "description": "Every stage of dvc.yaml, as dvc.lock records it",
        "instrument": ref("dvc.yaml"),
        "object": [ref(graph.of_path(p)["@id"]) for p in paths if not overlapping(p, outs)],
        "result": [ref(graph.of_path(p)["@id"]) for p in sorted(outs) if not overlapping(p, read)],
        "actionStatus": ref(COMPLETED),
    }
    # The crate is as old as its last stage: the same results give the same crate.
    end = max((r["started"] + 1000 * r["seconds"] for r in found.values()), default=None)
    if end is not None:
        first = min(receipt["started"] for receipt in found.values())
        last = max(found.values(), key=lambda receipt: receipt["started"])
        about |= {"startTime": timestamp(first), "endTime": timestamp(end)}
        about["agent"] = _agent(graph, last)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    graph.root["datePublished"] = timestamp(end) if end is not None else now
    graph.add("#run", "CreateAction", about)
