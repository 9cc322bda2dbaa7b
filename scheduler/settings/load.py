"""Loading: defaults, then the file, then the variables; every mistake in one error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from scheduler.errors import ConfigError
from scheduler.gateway.node_fields import check_node_fields, nearest_name, parse_address
from scheduler.settings.environment import CONFIG_VARIABLE, Variables, read_variables
from scheduler.settings.problem import Path, Place, Problem, describe, dotted, is_covered, shown_value
from scheduler.settings.rule import RULES, warnings_of
from scheduler.settings.schema import SECRET_KEYS, SECTIONS, NodeSettings, Section, Settings, unit_of
from scheduler.settings.yaml_file import YamlFile, read_yaml_file

DEFAULT_FILE = FilePath("config.yaml")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings without mistakes, where each came from, and what is worth a line at start.

    `sources`: dotted key (`server.port`, `nodes`, `nodes[0]`) -> `default`, `config.yaml:12` or `LLM_SCHEDULER_...`.
    `path`: the file that was read, None where there was none.
    """

    settings: Settings
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    path: FilePath | None = None


def config_path(option: str | FilePath | None, environ: Mapping[str, str]) -> FilePath | None:
    """The file to load: the one of the command line, else that of LLM_SCHEDULER_CONFIG, else None (the default)."""
    name = option or environ.get(CONFIG_VARIABLE)
    return FilePath(name) if name else None


def load_settings(path: FilePath | None, environ: Mapping[str, str]) -> Loaded:
    """The settings in force. `path` None means ./config.yaml, or the defaults alone where there is no such file.

    Raises ConfigError with every mistake at once, one line each.
    """
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    file = read_yaml_file(path) if path is not None else YamlFile("")
    return _Reading(file, read_variables(environ)).finish(path)


def load_nodes(path: FilePath) -> tuple[list[dict[str, Any]], list[str]]:
    """The nodes of a file by the rules of `load_settings`, each with the fields that stand there; and the warnings.

    The other sections of a settings file, and the variables, do not count. Raises ConfigError with every mistake at
    once; a file without `nodes` is one.
    """
    file = read_yaml_file(path)
    if file.is_readable and "nodes" not in file.content:
        file.problems.append(Problem((), "has no nodes:, the list of nodes", Place(file.name)))
    file.content = {name: value for name, value in file.content.items() if name not in SECTIONS}
    loaded = _Reading(file, read_variables({})).finish(path)
    entries = file.content["nodes"] or []
    nodes = [node.model_dump(mode="json") for node in loaded.settings.nodes]
    given = [
        {name: value for name, value in node.items() if entry.get(name) is not None}
        for node, entry in zip(nodes, entries, strict=True)
    ]
    return given, loaded.warnings


