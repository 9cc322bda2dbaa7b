"""Variables: `LLM_SCHEDULER_<SECTION>_<KEY>` overrides the file; for secrets `..._FILE` names a file with them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from scheduler.gateway.node_fields import nearest_name
from scheduler.settings.problem import Path, Place, Problem
from scheduler.settings.schema import SECRET_KEYS, SECTIONS

PREFIX = "LLM_SCHEDULER_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
#: The command line's own: where the server is, and with which key to ask it.
COMMAND_VARIABLES = frozenset({PREFIX + "URL", PREFIX + "ADMIN_KEY", PREFIX + "NODE_API_KEY"})
MAX_SECRET_BYTES = 64 * 1024

_LISTS = ("auth.api_keys", "auth.admin_api_keys")
# Kubernetes sets these in every pod beside a service named llm-scheduler.
_FROM_KUBERNETES = re.compile(r"LLM_SCHEDULER_(SERVICE_.*|PORT.*)")
# The same for a service named llm-scheduler-server, and so on: these look like ours.
_LIKE_KUBERNETES = re.compile(r".*_(SERVICE_(HOST|PORT.*)|PORT_[0-9]+_(TCP|UDP).*)")
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(slots=True)
class Variables:
    """What the variables say: values by (section, key), with their places, mistakes and warnings."""

    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    spoilt: set[Path] = field(default_factory=set)


def variable_name(section: str, key: str) -> str:
    """The variable that overrides a key: `LLM_SCHEDULER_SERVER_PORT`."""
    return f"{PREFIX}{section}_{key}".upper()


def _known_variables() -> dict[str, tuple[str, str, bool]]:
    """Every variable we take: name -> (section, key, names a file)."""
    known = {}
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            if f"{section}.{key}" in SECRET_KEYS:
                known[variable_name(section, key) + "_FILE"] = (section, key, True)
            known[variable_name(section, key)] = (section, key, False)
    return known


def read_variables(environ: Mapping[str, str]) -> Variables:
    """The settings in the variables. An empty variable counts as not set; never raises."""
    found = Variables()
    known = _known_variables()
    for name in sorted(environ):
        text = environ[name]
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or name in COMMAND_VARIABLES:
            continue
        if _FROM_KUBERNETES.fullmatch(name):
            continue
        if name not in known:
            _judge_unknown(name, known, found)
        elif text:
            _take(name, text, *known[name], found)
    return found


def _take(name: str, text: str, section: str, key: str, is_file: bool, found: Variables) -> None:
    path, place = (section, key), Place(name)
    if path in found.places:
        other = found.places[path].source
        found.problems.append(Problem(path, f"is set by {other} as well; remove one of the two", place))
        return
    found.places[path] = place
    try:
        found.values[path] = _convert(section, key, _read_secret(text) if is_file else text)
    except ValueError as error:
        found.problems.append(Problem(path, str(error), place))
        found.spoilt.add(path)


def _convert(section: str, key: str, text: str) -> Any:
    """The text as YAML would have given it. What does not fit stays text: the schema says what is wrong with it."""
    if f"{section}.{key}" in _LISTS:
        return [part for part in (part.strip() for part in re.split(r"[,\r\n]", text)) if part]
    annotation = SECTIONS[section].model_fields[key].annotation
    text = text.strip()
    if annotation is bool:
        return _BOOLEANS.get(text.lower(), text)
    if annotation is int:
        if text.startswith(("tcp://", "udp://")):
            raise ValueError(
                "was set by Kubernetes for a service of that name; rename the service, or set enableServiceLinks: false"
            )
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
    return text


def _read_secret(file_name: str) -> str:
    try:
        with FilePath(file_name).open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no usable path"
        raise ValueError(
            f"the file {file_name!r} cannot be read ({reason}); check the path and its permissions"
        ) from None
    if len(data) > MAX_SECRET_BYTES:
        raise ValueError(f"the file {file_name!r} is larger than {MAX_SECRET_BYTES // 1024} KiB; it cannot be a secret")
    try:
        secret = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"the file {file_name!r} is no UTF-8 text") from None
    if not secret.strip():
        # An empty list of keys would open the door that the file was meant to close.
        raise ValueError(f"the file {file_name!r} is empty; put the secret into it, or unset the variable")
    return secret


def _judge_unknown(name: str, known: Mapping[str, tuple[str, str, bool]], found: Variables) -> None:
    rest = name.removeprefix(PREFIX)
    place = Place(name)
    if rest == "NODES" or rest.startswith("NODES_"):
        message = "nodes cannot be set by variables; use the file, the admin API or `llm-scheduler nodes add`"
        found.problems.append(Problem((), message, place))
        return
    near = _nearest_variable(name, known)
    hint = f"; did you mean {near}?" if near else ""
    if rest.split("_")[0].lower() not in SECTIONS:
        found.warnings.append(f"{name}: names no section of the settings and is ignored{hint}")
    elif _LIKE_KUBERNETES.fullmatch(name):
        message = "unknown key; Kubernetes sets such variables: rename its service, or set enableServiceLinks: false"
        found.problems.append(Problem((), message, place))
    elif name.removesuffix("_FILE") in known:
        message = f"only secrets can come from a file; set {name.removesuffix('_FILE')}"
        found.problems.append(Problem((), message, place))
    else:
        section = rest.split("_")[0].lower()
        keys = ", ".join(SECTIONS[section].model_fields)
        found.problems.append(Problem((), f"unknown key{hint or f'; the keys of {section} are {keys}'}", place))


def _nearest_variable(name: str, known: Mapping[str, tuple[str, str, bool]]) -> str | None:
    rest = name.removeprefix(PREFIX)
    # LLM_SCHEDULER_QUEUE_TIMEOUT: the section was forgotten, which happens most with the section `scheduler`.
    forgotten = [full for full, (_, key, _) in known.items() if key.upper() == rest]
    if forgotten:
        return forgotten[0]
    near = nearest_name(rest, [full.removeprefix(PREFIX).lower() for full in known])
    return PREFIX + near.upper() if near else None
