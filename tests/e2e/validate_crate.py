"""Validate a crate with roc-validator without a network: ``python validate_crate.py CRATE``.

Runs in an environment of its own (roc-validator, and rocrate 0.13.0 for the context of RO-Crate
1.1 that it ships), as both pin packages that the pipeline has newer.
"""

import io
import json
import sys
from pathlib import Path

import rdflib.plugins.parsers.jsonld
import rdflib.plugins.shared.jsonld.context
import rdflib.plugins.shared.jsonld.util
import requests
import rocrate
import urllib3
from rocrate_validator import models, services

PROFILES = ("process-run-crate", "workflow-run-crate", "provenance-run-crate")
CONTEXT = (Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_bytes()


def is_context(address: object) -> bool:
    return isinstance(address, str) and "w3id.org/ro/crate/1.1" in address


def serve_context() -> None:
    """Answer for the one address that the validator asks for; refuse all others."""
    assert json.loads(CONTEXT)["@id"] == "https://w3id.org/ro/crate/1.1/context"
    parse = rdflib.plugins.shared.jsonld.util.source_to_json

    def read(source, *arguments, **options):
        if is_context(source):
            return json.loads(CONTEXT), None
        return parse(source, *arguments, **options)

    for module in (
        rdflib.plugins.shared.jsonld.util,
        rdflib.plugins.shared.jsonld.context,
        rdflib.plugins.parsers.jsonld,
    ):
        module.source_to_json = read

    def send(session, request, **options):
        if not is_context(request.url):
            raise requests.ConnectionError(f"{request.url}: there is no network here")
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 200, request.url, request
        answer._content = CONTEXT
        answer.headers["Content-Type"] = "application/ld+json"
        answer.raw = urllib3.HTTPResponse(io.BytesIO(CONTEXT), status=200, preload_content=False)
        return answer

    requests.Session.send = send


def main() -> int:
    serve_context()
    found = 0
    for profile in PROFILES:
        settings = services.ValidationSettings(
            rocrate_uri=sys.argv[1],
            profile_identifier=profile,
            requirement_severity=models.Severity.REQUIRED,
            no_cache=True,
        )
        issues = services.validate(settings).get_issues()
        for issue in issues:
            sys.stdout.write(f"{profile}: {issue.check.identifier}: {issue.message}\n")
        found += len(issues)
        sys.stdout.write(f"{profile}: {'INVALID' if issues else 'VALID'}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
