"""The JSON body of an admin call."""

import json
from typing import Any

from flask import request

from scheduler.errors import BadCall


def json_object() -> dict[str, Any]:
    """The body as an object. Raises BadCall (invalid_json) for anything else."""
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise BadCall("The body is not valid JSON.", "invalid_json") from None
    if not isinstance(body, dict):
        raise BadCall("The body must be a JSON object.", "invalid_json")
    return body
