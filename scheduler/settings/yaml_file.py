"""The settings file: strict YAML that knows the line of every value and takes nothing for something else."""

import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from scheduler.settings.problem import Path, Place, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20

_TAG = "tag:yaml.org,2002:"
_REFUSED = "refused"  # stands for an alias
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_PLAIN_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+")


@dataclass(slots=True)
class YamlFile:
    """What a file says: its content, the place of every value, and the mistakes a reader of YAML can see.

    `spoilt` holds the paths whose values are already reported: the schema need not complain about them again.
    """

    name: str
    content: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spoilt: set[Path] = field(default_factory=set)
    is_readable: bool = True  # False where the content could not be had as a whole

    def place(self, path: Path) -> Place | None:
        """The place of the value at `path`, or of the nearest thing around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path)


def read_yaml_file(path: FilePath) -> YamlFile:
    """The file's content and its mistakes; never raises for what is in the file or missing on the disk."""
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return _unreadable(name, 0, f"cannot be read ({error.strerror or error}); check the path and its permissions")
    if len(data) > MAX_BYTES:
        return _unreadable(name, 0, f"is larger than {MAX_BYTES // 1024} KiB; settings are smaller than that")
    try:
        return parse_yaml(data.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        return _unreadable(name, data.count(b"\n", 0, error.start) + 1, "is no UTF-8 text; save the file as UTF-8")


def parse_yaml(text: str, name: str = "config.yaml") -> YamlFile:
    """The content of a YAML text with the same checks as `read_yaml_file`."""
    file = YamlFile(name)
    try:
        loader = _StrictLoader(text, file)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return _unreadable(name, line, "has a control character that YAML does not allow; remove it")
    except yaml.MarkedYAMLError as error:
        # Only what the parser says about itself: its snippets could show a secret.
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        said = re.sub(r"'[^'<]{2,}'", "'...'", said)
        _add(file, (), mark.line + 1 if mark else 0, f"is no valid YAML: {said}")
        file.is_readable = False
        return file
    if root is None:
        return file
    if not isinstance(root, yaml.MappingNode):
        return _unreadable(name, root.start_mark.line + 1, "must hold sections such as server: and scheduler:")
    file.content = _construct(root, (), file)
    return file


def _unreadable(name: str, line: int, message: str) -> YamlFile:
    file = YamlFile(name, is_readable=False)
    _add(file, (), line, message)
    return file


def _add(file: YamlFile, path: Path, line: int, message: str) -> None:
    file.problems.append(Problem(path, message, Place(f"{file.name}:{line}" if line else file.name, line)))


class _StrictLoader(yaml.SafeLoader):
    """Refuses what settings never need: references, tags, and nesting without end."""

    def __init__(self, text: str, file: YamlFile) -> None:
        super().__init__(text)
        self._file = file
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            self._refuse(
                line, "aliases (*name) are not allowed; write the value out, or put it in quotes if it is text"
            )
            return yaml.ScalarNode(_REFUSED, "", event.start_mark, event.end_mark)  # type: ignore[arg-type]
        if event.anchor is not None:
            self._refuse(line, "anchors (&name) are not allowed; put the value in quotes if it is text")
            event.anchor = None
        if event.tag is not None:
            self._refuse(line, "tags (!name) are not allowed; put the value in quotes if it is text")
            event.tag = None
        if self._depth >= MAX_DEPTH and not isinstance(event, yaml.ScalarEvent):
            problem = f"nested deeper than {MAX_DEPTH} levels"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _refuse(self, line: int, message: str) -> None:
        _add(self._file, (), line, message)


def _construct(node: Any, path: Path, file: YamlFile) -> Any:
    line = node.start_mark.line + 1
    file.places.setdefault(path, Place(f"{file.name}:{line}", line))
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, path, file)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*path, index), file) for index, item in enumerate(node.value)]
    return _construct_scalar(node, path, file)


def _construct_mapping(node: Any, path: Path, file: YamlFile) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            _add(file, path, line, "a key must be plain text")
        elif key_node.tag == _REFUSED:
            continue
        elif key_node.tag != _TAG + "str":
            # Only words such as `on` are shown: a number may be an API key with a colon behind it.
            what = key_node.tag.removeprefix(_TAG)
            shown = f"the key {key}" if what == "bool" else "this key"
            _add(file, path, line, f"YAML reads {shown} as {_NAMES.get(what, 'something else')}; put it in quotes")
        elif key in content:
            first = file.places[(*path, key)].line
            _add(file, (*path, key), line, f"stands twice, first in line {first}; remove one")
            file.spoilt.add((*path, key))
        else:
            # The line of the key, not of the value: that is where the reader looks.
            file.places[(*path, key)] = Place(f"{file.name}:{line}", line)
            content[key] = _construct(value_node, (*path, key), file)
    return content


_NAMES = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}
_TRUE = ("yes", "true", "on")


def _construct_scalar(node: Any, path: Path, file: YamlFile) -> Any:
    """The value of a scalar. What YAML would turn into something that does not look like it is a problem."""
    text, kind = node.value, node.tag.removeprefix(_TAG)
    if kind == "str":
        return text
    if kind == _REFUSED:
        file.spoilt.add(path)
        return text
    line = node.start_mark.line + 1
    known = file.places[path]
    file.places[path] = Place(known.source, known.line, text)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in _TRUE
    if kind == "int" and _PLAIN_INT.fullmatch(text):
        return int(text)
    if kind == "float" and _PLAIN_FLOAT.fullmatch(text):
        return float(text)
    message = {
        "int": "YAML reads this as an octal, hexadecimal, base-60 or very long number; "
        "write plain decimal digits, or put it in quotes if it is text",
        "float": "YAML reads this as an unusual number; write plain decimals, or put it in quotes if it is text",
        "timestamp": "YAML reads this as a date; put it in quotes",
    }.get(kind, "YAML gives this a meaning of its own; put it in quotes")
    _add(file, path, line, message)
    file.spoilt.add(path)
    return text
