"""YAML with a memory: plain data, and for every value the line and column it was written at.

Nodes are built here from the parser's event stream, so that hostile depth or size is refused before it is
built (PyYAML's own composer recurses in C and would crash). Scalars follow the YAML 1.2 core schema: `no` and
`1:30` are text, `1e3` is a number. Aliases and `<<` merges work, within a bound on what they expand to.

`apply_overrides` sets values from the command line.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel

from sim.errors import InputError, Problem, did_you_mean

KeyPath = tuple[str | int, ...]
Position = tuple[int, int]
Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 5_000_000
MAX_DEPTH = 50
MAX_NODES = 100_000
MAX_ALIAS_DEPTH = 20
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
#: What libyaml itself says of nesting far beyond that (from 0.2.6 on).
_PARSER_TOO_DEEP = "exceeded maximum nesting depth"


class Place(NamedTuple):
    """Where something was written; line and column are unknown for a value set on the command line."""

    file: str
    line: int | None
    column: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """Plain data and where each part of it was written; lines and columns count from 1."""

    data: Any
    positions: dict[KeyPath, Position]
    """Path of each value -> where the value starts."""
    file: str
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    """Path of each value in a mapping -> where its key starts."""
    overrides: dict[KeyPath, str] = field(default_factory=dict)
    """Path of each value set on the command line -> the option that set it."""

    def place(self, path: KeyPath, key: bool = False) -> Place:
        """Where the value at `path` (or its key) was written, or else what is nearest around it."""
        for length in range(len(path), -1, -1):
            part = path[:length]
            if part in self.overrides:
                return Place(self.overrides[part], None, None)
            found = (self.keys if key and length == len(path) else self.positions).get(part)
            if found is not None:
                return Place(self.file, *found)
        return Place(self.file, None, None)

    def problem(
        self, path: KeyPath, message: str, suggestion: str | None = None, key: bool = False
    ) -> Problem:
        """A problem with the value at `path`, naming its place."""
        return Problem(*self.place(path, key), ".".join(map(str, path)) or None, message, suggestion)


def load_yaml(path: str | os.PathLike[str]) -> Source:
    """The YAML file at `path`; raises `InputError` for anything that is not a small, plain YAML document."""
    file = os.fspath(path)
    try:
        with open(file, "rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError([_unreadable(file, error)]) from None
    if len(raw) > MAX_BYTES:
        raise _refusal(file, None, f"larger than {MAX_BYTES // 10**6} MB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]
        raise _refusal(file, _end_of(before.decode()), f"not UTF-8 text (byte 0x{byte:02x})") from None
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str = "<text>") -> Source:
    """YAML text as a `Source`; `file` is the name that errors give."""
    source = _read(text, file)
    if source is None:
        raise _refusal(file, (1, 1), "the file is empty")
    return source


def _unreadable(file: str, error: Exception) -> Problem:
    """Why the file cannot be opened, with a file of nearly that name from the same folder."""
    reason = {"FileNotFoundError": "no such file", "IsADirectoryError": "is a folder, not a file"}.get(
        type(error).__name__
    )
    folder, name = os.path.split(os.path.normpath(file))
    near = None
    if reason and os.path.isdir(folder or "."):
        with os.scandir(folder or ".") as entries:
            near = did_you_mean(name, (e.name for e in itertools.islice(entries, 2000) if e.is_file()))
    if reason and not near:
        near, shipped = _shipped(file)
        folder, reason = "", reason + shipped
    text = reason or f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return Problem(file, None, None, None, text, near and os.path.join(folder, near))


def _shipped(file: str) -> tuple[str | None, str]:
    """Of a shipped scenario's name its file, if that lies here; else how to get it."""
    from sim.catalog import shipped

    name = file.removesuffix(".yaml").removesuffix(".yml").removeprefix("scenarios/")
    here = os.path.join("scenarios", f"{name}.yaml")
    if os.path.isfile(here):
        return here, ""
    known = [path.stem for path in shipped("scenarios")]
    known += [f"article/{path.stem}" for path in shipped("scenarios/article")]
    return None, f": sim init {name} writes the shipped scenario of that name" if name in known else ""


def _refusal(file: str, position: Position | None, message: str) -> InputError:
    line, column = position or (None, None)
    return InputError([Problem(file, line, column, None, message)])


def _end_of(text: str) -> Position:
    return text.count("\n") + 1, len(text) - text.rfind("\n")


# ---- Reading

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOT_TEXT = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, Any] = {"": None, "~": None, ".nan": math.nan, ".NaN": math.nan, ".NAN": math.nan}
for _word, _value in {"null": None, "true": True, "false": False}.items():
    _CONSTANTS |= dict.fromkeys((_word, _word.capitalize(), _word.upper()), _value)
for _word in (".inf", ".Inf", ".INF"):
    _CONSTANTS |= {_word: math.inf, "+" + _word: math.inf, "-" + _word: -math.inf}
