"""What the daemon's HTTP port answers to, as OpenAPI 3.1: served as `/openapi.json`, kept true by a test.

It describes the form of requests and answers. The rules of what is in them are those of the SQL functions, and are on
the pages that the document points to.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from slayq.protocol import SIGNATURE_HEADER, Task
from slayq.protocol_v2 import CANCEL_PATH, EVENTS_PATH, FUNCTIONS_PATH
from slayq_server import __version__

PATH: Final = "/openapi.json"
Schema: TypeAlias = dict[str, Any]

_ANY: Final[Schema] = {"description": "Any JSON."}
_TEXT: Final[Schema] = {"type": "string"}
_INTEGER: Final[Schema] = {"type": "integer"}
_MATCH: Final[Schema] = {"type": ["string", "number", "boolean"]}
_NULLABLE_MATCH: Final[Schema] = {"type": ["string", "number", "boolean", "null"]}
_TIME: Final[Schema] = {
    "type": ["string", "number"],
    "description": "ISO 8601 with a time zone, or milliseconds since 1970.",
}
_RETRY_AFTER: Final[Schema] = {"Retry-After": {"description": "Seconds.", "schema": _INTEGER}}


def _object(properties: Schema, *optional: str, closed: bool = False) -> Schema:
    """An object with these members, all of which but the optional ones must be there."""
    required = [name for name in properties if name not in optional]
    rest = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": properties, "required": required, **rest}


def _nullable(schema: Schema) -> Schema:
    kind = schema["type"]
    return {**schema, "type": [*([kind] if isinstance(kind, str) else kind), "null"]}


_TASKS: Final[dict[Task, tuple[str, Schema]]] = {
    Task.ADD_WORKER_JOB: (
        "Adds a job.",
        _object(
            {
                "identifier": {"type": "string", "description": "The queue."},
                "job_key": _TEXT,
                "payload": _ANY,
                "queue_name": _nullable(_TEXT),
                "run_at": _nullable(_TIME),
                "max_attempts": _nullable(_INTEGER),
                "priority": _nullable(_INTEGER),
                "flags": {"type": ["array", "null"], "items": _TEXT},
                "job_key_mode": {"enum": ["replace", "preserve_run_at", "unsafe_dedupe", None]},
            },
            *("queue_name", "run_at", "max_attempts", "priority", "flags", "job_key_mode"),
        ),
    ),
    Task.WAIT_FOR_WORKER_EVENT: (
        "Parks the job of a key until an event.",
        _object(
            {
                "jobKey": _TEXT,
                "event": _TEXT,
                "matchKey": _TEXT,
                "matchValue": _MATCH,
                "stepName": _TEXT,
                "expiresAt": _TIME,
            }
        ),
    ),
    Task.WAIT_FOR_INVOCATION: (
        "Parks the job of a key until the job of another key has a result.",
        _object({"invokerJobKey": _TEXT, "targetJobKey": _TEXT, "stepName": _TEXT}),
    ),
    Task.TRIGGER_WAITING_WORKERS: (
        "Tells the jobs that wait for an event.",
        _object({"event": _TEXT, "match": _TEXT, "matchVal": _NULLABLE_MATCH}),
    ),
    Task.TRIGGER_WAITING_INVOKER: (
        "Hands a job's result to those who invoked it.",
        _object({"jobKey": _TEXT, "result": _ANY}, "result"),
    ),
    Task.CANCEL_PENDING_TASKS: (
        "Cancels the jobs of an event with a value in their data.",
        _object({"event": _TEXT, "matchKey": _TEXT, "matchVal": _NULLABLE_MATCH}),
    ),
}

_EVENT: Final = _object(
    {
        "event": {"type": "string", "minLength": 1, "maxLength": 512},
        "data": {"type": ["object", "null"]},
        "id": _nullable({"type": "string", "minLength": 1, "maxLength": 512}),
        "run_at": _nullable({"type": "string", "format": "date-time"}),
        "priority": {"type": ["integer", "null"], "minimum": -32768, "maximum": 32767},
        "traceparent": _nullable(_TEXT),
    },
    *("data", "id", "run_at", "priority", "traceparent"),
    closed=True,
)
_MATCHES: Final[Schema] = {
    "type": ["array", "null"],
    "items": _object({"event": _TEXT, "match": _TEXT}),
}
_MANIFEST: Final = _object(
    {
        "app": {"type": "string", "minLength": 1, "maxLength": 128},
        "url": {"type": "string", "minLength": 1, "maxLength": 2048},
        "sdk": _nullable(_TEXT),
        "functions": {
            "type": ["array", "null"],
            "maxItems": 1000,
            "items": _object(
                {
                    "event": {"type": "string", "minLength": 1, "maxLength": 512},
                    "name": {"type": "string", "minLength": 1, "maxLength": 512},
                    "queue": {"type": "string", "minLength": 1, "maxLength": 128},
                    "retries": {"type": ["integer", "null"], "minimum": 0, "maximum": 32766},
                    "priority": {"type": ["integer", "null"], "minimum": 0, "maximum": 32767},
                    "cron": {"type": ["string", "null"], "maxLength": 200},
                    "schema": _ANY,
                    "cancel_on": _MATCHES,
                    "waits_on": _MATCHES,
                    "invokes": {"type": ["array", "null"], "items": _TEXT},
                },
                *("name", "queue", "retries", "priority", "cron", "schema", "cancel_on", "waits_on", "invokes"),
            ),
        },
    },
    *("sdk", "functions"),
)
_RUN_ID: Final[Schema] = {"type": "string", "format": "uuid"}


def document() -> Schema:
    """The whole of it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Slay Q Server",
            "version": __version__,
            "summary": "Health, metrics, the tasks of protocol v1, and the HTTP API of protocol v2.",
            "description": "What the fields mean is said on the pages rpc.md, http-api.md and sql.md.",
        },
        "paths": {
            "/livez": {"get": _probe("The process runs.", schema=_object({"status": {"const": "ok"}}), fails=False)},
            "/readyz": {"get": _probe("This daemon takes and delivers jobs now.")},
            "/healthz": {"get": _probe("As /readyz, but a short outage of the database is forgiven.")},
            "/metrics": {"get": _metrics()},
            PATH: {"get": _own()},
            **{f"/{task}": {"post": _task(task)} for task in Task},
            EVENTS_PATH: {
                "post": _call(
                    "sendEvents",
                    "Sends events: all of them, or none.",
                    _object({"events": {"type": "array", "items": _EVENT}}),
                    _object({"runs": {"type": "array", "items": _nullable(_RUN_ID)}}),
                )
            },
            FUNCTIONS_PATH: {
                "post": _call(
                    "registerFunctions",
                    "Registers an app's functions in place of those it had.",
                    _MANIFEST,
                    _object({"functions": _INTEGER, "warnings": {"type": "array", "items": _TEXT}}),
                )
            },
            CANCEL_PATH: {
                "post": _call(
                    "cancelRun",
                    "Cancels a run.",
                    _object({"run": _RUN_ID}),
                    _object({"cancelled": {"type": "boolean"}}),
                )
            },
        },
        "components": {
            "securitySchemes": {
                "v1": {
                    "type": "apiKey",
                    "in": "header",
                    "name": SIGNATURE_HEADER,
                    "description": "The lower-case hex of the HMAC-SHA512 of the body's bytes.",
                },
                "v2": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "webhook-signature",
                    "description": "Standard Webhooks, with the headers webhook-id and webhook-timestamp.",
                },
                "metrics": {"type": "http", "scheme": "bearer", "description": "Only where tokens are set."},
            },
            "schemas": {
                "TaskError": _object({"status": {"const": "error"}, "error": _TEXT}),
                "ServerError": _object({"status": {"const": "error"}, "error": _TEXT, "message": _TEXT}),
                "Error": _object({"error": _object({"code": _TEXT, "message": _TEXT, "hint": _nullable(_TEXT)})}),
                "Report": _object(
                    {
                        "status": {"enum": ["ok", "unavailable"]},
                        "checks": {"type": "object", "additionalProperties": {"type": "boolean"}},
                        "database_down_for_seconds": {"type": "number"},
                        "detail": {"type": "object"},
                    }
                ),
            },
        },
    }


