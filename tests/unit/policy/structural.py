"""The API server's rules for schemas of custom resources (Kubernetes 1.20), as far as ours can break them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LOGIC = ("allOf", "anyOf", "oneOf", "not")
VALUES = {
    "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems", "enum", "required",
    "format", "minProperties", "maxProperties", "uniqueItems", "multipleOf", "exclusiveMinimum",
    "exclusiveMaximum", "title",
}  # fmt: skip
SHAPE = {"type", "properties", "items", "additionalProperties", "description", "default", "nullable"}
EXTENSIONS = {"x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"}
AT_ROOT_BESIDE_A_STATUS = {
    "description", "type", "format", "title", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum",
    "maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "multipleOf", "required",
    "items", "properties", "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip
"""All that the API server takes at the root of a schema whose kind has the subresource status."""


def complaints(schema: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Why the API server would refuse a schema."""
    allowed = VALUES | SHAPE | EXTENSIONS | set(LOGIC)
    yield from (f"{place}: {name} is not allowed" for name in schema if name not in allowed)
    int_or_string = schema.get("x-kubernetes-int-or-string")
    if ("type" in schema) is bool(int_or_string):
        yield f"{place}: needs either a type or x-kubernetes-int-or-string"
    if "properties" in schema and "additionalProperties" in schema:
        yield f"{place}: properties and additionalProperties exclude each other"
    if schema.get("type") == "array" and "items" not in schema:
        yield f"{place}: an array needs items"
    for name, inner in schema.get("properties", {}).items():
        yield from complaints(inner, f"{place}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield from complaints(schema[name], f"{place}.{name}")
    if not int_or_string:
        for name in LOGIC:
            for index, inner in enumerate(schema.get(name, [])):
                yield from _in_logic(inner, schema, f"{place}.{name}[{index}]")


def _in_logic(schema: Mapping[str, Any], outer: Mapping[str, Any], place: str) -> Iterator[str]:
    """Inside of anyOf and its kin only values are restricted, of fields that the outer schema names."""
    yield from (
        f"{place}: {name} is not allowed"
        for name in schema
        if name not in {*VALUES, *LOGIC, "properties", "items"}
    )
    for name, inner in schema.get("properties", {}).items():
        if name not in outer.get("properties", {}):
            yield f"{place}.{name}: is not among the properties outside"
        else:
            yield from _in_logic(inner, outer["properties"][name], f"{place}.{name}")
    for name in schema.get("required", []):
        if name not in outer.get("properties", {}):
            yield f"{place}: requires {name}, which is not among the properties outside"


def open_objects(schema: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, bool]]:
    """Place of each object that has named properties or none, and whether unknown fields survive in it."""
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        yield place, schema.get("x-kubernetes-preserve-unknown-fields") is True
    for name, inner in schema.get("properties", {}).items():
        yield from open_objects(inner, f"{place}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield from open_objects(schema[name], f"{place}.{name}")
