"""check_document.py FILE: checks that an OpenAPI document is valid, and that every operation has valid examples."""

import json
import sys

from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in ("get", "put", "post", "delete", "patch"):
                yield f"{method.upper()} {path}", operation


def problems(document):
    for error in OpenAPIV31SpecValidator(document).iter_errors():
        yield f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, operation in operations(document):
        if not set(operation["tags"]) <= tags:
            yield f"{name}: a tag has no description"
        shown = [(f"parameter {parameter['name']}", parameter) for parameter in operation.get("parameters", [])]
        bodies = list(operation["responses"].items()) + [("body", operation.get("requestBody", {}))]
        for where, body in bodies:
            shown += [(f"{where} {kind}", content) for kind, content in body.get("content", {}).items()]
        for where, content in shown:
            if "example" not in content:
                yield f"{name}: {where} has no example"
                continue
            # References begin at the root of the document.
            schema = content["schema"] | {"components": document["components"]}
            for error in OAS31Validator(schema).iter_errors(content["example"]):
                yield f"{name}: the example of {where}: {error.message}"


with open(sys.argv[1], encoding="utf-8") as file:
    found = list(problems(json.load(file)))
if found:
    sys.exit("\n".join(["/openapi.json:", *found]))