def _answer(description: str, schema: Schema, **more: Any) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}, **more}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _probe(summary: str, *, schema: Schema | None = None, fails: bool = True) -> Schema:
    report = schema or _reference("Report")
    answers = {"200": _answer("It does.", report)}
    if fails:
        answers["503"] = _answer("It does not; the checks say why.", report)
    return {"summary": summary, "responses": answers}


def _metrics() -> Schema:
    return {
        "summary": "Metrics for Prometheus.",
        "security": [{}, {"metrics": []}],
        "responses": {
            "200": {"description": "The metrics.", "content": {"text/plain": {"schema": _TEXT}}},
            "401": _answer("A token is wanted, and is missing or wrong.", _reference("ServerError")),
        },
    }


def _own() -> Schema:
    return {"summary": "This document.", "responses": {"200": _answer("OpenAPI 3.1.", {"type": "object"})}}


def _refusals(error: str) -> Schema:
    """What signed requests are refused with, in the form that the protocol has for errors."""
    schema = _reference(error)
    return {
        "400": _answer("The body does not fit, or the SQL function refuses it.", schema),
        "401": _answer("The signature is missing or wrong.", schema),
        "408": _answer("The body did not come in time.", schema),
        "413": _answer("The body is too large.", schema),
        "500": _answer("A fault of the server or the database.", schema),
        "503": _answer("Postgres is away or too busy: try again.", schema, headers=_RETRY_AFTER),
    }


def _task(task: Task) -> Schema:
    summary, body = _TASKS[task]
    return {
        "operationId": task.value,
        "summary": summary,
        "security": [{"v1": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _answer("Done.", _object({"status": {"const": "ok"}})),
            **_refusals("TaskError"),
            "405": _answer("Another method than POST.", _reference("ServerError")),
        },
    }


def _call(name: str, summary: str, body: Schema, answer: Schema) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "security": [{"v2": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _answer("Done.", answer),
            **_refusals("Error"),
            "405": _answer("Another method than POST.", _reference("Error")),
        },
    }
