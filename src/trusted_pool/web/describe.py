"""The description of the API: what the framework finds out by itself, and what only the routes know.

Who may ask, which errors there are, and what is sent that is no JSON: each route says it in its `opt`. So a route
cannot be there without being described, and cannot be described without saying who may ask.
"""

from typing import Any

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

from trusted_pool.core.access import Scope
from trusted_pool.protocol.apikey import PATTERN

_SCHEME = "apiKey"
_ERROR = "#/components/schemas/ErrorAnswer"
_WORDS = {
    304: "It is what was known already",
    206: "The wanted range",
    400: "The request is wrong",
    401: "No API key, or one that opens nothing",
    403: "The key may not, or the request comes from a foreign web page",
    404: "There is no such thing, or it is somebody else's",
    408: "The body does not come",
    409: "It contradicts what is already so",
    413: "Too large",
    416: "The range lies outside the file",
    422: "No worker of the pool could ever run it",
    429: "Too much at once; try again later",
    503: "The store is away just now; try again later",
    507: "The coordinator's disk is full; try again later",
}
#: Answers without a body of ours.
_NO_ERROR = frozenset({206, 304})
_BYTES = {"type": "string", "format": "binary"}
_FILES = {"type": "array", "items": _BYTES, "minItems": 1}
_FORM = {
    "type": "object",
    "properties": {"files": _FILES, "manifest": {"type": "string", "description": "JSON; see /manifest.schema.json"}},
    "required": ["files"],
    "additionalProperties": False,
}
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Sent again within a day, it means the same job",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def fails(*statuses: int) -> dict[str, Any]:
    """Return what a route says of errors that its kind does not imply; to be joined to its `opt`."""
    return {"fails": statuses}


def sends(media: str) -> dict[str, Any]:
    """Return what a route says that answers other than JSON; to be joined to its `opt`."""
    return {"sends": media}


FOLLOWS = {"follows": True}  #: what a route says that can answer with a stream of events too
FORM = {"form": True}  #: what a route says that takes a multipart upload


def describe(app: Litestar) -> dict[str, Any]:
    """Return the whole OpenAPI document."""
    document: dict[str, Any] = _any_of(app.openapi_schema.to_schema())
    components = document.setdefault("components", {})
    components["securitySchemes"] = {
        _SCHEME: {"type": "http", "scheme": "bearer", "bearerFormat": f"API key: {PATTERN}"}
    }
    components.setdefault("schemas", {})["ErrorAnswer"] = _error_schema()
    for route in app.routes:
        operations = document["paths"].get(_path_of(route.path_format))
        for handler in getattr(route, "route_handlers", ()):
            if operations is None or not isinstance(handler, HTTPRouteHandler):
                continue
            for method in handler.http_methods:
                if (operation := operations.get(method.lower())) is not None:
                    _complete(operation, handler.opt, route.path_parameters, method)
    return document


def _any_of(found: Any) -> Any:
    """Say of unions what is meant: the framework says oneOf, which a whole number breaks that may be a number too."""
    if isinstance(found, dict):
        return {"anyOf" if name == "oneOf" else name: _any_of(value) for name, value in found.items()}
    return [_any_of(value) for value in found] if isinstance(found, list) else found


def _path_of(path_format: str) -> str:
    return path_format or "/"


def _complete(operation: dict[str, Any], opt: dict[str, Any], path_parameters: Any, method: str) -> None:
    role = opt["role"]
    operation["security"] = [] if role is None else [{_SCHEME: []}]
    operation["x-role"] = role
    operation["x-scope"] = opt.get("scope", Scope.OWN)
    if opt.get("form"):
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
        operation.setdefault("parameters", []).append(_IDEMPOTENCY)
    if media := opt.get("sends"):
        operation["responses"]["200"]["content"] = {media: {"schema": _BYTES}}
    if opt.get("follows"):
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {}}
    statuses = {400, 403, 503, *opt.get("fails", ())}
    statuses |= set() if role is None else {401}
    statuses |= {404} if path_parameters else set()
    statuses |= {408, 413} if "requestBody" in operation else set()
    statuses |= {507} if method == "POST" else set()
    for status in sorted(statuses):
        operation["responses"][str(status)] = _response(status, opt.get("sends"))


def _response(status: int, media: str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _WORDS[status]}
    if status not in _NO_ERROR:
        answer["content"] = {"application/json": {"schema": {"$ref": _ERROR}}}
    elif status == 206:  # noqa: PLR2004 - a part of what 200 sends whole
        answer["content"] = {media or "*/*": {"schema": _BYTES}}
    return answer


def _error_schema() -> dict[str, Any]:
    body = {
        "type": "object",
        "required": ["code", "message", "hint", "fault", "retryable", "detail"],
        "properties": {
            "code": {"type": "string", "description": "Stable, for programs"},
            "message": {"type": "string", "description": "What failed, in one sentence"},
            "hint": {"type": "string", "description": "What to do next"},
            "fault": {"type": "string", "enum": ["user", "limit", "worker", "coordinator", "operator"]},
            "retryable": {"type": "boolean", "description": "Whether the very same request may succeed later"},
            "detail": {"type": "object"},
        },
    }
    return {"type": "object", "required": ["error"], "properties": {"error": body}}
