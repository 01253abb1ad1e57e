"""Validation with a memory: a pydantic model over YAML data, each error in plain English at its place.

Pydantic's error location also names union branches, which are not in the file, so it is walked along the
model's types. Of a union only the branch that was most likely meant is reported.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, Tag, ValidationError

from sim.adapters.key_hints import KeyHints
from sim.adapters.yaml_source import KeyPath, Source, shown
from sim.errors import InputError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)



def validate(
    model_cls: type[Model],
    source: Source,
    *,
    context: Mapping[str, Any] | None = None,
    base_path: KeyPath = (),
) -> Model:
    """The part of the source at `base_path` as a model; all that is wrong with it as one `InputError`."""
    data = source.data
    for step in base_path:
        data = data[step]
    try:
        return model_cls.model_validate(data, context=dict(context or {}))
    except ValidationError as error:
        faults = [_fault(model_cls, data, details) for details in error.errors(include_url=False)]
    faults += _behind_tags(model_cls, data, faults, dict(context or {}))
    faults = _without_echoes(_relevant(faults, 0))
    problems = [
        source.problem((*base_path, *fault.path), fault.text(), fault.suggestion, fault.key)
        for fault in faults
    ]
    raise InputError(sorted(problems, key=lambda p: (p.line or 0, p.column or 0)))


def _behind_tags(
    model_cls: type[BaseModel], data: Any, faults: Sequence[_Fault], context: dict[str, Any]
) -> list[_Fault]:
    """Faults inside mappings whose kind is misspelt: with the kind that was meant, the rest can be read too."""
    meant = {fault.path: fault.suggestion for fault in faults if fault.kind == "union_tag_invalid" and fault.suggestion}
    if not meant:
        return []
    mended = deepcopy(data)
    for path, tag in meant.items():
        part = mended
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = tag
    try:
        model_cls.model_validate(mended, context=context)
    except ValidationError as error:
        found = [_fault(model_cls, mended, details) for details in error.errors(include_url=False)]
        inside = [path[:-1] for path in meant]
        there = [fault for fault in found if fault.kind != "missing"]  # what a kind wants is told once it is known
        return [fault for fault in there if any(fault.path[: len(path)] == path for path in inside)]
    return []


@dataclass(frozen=True, slots=True)
class _Trail:
    """Where an error location leads: the path in the data, and the types met on the way."""

    path: KeyPath = ()
    end: Any = Any
    """Type of the value the path leads to."""
    owner: Any = Any
    """Type of the mapping or list that holds it."""
    branches: tuple[tuple[KeyPath, str], ...] = ()
    """Each union on the way: its own location, and the branch the error is of."""
    key: bool = False
    """True where the error is of the key itself."""
    misses: int = 0
    """Parts of the location that neither the types nor the data explain."""


@dataclass(frozen=True, slots=True)
class _Fault:
    kind: str
    path: KeyPath
    trail: _Trail
    message: str
    given: str = ""
    suggestion: str | None = None
    key: bool = False

    def text(self) -> str:
        return self.message + (f", not {self.given}" if self.given else "")


def _walk(annotation: Any, value: Any, loc: KeyPath, trail: _Trail, done: KeyPath = ()) -> _Trail:
    """Follow pydantic's location `loc` through the types and the data at once."""
    annotation = _unwrapped(annotation)
    if not loc:
        return replace(trail, end=annotation)
    head, rest, seen = loc[0], loc[1:], (*done, loc[0])
    members = _members(annotation)
    if len(members) > 1:
        trail = replace(trail, branches=(*trail.branches, (done, str(head))))
        chosen = [member for member in members if _is_branch(member, str(head))] or members
        return min((_walk(m, value, rest, trail, seen) for m in chosen), key=lambda found: found.misses)
    if head == "[key]":
        return replace(trail, key=True)
    child, inside = _child(annotation, head), None
    if isinstance(value, dict):
        inside = value.get(head)
    elif isinstance(value, list) and isinstance(head, int) and head < len(value):
        inside = value[head]
    if child is None and inside is None and rest:  # a name given by a validator, not by the file
        return _walk(annotation, value, rest, replace(trail, misses=trail.misses + 1), seen)
    trail = replace(trail, path=(*trail.path, head), owner=annotation)
    return _walk(Any if child is None else child, inside, rest, trail, seen)


def _unwrapped(annotation: Any) -> Any:
    """The type without Annotated, aliases, root models and `| None`, none of which shows in a location."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):  # a TypeAliasType
            annotation = annotation.__value__
        elif isinstance(annotation, type) and issubclass(annotation, RootModel):
            annotation = annotation.model_fields["root"].annotation
        elif len(members := _members(annotation)) == 1 and members[0] is not annotation:
            annotation = members[0]
        else:
            return annotation


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    return [member for member in get_args(annotation) if member is not type(None)]


def _is_branch(member: Any, label: str) -> bool:
    """Whether pydantic names this member of a union by `label`."""
    if get_origin(member) is Annotated and Tag(label) in get_args(member)[1:]:
        return True
    member = _unwrapped(member)
    if len(_members(member)) > 1:
        return "union[" in label
    if isinstance(member, type) and issubclass(member, BaseModel):
        tags = [value for f in member.model_fields.values() for value in _literals(f.annotation)]
        return label in tags or re.search(rf"\b{re.escape(member.__name__)}\b", label) is not None
    name = getattr(get_origin(member) or member, "__name__", "")
    return label.startswith(name.lower()) or f"constrained-{name}" == label


def _literals(annotation: Any) -> list[str]:
    annotation = _unwrapped(annotation)
    return [str(value) for value in get_args(annotation)] if get_origin(annotation) is Literal else []


def _child(annotation: Any, key: str | int) -> Any:
    """The type of what `annotation` holds at `key`, None when it is not known."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return next((f.annotation for name, f in fields if key in (f.validation_alias, name)), None)
    arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    if not arguments:
        return None
    if isinstance(key, int) and get_origin(annotation) is tuple:
        return arguments[min(key, len(arguments) - 1)]
    return arguments[-1]  # of dict[K, V] and of list[V]


