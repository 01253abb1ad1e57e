"""Reads a result.json back, or says in one line each what is wrong with it.

The file may come from another version or from an editor, so it is checked before anything is drawn: its
size, its syntax, its schema version, then every field. Older readers refuse newer documents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NoReturn

from pydantic import ValidationError

from sim.errors import InputError, Problem
from sim.results.schema import SCHEMA_VERSION, Result

MAX_BYTES: Final = 200_000_000
"""Larger than any Result: its timelines are capped."""

MAX_PROBLEMS: Final = 20


def load_result(path: str | Path) -> Result:
    """The Result held in a JSON file; InputError when the file is not one this version can read."""
    document = _parse(path, _read(path))
    _check_version(path, document)
    try:
        return Result.model_validate(document)
    except ValidationError as error:
        raise InputError(_problems(path, error)) from None


def _read(path: str | Path) -> str:
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            _refuse(path, f"{size:,} bytes is too large for a result (limit {MAX_BYTES:,})")
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror or type(error).__name__})")
    except UnicodeDecodeError:
        _refuse(path, "is not a result: not UTF-8 text")


def _parse(path: str | Path, text: str) -> dict[str, Any]:
    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        document = json.loads(text, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        problem = Problem(str(path), error.lineno, error.colno, None, f"is not JSON: {error.msg}")
        raise InputError([problem]) from None
    except RecursionError:
        _refuse(path, "is not a result: nested too deeply")
    except ValueError as error:
        _refuse(path, f"is not a result: {error}")
    if not isinstance(document, dict):
        _refuse(path, "is not a result: the document must be a JSON object")
    return document


def _check_version(path: str | Path, document: dict[str, Any]) -> None:
    if "schema_version" not in document:
        _refuse(path, "is not a result: it has no schema_version", "schema_version")
    version = document["schema_version"]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        _refuse(path, f"unknown version {json.dumps(version)[:40]}", "schema_version")
    if version > SCHEMA_VERSION:
        message = f"version {version} is newer than this program's {SCHEMA_VERSION}: update gpu-cluster-sim"
        _refuse(path, message, "schema_version")


def _problems(path: str | Path, error: ValidationError) -> list[Problem]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [
        Problem(str(path), None, None, _dotted(item["loc"]), _sentence(item["type"], item["msg"]))
        for item in found[:MAX_PROBLEMS]
    ]
    if len(found) > MAX_PROBLEMS:
        rest = f"and {len(found) - MAX_PROBLEMS} more problems"
        problems.append(Problem(str(path), None, None, None, rest))
    return problems


def _sentence(kind: str, message: str) -> str:
    return "is missing" if kind == "missing" else message[0].lower() + message[1:]


def _dotted(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _refuse(path: str | Path, message: str, field: str | None = None) -> NoReturn:
    raise InputError([Problem(str(path), None, None, field, message)])
