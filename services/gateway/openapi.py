"""The route table as an OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from services.gateway.exchange import Style
from services.gateway.route import Body, Route

_ID: Final = re.compile(r"\{(\w+)\}")
_MEDIA: Final = {Body.JSON: "application/json", Body.BYTES: "application/octet-stream"}


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """Paths, methods, ids and credentials; `docs/http.md` tells bodies and answers."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.pattern, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Townkeeper gateway", "version": "1"},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": _error("success", "error"),
                "BareError": _error("error"),
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    schema = "Error" if route.style is Style.ENVELOPE else "BareError"
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _ID.findall(route.pattern)
        ],
        "responses": {
            "2XX": {"description": "Done."},
            "default": {
                "description": "Refused or failed.",
                "content": {
                    "application/json": {
                        "schema": {"$ref": f"#/components/schemas/{schema}"}
                    }
                },
            },
        },
    }
    if route.body is not Body.NONE and route.method != "GET":
        content: dict[str, Any] = {_MEDIA[route.body]: {"schema": {}}}
        operation["requestBody"] = {"required": True, "content": content}
    if not route.access.open:
        operation["security"] = [{"token": sorted(route.access.kinds)}]
    return operation


def _error(*required: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "error": {"type": "string"},
        "issues": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "path": {"type": "array", "items": {}},
                    "message": {"type": "string"},
                },
            },
        },
    }
    if "success" in required:
        properties["success"] = {"const": False}
    return {"type": "object", "required": list(required), "properties": properties}
