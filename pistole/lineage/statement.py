"""An in-toto statement on a file or folder: what it is, from what and how it was made.

The predicate is SLSA provenance. Signed, the statement becomes a DSSE envelope, whose signature
covers its payload and the payload's type.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.files import read_json, sha256_file
from pistole.lineage import lockfile, receipts
from pistole.lineage.crate.entities import timestamp
from pistole.lineage.hashing import files_of, md5_path
from pistole.lineage.paths import inside
from pistole.lineage.trace import Trace, trace

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:pistole:dvc-stage:v1"
PAYLOAD = "application/vnd.in-toto+json"


def make_statement(root: str | Path, path: str) -> dict[str, Any]:
    """State where an output comes from.

    Args:
        root: the project's folder.
        path: an output of one stage, such as a merged model, or a file in it.

    Returns:
        The statement: subjects and materials with sha256, command and parameters, environment.

    Raises:
        UserError: the path is no output of one stage, has no receipt, or is not what dvc.lock
            records.
    """
    root = Path(root).resolve()
    found = trace(root, path)
    if len(found.first) != 1 or found.number is not None:
        raise UserError(f"{path} is no output of one stage: give one, such as a merged model")
    if found.notes:
        raise UserError(found.notes[0])
    (name,) = found.first
    entry = lockfile.read(root)[name]
    receipt = receipts.find(root, name, lockfile.key_of(entry))
    if receipt is None:
        raise UserError(
            f"{name} has no receipt of this run: dvc repro --force --single-item {name}"
        )
    subjects = [file for file in _files(root, entry["outs"]) if inside(file, found.target)]
    return {
        "_type": STATEMENT,
        "subject": [_digest(root, file) for file in subjects],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"stage": name, "cmd": entry["cmd"], **entry["params"]},
                "internalParameters": receipt["environment"],
                "resolvedDependencies": _materials(root, entry["deps"], found),
            },
            "runDetails": {
                "builder": {"id": f"urn:pistole:host:{receipt['host']}"},
                "metadata": {
                    "invocationId": f"urn:pistole:receipt:{receipt['id']}",
                    "startedOn": timestamp(receipt["started"]),
                    "finishedOn": timestamp(receipt["started"] + 1000 * receipt["seconds"]),
                },
            },
        },
    }


def sign(statement: Mapping[str, Any], key: Path) -> dict[str, Any]:
    """Sign a statement.

    Args:
        statement: the statement.
        key: a private Ed25519 key, PEM without a password.

    Returns:
        The DSSE envelope.

    Raises:
        UserError: the file is no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = _load(lambda data: load_pem_private_key(data, None), key, Ed25519PrivateKey)
    payload = json.dumps(statement, sort_keys=True).encode()
    signature = {"keyid": "", "sig": _encode(private.sign(_authenticated(PAYLOAD, payload)))}
    return {"payloadType": PAYLOAD, "payload": _encode(payload), "signatures": [signature]}


def verify(root: str | Path, file: Path, key: Path | None) -> dict[str, Any]:
    """Check a statement: its signature, and that its subjects are on disk as it says.

    Args:
        root: the project's folder.
        file: the statement, or its DSSE envelope.
        key: public Ed25519 key, PEM; None for a statement that is not signed.

    Returns:
        The statement.

    Raises:
        UserError: the signature or a digest is wrong, or one of both has no signature.
    """
    content = read_json(file)
    if ("payload" in content) != (key is not None):
        what = "is signed: give --key" if key is None else "is not signed: leave out --key"
        raise UserError(f"{file} {what}")
    statement = _open(file, content, key) if key is not None else content
    for subject in statement["subject"]:
        place = Path(root) / subject["name"]
        if not place.is_file() or sha256_file(place) != subject["digest"]["sha256"]:
            raise UserError(f"{place} is not what {file} states: run pistole audit")
    return statement


def _open(file: Path, envelope: Mapping[str, Any], key: Path) -> dict[str, Any]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    public = _load(load_pem_public_key, key, Ed25519PublicKey)
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        public.verify(signature, _authenticated(envelope["payloadType"], payload))
        return json.loads(payload)
    except (InvalidSignature, ValueError, LookupError, TypeError):
        raise UserError(f"{file} was not signed with the key of {key}: do not trust it") from None


def _load(read: Any, key: Path, kind: type) -> Any:
    try:
        loaded = read(key.read_bytes())
    except (FileNotFoundError, ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, kind):
        remedy = "make one with `openssl genpkey -algorithm ed25519`"
        raise UserError(f"{key} is no {kind.__name__} in PEM without a password: {remedy}")
    return loaded


def _authenticated(kind: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _files(root: Path, paths: Mapping[str, str]) -> Iterator[str]:
    """List the files behind paths, if they still are what is recorded."""
    for path, md5 in paths.items():
        if md5_path(root, path) != md5:
            raise UserError(f"{path} is not what dvc.lock records: run pistole audit")
        place = root / path
        for file in files_of(root, path) if place.is_dir() else [place]:
            yield file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _materials(root: Path, deps: Mapping[str, str], found: Trace) -> list[dict[str, Any]]:
    """List what the stage read, the code's commit, and the first sources of everything."""
    materials = [_digest(root, file) for file in sorted(_files(root, deps))]
    commits = {s["code"]["commit"] for s in found.stages.values() if s["code"]}
    code = [{"name": "code", "digest": {"gitCommit": c}} for c in sorted(commits - {None})]
    sources = {
        row["path"]: row["md5"]
        for stage in found.stages.values()
        for row in stage["inputs"]
        if not row["from"] and row["path"] not in deps
    }
    # Of what lies further up dvc.lock has only DVC's own hash, which covers folders too.
    above = [{"name": path, "digest": {"dvcMd5": md5}} for path, md5 in sorted(sources.items())]
    return materials + code + above


def _digest(root: Path, file: str) -> dict[str, Any]:
    return {"name": file, "digest": {"sha256": sha256_file(root / file)}}