_CORE = "tag:yaml.org,2002:"
_TAGGED: dict[str, tuple[type, ...]] = {
    _CORE + "null": (type(None),),
    _CORE + "bool": (bool,),
    _CORE + "int": (int,),
    _CORE + "float": (int, float),
}
_HINTS = {
    "found character that cannot start any token": "a tab or reserved character; use blanks, or quote it",
    "mapping values are not allowed in this context": "a ':' is out of place; check indentation, or quote",
    "did not find expected key": "a key was expected here; check indentation",
    "could not find expected ':'": "a ':' was expected after the key",
    "found unexpected end of stream": "the text ends before the closing quote",
}


@dataclass(slots=True)
class _Node:
    position: Position
    value: Any = None
    """A scalar, a list of nodes, or for a mapping: key -> (position of the key, node)."""
    merges: list[_Node] = field(default_factory=list)
    target: _Node | None = None
    """The node an alias stands for."""


def _read(text: str, file: str) -> Source | None:
    bad = _NOT_TEXT.search(text)
    if bad:
        what = "a NUL byte" if bad[0] == "\0" else f"a control character (U+{ord(bad[0]):04X})"
        raise _refusal(file, _end_of(text[: bad.start()]), f"{what} is not text")
    builder = _Builder(text, file)
    try:
        root = builder.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.problem == _PARSER_TOO_DEEP:
            raise _refusal(file, (mark.line + 1, mark.column + 1) if mark else None, _TOO_DEEP) from None
        message = _HINTS.get(error.problem or "", error.problem or "no reason known")
        if error.context and error.context_mark and error.context_mark.line != getattr(mark, "line", None):
            message += f", {error.context} that starts at line {error.context_mark.line + 1}"
        position = (mark.line + 1, mark.column + 1) if mark else None
        raise _refusal(file, position, f"not valid YAML: {message}") from None
    except yaml.YAMLError as error:
        raise _refusal(file, None, f"not valid YAML: {error}") from None
    if builder.problems:
        raise InputError(builder.problems)
    return _Expansion(file).source(root) if root else None


class _Builder:
    """Events to nodes. Small faults are gathered; a document too deep is refused at once."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self.anchors: dict[str, _Node] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def document(self) -> _Node | None:
        root = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root:
                    raise _refusal(self.file, self.position(event), "only one YAML document per file")
                root = self.node(next(self.events), 1)
        return root

    @staticmethod
    def position(event: Any) -> Position:
        return event.start_mark.line + 1, event.start_mark.column + 1

    def fault(self, event: Any, message: str) -> None:
        self.problems.append(Problem(self.file, *self.position(event), None, message))
        if len(self.problems) >= 100:
            raise InputError(self.problems)

    def node(self, event: Any, depth: int) -> _Node:
        node = _Node(self.position(event))
        self.count += 1
        if self.count > 2 * MAX_NODES or depth > MAX_DEPTH:  # keys are nodes here, but not values
            what = _TOO_DEEP if depth > MAX_DEPTH else f"over {MAX_NODES:,} values"
            raise _refusal(self.file, node.position, what)
        if isinstance(event, yaml.AliasEvent):
            node.target = self.anchors.get(event.anchor or "")
            if node.target is None:
                self.fault(event, f"alias '*{event.anchor}' stands before the end of its anchor, or has none")
            return node
        if isinstance(event, yaml.MappingStartEvent):
            self.collection_tag(event, "map")
            self.mapping(node, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.collection_tag(event, "seq")
            node.value = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                node.value.append(self.node(item, depth + 1))
        else:
            node.value = self.scalar(event)
        if event.anchor:  # only now, so that a node cannot contain itself
            self.anchors[event.anchor] = node
        return node

    def mapping(self, node: _Node, depth: int) -> None:
        node.value = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            name = key.target.value if key.target else key.value
            if name == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                node.merges += value.value if isinstance(value.value, list) else [value]
            elif not isinstance(name, str):
                scalar = isinstance(event, yaml.ScalarEvent)
                self.fault(event, f"a key must be text{f': put {event.value!r} in quotes' if scalar else ''}")
            elif name in node.value:
                line = node.value[name][0][0]
                self.fault(event, f"the key '{name}' is given twice, first at line {line}")
            else:
                node.value[name] = key.position, value

    def collection_tag(self, event: Any, kind: str) -> None:
        if event.tag not in (None, "!", _CORE + kind):
            self.refuse_tag(event)

    def refuse_tag(self, event: Any) -> None:
        tag = event.tag.replace(_CORE, "!!")
        self.fault(event, f"YAML tags such as {tag} are not accepted")

    def scalar(self, event: Any) -> Any:
        if event.tag in ("!", _CORE + "str") or (event.tag is None and not event.implicit[0]):
            return event.value
        if event.tag is not None and event.tag not in _TAGGED:
            return self.refuse_tag(event)
        value = _plain_scalar(event.value)
        if event.tag and not isinstance(value, _TAGGED[event.tag]):
            self.fault(event, f"'{event.value}' is not {event.tag.replace(_CORE, '!!')}")
        if isinstance(value, OverflowError):
            self.fault(event, str(value))
        return value


def _plain_scalar(text: str) -> Any:
    """An unquoted scalar by the YAML 1.2 core schema (an OverflowError, returned, for a number too large)."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    whole = _INTEGER.fullmatch(text)
    if not whole and not _FLOAT.fullmatch(text):
        return text
    if len(text) > 300:
        return OverflowError("a number of more than 300 characters")
    if whole:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text) if math.isfinite(float(text)) else OverflowError(f"the number {text} is too large")


