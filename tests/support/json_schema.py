"""A strict check of answers against the schemas of the API's description."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_KNOWN = {
    *("$ref", "anyOf", "type", "enum", "format", "pattern", "minimum", "maximum", "minItems", "maxItems"),
    *("items", "properties", "required", "additionalProperties", "description", "default"),
}


def faults(value: Any, schema: Mapping[str, Any], components: Mapping[str, Any], at: str = "$") -> list[str]:
    """What of the value is not as its schema says; a field that the schema does not name is a fault too."""
    unknown = set(schema) - _KNOWN
    assert not unknown, f"the check does not know {unknown}"
    if "$ref" in schema:
        return faults(value, components[schema["$ref"].rpartition("/")[2]], components, at)
    if "anyOf" in schema:
        found = [faults(value, each, components, at) for each in schema["anyOf"]]
        return [] if [] in found else min(found, key=len)
    kind = schema.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        return [f"{at}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is none of {schema['enum']}"]
    if isinstance(value, str):
        return _text_faults(value, schema, at)
    if isinstance(value, list):
        bounds = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        within = [f for i, each in enumerate(value) for f in faults(each, schema["items"], components, f"{at}[{i}]")]
        return within if bounds else [f"{at}: has {len(value)} items", *within]
    if isinstance(value, dict):
        return _object_faults(value, schema, components, at)
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return [f"{at}: {value!r} is out of range"]
    return []


def _text_faults(value: str, schema: Mapping[str, Any], at: str) -> list[str]:
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return [f"{at}: {value!r} is not like {schema['pattern']}"]
    if schema.get("format") == "date-time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return [f"{at}: {value!r} is no time"]
    return []


def _object_faults(value: dict, schema: Mapping[str, Any], components: Mapping[str, Any], at: str) -> list[str]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", False)
    found = [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, each in value.items():
        if name in properties:
            found += faults(each, properties[name], components, f"{at}.{name}")
        elif others is False:
            found.append(f"{at}.{name} is not described")
        elif others is not True:
            found += faults(each, others, components, f"{at}.{name}")
    return found