class _Reading:
    """One pass over file and variables: collects values and problems, then judges them together."""

    def __init__(self, file: YamlFile, variables: Variables) -> None:
        self._file = file
        self._variables = variables
        self._problems = [*file.problems, *variables.problems]
        self._spoilt: set[Path] = {*file.spoilt, *variables.spoilt}
        self._warnings = [*variables.warnings]

    def finish(self, path: FilePath | None) -> Loaded:
        self._find_unknown_sections()
        parts: dict[str, Any] = {name: self._section(name, model) for name, model in SECTIONS.items()}
        parts["nodes"] = self._nodes()
        settings = Settings(**parts)
        self._check_rules(settings)
        if self._problems:
            raise ConfigError([str(problem) for problem in sorted(self._problems, key=lambda each: each.order)])
        return Loaded(settings, self._sources(settings), [*self._warnings, *warnings_of(settings)], path)

    def _find_unknown_sections(self) -> None:
        for name in self._file.content:
            if name not in SECTIONS and name != "nodes":
                homes = [section for section, model in SECTIONS.items() if name in model.model_fields]
                near = nearest_name(name, [*SECTIONS, "nodes"])
                hint = f"did you mean {homes[0]}.{name}?" if homes else f"did you mean {near}?" if near else ""
                known = ", ".join([*SECTIONS, "nodes"])
                self._report((name,), f"unknown section; {hint or f'the sections are {known}'}")

    def _section(self, name: str, model: type[Section]) -> Section:
        """The section without its bad keys, which are reported."""
        given = self._file.content.get(name)
        if given is None:  # `server:` with nothing below it
            given = {}
        elif not isinstance(given, dict):
            self._report((name,), f"must hold keys such as {next(iter(model.model_fields))}:, not {shown_value(given)}")
            given = {}
        values = {}
        for key, value in given.items():
            if key in model.model_fields:
                values[key] = value
            else:
                self._report((name, key), f"unknown key; {_hint(name, key)}")
        values |= {key: value for (section, key), value in self._variables.values.items() if section == name}
        try:
            return model.model_validate(values)
        except ValidationError as error:
            for fault in error.errors():
                self._report_fault((name, *fault["loc"]), fault)
            bad = {fault["loc"][0] for fault in error.errors()}
            return model.model_validate({key: value for key, value in values.items() if key not in bad})

    def _report_fault(self, path: Path, fault: Any) -> None:
        section, key = str(path[0]), str(path[1])
        if fault["type"] == "extra_forbidden":
            known = ["name", "key"] if key == "admin_api_keys" else ["name", "key", "priority", "max_priority"]
            near = nearest_name(str(path[-1]), known)
            if near:
                return self._report(path, f"unknown key; did you mean {near}?")
            # The unknown name is not shown: `- sk-secret:` makes a name of a key.
            return self._report(path[:-1], f"has an unknown key; the keys are {', '.join(known)}")
        if fault["type"] == "missing":
            return self._report(path, "is required")
        if key in ("api_keys", "admin_api_keys") and fault["type"] == "model_type":
            what = (
                "text in quotes"
                if key == "admin_api_keys"
                else "text in quotes, or {name, key, priority, max_priority}"
            )
            return self._report(path, f"must be {what}; YAML reads it as {_kind(fault['input'])}")
        place = self._place(path)
        is_secret = f"{section}.{key}" in SECRET_KEYS and path[-1] not in ("name", "priority", "max_priority")
        text = place.text if place and place.line else None
        return self._report(_without_key(path, self._file), describe(fault, text, is_secret, unit_of(section, key)))

    def _nodes(self) -> tuple[NodeSettings, ...]:
        given = self._file.content.get("nodes") or []
        if not isinstance(given, list):
            self._report(("nodes",), f"must be a list of nodes, not {shown_value(given)}")
            return ()
        nodes = []
        for index, entry in enumerate(given):
            if not isinstance(entry, dict):
                message = f"must be a node such as {{id: gpu-01, address: ...}}, not {shown_value(entry)}"
                self._report(("nodes", index), message)
                continue
            values, faults = check_node_fields(entry, partial=False)
            if "state" in entry:
                faults = [fault for fault in faults if fault[0] != "state"]
                faults.append(("state", "is not set in the file; use the admin API or `llm-scheduler nodes set`"))
            for param, message in faults:
                self._report(("nodes", index, param), message)
            if not faults:
                nodes.append(NodeSettings(**values))
                note = parse_address(entry["address"]).note
                if note:
                    place = self._place(("nodes", index, "address"))
                    self._warnings.append(str(Problem(("nodes", index, "address"), note, place)))
        return tuple(nodes)

    def _check_rules(self, settings: Settings) -> None:
        if not self._file.is_readable:
            return  # what the file says about the other keys is not known
        bad = {*self._spoilt, *(problem.path for problem in self._problems)}
        for rule in RULES:
            if any(is_covered(key, bad) for key in rule.keys):
                continue
            for path, message in rule.check(settings):
                self._problems.append(Problem(path, message, self._place(path) or self._place_of_any(rule.keys)))

    def _report(self, path: Path, message: str) -> None:
        if not is_covered(path, self._spoilt):
            self._problems.append(Problem(path, message, self._place(path)))

    def _place(self, path: Path) -> Place | None:
        if len(path) >= 2 and (str(path[0]), str(path[1])) in self._variables.places:
            return self._variables.places[str(path[0]), str(path[1])]
        return self._file.place(path)

    def _place_of_any(self, keys: tuple[Path, ...]) -> Place | None:
        return next((place for place in map(self._place, keys) if place), None)

    def _sources(self, settings: Settings) -> dict[str, str]:
        sources = {}
        for section, model in SECTIONS.items():
            for key in model.model_fields:
                path: Path = (section, key)
                is_given = path in self._variables.places or path in self._file.places
                place = self._place(path) if is_given else None
                sources[dotted(path)] = place.source if place else "default"
        for path in [("nodes",), *(("nodes", index) for index in range(len(settings.nodes)))]:
            sources[dotted(path)] = self._file.places[path].source if path in self._file.places else "default"
        return sources


def _hint(section: str, key: str) -> str:
    homes = [other for other, model in SECTIONS.items() if key in model.model_fields]
    if homes:
        return f"did you mean {homes[0]}.{key}?"
    near = nearest_name(key, SECTIONS[section].model_fields)
    return f"did you mean {near}?" if near else f"the keys are {', '.join(SECTIONS[section].model_fields)}"


def _without_key(path: Path, file: YamlFile) -> Path:
    """A plain text in a list of keys is checked as `[0].key`, and stands in the file as `[0]`."""
    return path[:-1] if path[-1] == "key" and path not in file.places else path


def _kind(value: Any) -> str:
    return shown_value(value) if isinstance(value, list | bool) or value is None else "a number"