class _Expansion:
    """Nodes to plain data and positions, aliases and merges written out, within a budget."""

    def __init__(self, file: str) -> None:
        self.result = Source(None, {}, file)
        self.count = 0

    def source(self, root: _Node) -> Source:
        return replace(self.result, data=self.value(root, (), 0))

    def spend(self, node: _Node, cost: int, depth: int, aliases: int) -> None:
        self.count += cost
        what = None
        if self.count > MAX_NODES:
            what = f"over {MAX_NODES:,} values once its aliases are written out"
        elif aliases > MAX_ALIAS_DEPTH:
            what = f"aliases within aliases more than {MAX_ALIAS_DEPTH} deep"
        elif depth >= MAX_DEPTH:
            what = f"nested more than {MAX_DEPTH} deep once its aliases are written out"
        if what:
            raise _refusal(self.result.file, node.position, what)

    def value(self, node: _Node, path: KeyPath, aliases: int) -> Any:
        self.result.positions[path] = node.position
        while node.target:
            node, aliases = node.target, aliases + 1
        self.spend(node, 1, len(path), aliases)
        if isinstance(node.value, list):
            return [self.value(item, (*path, i), aliases) for i, item in enumerate(node.value)]
        if not isinstance(node.value, dict):
            return node.value
        data = {}
        for key, (position, item, inner) in self.entries(node, 0, aliases).items():
            self.result.keys[*path, key] = position
            data[key] = self.value(item, (*path, key), inner)
        return data

    def entries(self, node: _Node, depth: int, aliases: int) -> dict[str, tuple[Position, _Node, int]]:
        """A mapping's own keys, then those merged into it: the first to give a key wins."""
        found = {key: (position, item, aliases) for key, (position, item) in node.value.items()}
        for merged in node.merges:
            inner = aliases
            while merged.target:
                merged, inner = merged.target, inner + 1
            if not isinstance(merged.value, dict):
                raise _refusal(self.result.file, merged.position, "'<<' merges mappings only")
            self.spend(merged, 1 + len(merged.value), depth, inner)
            for key, entry in self.entries(merged, depth + 1, inner).items():
                found.setdefault(key, entry)
        return found


# ---- Values set on the command line


def apply_overrides(source: Source, overrides: Sequence[str]) -> Source:
    """A copy of the source with each "path.to.value=yaml" set; missing mappings on the way are made."""
    result = replace(
        source,
        data=copy.deepcopy(source.data),
        positions=dict(source.positions),
        keys=dict(source.keys),
        overrides=dict(source.overrides),
    )
    problems: list[Problem] = []
    for text in overrides:
        try:
            _override(result, text)
        except InputError as error:
            problems += [replace(p, line=None, column=None) for p in error.problems]
    if problems:
        raise InputError(problems)
    return result


def _override(source: Source, text: str) -> None:
    label = f"--set {text}"
    left, equals, right = text.partition("=")
    steps = [step.strip() for step in left.split(".")]
    if not equals or not all(steps):
        raise _refusal(label, None, "must be written path=value, for example plan.pp=4")
    read = _read(right, label)
    value = read.data if read else None
    path: KeyPath = ()
    here = source.data
    for last, step in zip([False] * (len(steps) - 1) + [True], steps, strict=True):
        key = _step_into(here, step, path, label)
        path = (*path, key)
        known = not isinstance(here, dict) or here.get(key) is not None
        if last or not known or here[key] is None:
            here[key] = value if last else {}
            _forget(source, path)
            source.overrides[path] = label
        here = here[key]


def _step_into(here: Any, step: str, path: KeyPath, label: str) -> str | int:
    """The key or index that `step` means in `here`."""
    name = ".".join(map(str, path)) or "the document"
    if isinstance(here, dict):
        return step
    if not isinstance(here, list):
        raise _refusal(label, None, f"{name} is {shown(here)}, which has no '{step}' to set")
    if not re.fullmatch("[0-9]{1,9}", step) or int(step) >= len(here):
        indices = f"0 to {len(here) - 1}" if here else "none, it is empty"
        raise _refusal(label, None, f"'{step}' is not an item of the list {name} (items: {indices})")
    return int(step)


def _forget(source: Source, path: KeyPath) -> None:
    """Drop what was known of the places at and below `path`."""
    for table in (source.positions, source.keys, source.overrides):
        for known in [known for known in table if known[: len(path)] == path]:
            del table[known]


def shown(value: Any) -> str:
    """A value as an error names it."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = str(value)
    text = text if len(text) <= 40 else text[:37] + "..."
    return f"'{text}'" if isinstance(value, str) else text
