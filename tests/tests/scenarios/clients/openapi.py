"""Holds a node's admin API against its own description: asks for all that can be asked for without end, on the unix
socket that is its argument, and has each question and answer validated."""

import http.client
import json
import socket
import sys

import jsonschema
import openapi_spec_validator
import referencing
import referencing.jsonschema

SERVICE = "web.default"
EXPLAIN = {"namespace": "default", "method": "GET", "path": "/", "headers": []}
KEY = {"group": "networking.istio.io", "kind": "VirtualService", "namespace": "default", "name": "web"}
DRAFT = {"key": KEY, "body": None}
OTHER = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "other", "namespace": "default"},
    "spec": {"hosts": ["other"], "http": [{"directResponse": {"status": 404}}]},
}
TEXT = "{apiVersion: v1, kind: Namespace, metadata: {name: other}}"
BODIES = {
    "/api/v1/explain/route": EXPLAIN | {"to": SERVICE, "from": "client", "scheme": "http"},
    "/api/v1/explain/access": EXPLAIN | {"to": "web", "from": "client", "claims": None, "source_ip": None},
    "/api/v1/documents/prepare": {"author": None, "drafts": [DRAFT]},
    "/api/v1/documents/history": KEY,
    "/api/v1/documents/text": {"text": TEXT, "namespace": "default"},
    "/api/v1/documents": {"drafts": [{"key": KEY | {"name": "other"}, "body": json.dumps(OTHER)}]},
    "/api/v1/why": {"id": None},
    "/api/v1/traces": {"ask": "search", "service": "web"},
    "/api/v1/log": {"service": "web"},
    "/api/v1/tokens": {"role": "member", "ttl_seconds": 60, "uses": 1, "allow": ["default/*"]},
    "/api/v1/tap": {"query": {"to": "web"}, "for_ms": 1000, "signed": None},
}
QUERIES = {"/api/v1/endpoints": "?service=" + SERVICE, "/api/v1/tap": "?for=1s", "/api/v1/traffic": "?window=1m"}
# They take a code that is good once, or end the node or what it hosts.
LEFT_OUT = {"SignIn", "SignOut", "Register", "DrainWorkload", "Leave"}


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(sys.argv[1])


def ask(method, path, body=None, accept="application/json"):
    connection = Connection("localhost")
    connection.request(method, path, body and json.dumps(body), {"accept": accept})
    return connection.getresponse()


def first_event(answer):
    for line in answer:
        if line.startswith(b"data:"):
            return json.loads(line[len(b"data:") :])
    raise AssertionError("no event came")


api = json.loads(ask("GET", "/api/v1/openapi.json").read())
openapi_spec_validator.validate(api)
resource = referencing.Resource(contents=api, specification=referencing.jsonschema.DRAFT202012)
registry = referencing.Registry().with_resource("urn:api", resource)


def validate(value, schema):
    """Whatever a schema refers to stands in the description."""
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:api#/'))
    jsonschema.Draft202012Validator(absolute, registry=registry).validate(value)


def check(path, method, operation):
    asked = path.replace("{kind}", "virtualservice").replace("{id}", token) + QUERIES.get(path, "")
    if path == "/api/v1/tap" and method == "post":
        asked = path
    body = BODIES.get(path) if method == "post" else None
    if body is not None:
        validate(body, operation["requestBody"]["content"]["application/json"]["schema"])
        wrong = ask("POST", asked, "this is none")
        assert wrong.status == 422, (path, wrong.status)
        validate(json.loads(wrong.read()), {"$ref": "#/components/schemas/Refusal"})
    for media, described in operation["responses"]["200"]["content"].items():
        answer = ask(method.upper(), asked, body, media)
        assert answer.status == 200, (path, answer.status, answer.read())
        said = answer.headers.get_content_type()
        if media == "text/event-stream":
            assert said == media, (path, said)
            name = described["schema"]["description"].rsplit(" ", 1)[1]
            validate(first_event(answer), {"$ref": f"#/components/schemas/{name}"})
        elif media == "application/json":
            assert said == media, (path, said)
            told = json.loads(answer.read())
            validate(told, described["schema"])
            assert told not in ([], {}) or path in MAY_BE_EMPTY, f"{path} tells nothing: its answer proves nothing"
        else:
            assert said == media, (path, said)


MAY_BE_EMPTY = {"/api/v1/circuits"}
ask("POST", "/api/v1/tokens", BODIES["/api/v1/tokens"]).read()
token = json.loads(ask("GET", "/api/v1/tokens").read())[-1]["id"]
checked = 0
for path, operations in api["paths"].items():
    for method, operation in operations.items():
        if operation["operationId"] not in LEFT_OUT:
            check(path, method, operation)
            checked += 1
assert not ask("GET", "/api/v1/nothing").status == 200
print(checked, "operations are as described")