_SHAPES = {
    "string_type": "must be text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a mapping"),
    "none_required": "must be left empty",
    "unit_type": "",
}
_JARGON = (
    (re.compile(r"^(Value error|Assertion failed), "), ""),
    (re.compile(r"^[A-Z]\w* should (not )?"), r"must \1"),
    (re.compile(r" after validation"), ""),
)


def _fault(model_cls: type[BaseModel], data: Any, error: Any) -> _Fault:
    """One pydantic error as a fault: its path in the file and its meaning in plain English."""
    trail = _walk(model_cls, data, error["loc"], _Trail())
    kind, context = error["type"], error.get("ctx", {})
    fault = _Fault(kind, trail.path, trail, error["msg"], key=trail.key)
    if kind == "missing":
        return replace(fault, message="is missing")
    if kind == "extra_forbidden":
        message, close = KeyHints(model_cls, _members, _unwrapped).of(str(trail.path[-1]), trail.owner)
        return replace(fault, message=message, suggestion=close, key=True)
    if kind.startswith("union_tag"):
        return _tag_fault(fault, context)
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", context["expected"])
        close = did_you_mean(error["input"], allowed) if isinstance(error["input"], str) else None
        message = f"must be {context['expected']}"
        return replace(fault, message=message, given=shown(error["input"]), suggestion=close)
    if kind in _SHAPES:
        hint = ""
        if kind == "string_type" and isinstance(error["input"], (int, float)):
            hint = " (put it in quotes)"
        return replace(fault, message=_SHAPES[kind] or error["msg"], given=shown(error["input"]) + hint)
    message = error["msg"]
    for pattern, plain in _JARGON:
        message = pattern.sub(plain, message)
    bound = kind.startswith(("greater_than", "less_than"))
    return replace(fault, message=message, given=shown(error["input"]) if bound else "")


def _tag_fault(fault: _Fault, context: Mapping[str, Any]) -> _Fault:
    """A mapping whose kind is missing or unknown: the fault is of the field that tells the kind."""
    name = context["discriminator"].strip("'")
    path = (*fault.path, name) if name != context["discriminator"] else fault.path
    if fault.kind == "union_tag_not_found":
        kinds = [_child(_unwrapped(member), name) for member in _members(fault.trail.end)]
        known = [repr(value) for kind in kinds for value in _literals(kind)]
        message = f"is missing: must be {' or '.join(known)}" if known else "is missing"
        return replace(fault, path=path, message=message)
    allowed = re.findall(r"'([^']*)'", context["expected_tags"])
    message = f"must be {' or '.join(map(repr, allowed))}"
    close = did_you_mean(context["tag"], allowed)
    return replace(fault, path=path, message=message, given=shown(context["tag"]), suggestion=close)


def _relevant(faults: Sequence[_Fault], level: int) -> list[_Fault]:
    """Of each union, outermost first, only the faults of the branch the user most likely meant."""
    kept: list[_Fault] = []
    unions: dict[KeyPath, dict[str, list[_Fault]]] = {}
    for fault in faults:
        if len(fault.trail.branches) <= level:
            kept.append(fault)
        else:
            union, branch = fault.trail.branches[level]
            unions.setdefault(union, {}).setdefault(branch, []).append(fault)
    for branches in unions.values():
        kept += _likeliest([_relevant(branch, level + 1) for branch in branches.values()])
    return kept


def _likeliest(branches: list[list[_Fault]]) -> list[_Fault]:
    """The branch of the right shape with the fewest faults; if none fits, one fault naming every choice."""
    top = min(len(fault.path) for branch in branches for fault in branch)

    def rank(branch: list[_Fault]) -> tuple[int, int, int]:
        first = branch[0]
        choices = [fault for fault in branch if fault.kind in ("literal_error", "enum")]
        if len(first.path) > top or not (first in choices or first.kind in _SHAPES):
            return 0, len(choices), len(branch)
        return (-1 if first.suggestion else 1), 0, 0

    best = min(branches, key=rank)
    if len(branches) == 1 or rank(best)[0] <= 0:
        return best
    wants = dict.fromkeys(branch[0].message.removeprefix("must be ") for branch in branches)
    return [replace(best[0], message=f"must be {' or '.join(wants)}")]


def _without_echoes(faults: list[_Fault]) -> list[_Fault]:
    """Without 'x is missing' where 'y is unknown, did you mean x?' already says so, and without 'too few items'
    where the items themselves are at fault (pydantic leaves them out before it counts)."""
    meant = {(*fault.path[:-1], fault.suggestion) for fault in faults if fault.kind == "extra_forbidden"}
    inside = {fault.path[:n] for fault in faults for n in range(len(fault.path))}
    return [
        fault for fault in faults
        if not (fault.kind == "missing" and fault.path in meant)
        and not (fault.kind == "too_short" and fault.path in inside)
    ]  # fmt: skip
