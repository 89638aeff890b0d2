"""The things of a crate: files, folders and whatever describes them."""

import mimetypes
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pistole.files import sha256_file

METADATA = "ro-crate-metadata.json"
CRATE = "https://w3id.org/ro/crate/1.1"
WORKFLOW = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    WORKFLOW: ("Workflow RO-Crate", "1.0"),
}
TYPES = {
    ".safetensors": "application/octet-stream",
    ".parquet": "application/vnd.apache.parquet",
    ".yaml": "application/yaml",
    ".md": "text/markdown",
}

Entity = dict[str, Any]


def ref(identity: str) -> dict[str, str]:
    """Refer to a thing.

    Args:
        identity: its id.

    Returns:
        The reference.
    """
    return {"@id": identity}


def timestamp(milliseconds: float) -> str:
    """Write a moment as ISO 8601 in UTC.

    Args:
        milliseconds: ms since 1970.

    Returns:
        The text.
    """
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


class Graph:
    """A crate's metadata while it is put together."""

    def __init__(self, name: str, license_name: str) -> None:
        """Begin with the crate itself.

        Args:
            name: title of the crate.
            license_name: licence of its content.
        """
        self._entities: dict[str, Entity] = {}
        self._ids: dict[str, str] = {}
        about = {"about": ref("./"), "conformsTo": [ref(CRATE), ref(WORKFLOW)]}
        self.add(METADATA, "CreativeWork", about)
        licence = ref(license_name) if "://" in license_name else license_name
        self.root = self.add("./", "Dataset", {"name": name, "license": licence, "hasPart": []})
        self.root["description"] = "Every stage of dvc.lock with inputs, outputs and parameters"
        self.root["conformsTo"] = [ref(profile) for profile in PROFILES]
        for profile, (title, version) in PROFILES.items():
            self.add(profile, "CreativeWork", {"name": title, "version": version})
        if "://" in license_name:
            self.add(license_name, "CreativeWork", {"name": license_name.rpartition("/")[2]})

    def add(self, identity: str, kind: str | list[str], about: Mapping[str, Any]) -> Entity:
        """Add a thing, or return the one that has this id.

        Args:
            identity: its id.
            kind: its type or types.
            about: its other properties.

        Returns:
            The thing, which may be changed.
        """
        return self._entities.setdefault(identity, {"@id": identity, "@type": kind, **about})

    def add_path(self, path: str, files: list[str], folder: Path) -> None:
        """Add an input or output.

        Args:
            path: as dvc.lock has it.
            files: the files it stands for, relative to the crate; none if it was not copied.
            folder: the crate.
        """
        if not files:
            identity = f"#source/{quote(path, safe='')}"
            note = "data outside of the project, not part of the crate"
            self.add(identity, "CreativeWork", {"name": path, "description": note})
        elif files == [path]:
            identity = self._add_file(path, folder)
            self._part(identity)
        else:
            identity = f"{quote(path)}/"
            parts = [ref(self._add_file(file, folder)) for file in files]
            self.add(identity, "Dataset", {"name": path, "hasPart": parts})
            self._part(identity)
        self._ids[path] = identity

    def of_path(self, path: str) -> Entity:
        """Return an input or output.

        Args:
            path: as dvc.lock has it.

        Returns:
            The thing.
        """
        return self._entities[self._ids[path]]

    def document(self) -> dict[str, Any]:
        """Return the whole as JSON-LD.

        Returns:
            Context and graph.
        """
        context = [f"{CRATE}/context", {"sha256": "https://schema.org/sha256"}]
        things = [
            {name: _single(value) for name, value in entity.items()}
            for entity in self._entities.values()
        ]
        return {"@context": context, "@graph": things}

    def _add_file(self, path: str, folder: Path) -> str:
        identity = quote(path)
        if identity not in self._entities:
            place = folder / path
            known = TYPES.get(place.suffix) or mimetypes.guess_type(path)[0]
            about = {
                "name": path,
                "contentSize": str(place.stat().st_size),
                "sha256": sha256_file(place),
                "encodingFormat": known or "application/octet-stream",
            }
            self.add(identity, "File", about)
        return identity

    def _part(self, identity: str) -> None:
        if ref(identity) not in self.root["hasPart"]:
            self.root["hasPart"].append(ref(identity))


def _single(value: Any) -> Any:
    """Write a list of one as that one, as RO-Crate recommends."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
