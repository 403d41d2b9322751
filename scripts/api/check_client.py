"""check_client.py FILE ADMIN WEBHOOKS TOKEN: calls every operation of a running receiver through the generated client.

FILE is the OpenAPI document; the client of openapi-python-client is in the module path. Each operation is called
without parameters and with each parameter, and must return the documented type; with a wrong token, it must return a
problem.
"""

import datetime
import enum
import importlib
import json
import sys
import types
import typing

import attrs
from workflow_receiver_client import AuthenticatedClient, models
from workflow_receiver_client.types import Unset

# The operation whose first item has a value for the parameter of a path.
LISTS = {
    "execution_id": "list_executions",
    "prediction_id": "list_predictions",
    "bulk_id": "list_bulks",
    "conflict_id": "list_conflicts",
    "quarantine_id": "list_quarantine",
}


def conforms(value, kind):
    """Whether a value has the type of an annotation, with all its fields."""
    if kind is typing.Any:
        return True
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(conforms(value, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(conforms(item, typing.get_args(kind)[0]) for item in value)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return False
    if not attrs.has(kind):
        return True
    # The modules import the types of fields for type checkers only.
    names = vars(sys.modules[kind.__module__]) | vars(models)
    return not value.additional_properties and all(
        conforms(getattr(value, name), hint) for name, hint in typing.get_type_hints(kind, names).items()
    )


class Operation:
    def __init__(self, path, operation):
        self.name, self.path, self.parameters = operation["operationId"], path, operation.get("parameters", [])
        tag = operation["tags"][0].lower().replace(" ", "_")
        self.module = importlib.import_module(f"workflow_receiver_client.api.{tag}.{self.name}")
        (self.media_type, content), *_ = operation["responses"]["200"]["content"].items()
        name = content["schema"].get("$ref", "").rsplit("/", 1)[-1]
        self.result = getattr(models, name.replace("_", "")) if name else str

    def call(self, client, **arguments):
        """The parsed result, and whether it is a success."""
        hints = typing.get_type_hints(self.module.sync_detailed)
        named = {}
        for name, value in arguments.items():
            # The generator appends _ to names that Python uses.
            name = name if name in hints else f"{name}_"
            choices = [part for part in typing.get_args(hints[name]) if isinstance(part, type)]
            choices = [part for part in choices if issubclass(part, enum.Enum)]
            named[name] = choices[0](value) if choices else value
        response = self.module.sync_detailed(client=client, **named)
        return response.status_code, response.parsed

    def succeeds(self, client, **arguments):
        status, parsed = self.call(client, **arguments)
        if status != 200 or not conforms(parsed, self.result):
            sys.exit(f"{self.name} {arguments}: {status}, not a valid {self.result.__name__}: {parsed}")
        return parsed

    def fails(self, client, status, **arguments):
        found, parsed = self.call(client, **arguments)
        if found != status or not conforms(parsed, models.Problem) or parsed.status != status:
            sys.exit(f"{self.name} {arguments}: {found} and {parsed} instead of {status} and a problem")
        return parsed


def follow(operation, client, webhook, public):
    """Reads an event stream, which has no end, up to the event of a webhook that is sent meanwhile."""
    body = models.Webhook(execution_id="from-python", workflow_id="w", status="completed")
    with client.get_httpx_client().stream(**operation.module._get_kwargs(workflow="w")) as stream:
        for line in stream.iter_lines():
            if line == ": subscribed":
                webhook.succeeds(public, body=body)
            if line.startswith("data: "):
                event = models.Change.from_dict(json.loads(line.removeprefix("data: ")))
                if conforms(event, models.Change) and event.execution_id == "from-python":
                    return
                sys.exit(f"an unexpected event: {line}")
    sys.exit("the event stream ended")


def main(file, admin, webhooks, token):
    with open(file, encoding="utf-8") as opened:
        paths = json.load(opened)["paths"]
    client = AuthenticatedClient(base_url=admin, token=token)
    stranger = AuthenticatedClient(base_url=admin, token="wrong")
    public = AuthenticatedClient(base_url=webhooks, token=token)
    operations = [Operation(path, item[method]) for path, item in paths.items() for method in ("get", "post") if method in item]
    by_name = {operation.name: operation for operation in operations}
    webhook = by_name["receive_webhook"]
    response = {"bulk_id": "b-python", "executions": [{"execution_id": "p-1", "status": "queued"}, {"status": "failed", "message": "no"}]}
    register = by_name["register_expected"]
    registered = register.succeeds(client, body=models.TriggerResponse.from_dict(response))
    if (registered.expected, registered.rejected) != (1, 1):
        sys.exit(f"register_expected: {registered}")
    register.fails(client, 400, body=models.TriggerResponse.from_dict({"bulk_id": "b-python"}))
    for operation in operations:
        if operation is register:
            continue
        if operation is webhook:
            for number, identifier in enumerate(("text", 12345)):
                body = models.Webhook(execution_id=identifier, workflow_id="w", status="completed", output=[number])
                operation.succeeds(public, body=body)
            operation.fails(public, 422, body=models.Webhook(execution_id="e", workflow_id="", status="completed"))
            continue
        required = {}
        for parameter in operation.parameters:
            if parameter["in"] == "path":
                page = by_name[LISTS[parameter["name"]]].succeeds(client)
                required[parameter["name"]] = getattr(page.items[0], parameter["name"])
                absent = -1 if isinstance(required[parameter["name"]], int) else "absent"
                operation.fails(client, 404, **{parameter["name"]: absent})
        operation.fails(stranger, 401, **required)
        if operation.media_type == "text/event-stream":
            follow(operation, client, webhook, public)
            continue
        if operation.name == "reconcile":
            # The receiver has no key for the API of each::labs.
            operation.fails(client, 409, since="1h")
            operation.fails(client, 400)
            continue
        result = operation.succeeds(client, **required)
        if not getattr(result, "items", True):
            sys.exit(f"{operation.name}: the list is empty, so its items are not checked")
        for parameter in operation.parameters:
            if parameter["in"] == "query":
                value = parameter["example"]
                if parameter["name"] == "cursor":
                    value = operation.succeeds(client, limit=1).next_
                operation.succeeds(client, **{parameter["name"]: value})
                if parameter["name"] == "limit" and operation.fails(client, 400, limit=5000).parameter != "limit":
                    sys.exit(f"{operation.name}: the problem does not name the parameter")
    now = datetime.datetime.now(datetime.timezone.utc)
    by_name["list_executions"].succeeds(client, **{"from": now, "to": "1h"})
    print(f"the Python client has called {len(operations)} operations")


main(*sys.argv[1:])
