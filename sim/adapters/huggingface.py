"""A model's shape from a local Hugging Face ``config.json``. Nothing is fetched and no code of a model runs.

Families name the same numbers differently and leave out those that equal their class's default: see
:mod:`sim.adapters.huggingface_families`. A model that a decoder-only transformer does not describe is refused rather
than approximated: mixtures of experts and latent attention (MLA) outside the families that have them, encoder-decoders,
and families not listed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.adapters.huggingface_families import (
    ENCODER_DECODERS,
    EXPERTS,
    FAMILIES,
    LATENT,
    MIXTURES,
    shown_short,
)
from sim.adapters.yaml_source import shown
from sim.errors import InputError, Problem, did_you_mean
from sim.spec.transformer import Transformer

MAX_BYTES = 5_000_000
MAX_WIDTH = 10_000_000
MAX_PARAMETERS = 1e14


def read_config(path: Path) -> Transformer:
    """The model of a ``config.json`` (the file, or the folder that holds it); InputError if it is none."""
    try:
        file = path / "config.json" if path.is_dir() else path
        text = _text(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError([Problem(str(path), None, None, None, f"cannot be read ({reason})")]) from None
    return Config(str(file), text).model(_name(file))


def _text(file: Path) -> str:
    """The file's text, if it can be a configuration at all."""

    def refusal(message: str, suggestion: str | None = None) -> InputError:
        return InputError([Problem(str(file), None, None, None, message, suggestion)])

    if not file.exists():
        raise refusal("no such model configuration", _near(file))
    if not file.is_file():
        raise refusal("is not a file")
    with open(file, "rb") as handle:
        raw = handle.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise refusal(f"larger than {MAX_BYTES // 10**6} MB: that is no config.json")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(f"is not UTF-8 text (byte 0x{error.object[error.start]:02x})") from None
    if not text.strip():
        raise refusal("the model configuration is empty")
    return text


def _near(file: Path) -> str | None:
    """A file or folder of nearly that name beside it."""
    try:
        entries = itertools.islice(file.parent.iterdir(), 2000)
        return did_you_mean(file.name, sorted(entry.name for entry in entries))
    except OSError:
        return None


def _name(file: Path) -> str:
    """The folder's name, or the file's when it is not just config.json, as an id."""
    folder = file.absolute().parent
    name = file.stem if file.name != "config.json" else folder.resolve().name
    if file.name == "config.json" and folder.parent.name == "snapshots":  # a download cache: named by commit
        name = folder.parent.parent.name.removeprefix("models--")
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).lstrip("._+-").rstrip("-")
    return safe[:80] or "model"


class Config:
    """The parsed file, and what is wrong with it so far."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        data = self._parsed()
        if not isinstance(data, dict):
            raise self.refusal(None, f"a config.json holds a mapping, not {shown(data)}")
        self.data: Mapping[str, Any] = data

    def _parsed(self) -> Any:
        def constant(word: str) -> None:
            raise ValueError(f"{word} is not a number in JSON")

        try:
            return json.loads(self.text, parse_constant=constant)
        except json.JSONDecodeError as error:
            problem = Problem(self.file, error.lineno, error.colno, None, f"not valid JSON: {error.msg}")
            raise InputError([problem]) from None
        except RecursionError:
            raise self.refusal(None, "not valid JSON: nested too deep") from None
        except ValueError as error:
            raise self.refusal(None, f"not valid JSON: {str(error)[:80]}") from None

    def model(self, name: str) -> Transformer:
        """The transformer the file describes."""
        kind = self._kind()
        shape = FAMILIES[kind](self)
        if self.problems:
            raise InputError(self.problems)
        if shape["heads"] % shape["kv_heads"]:
            message = f"{shape['heads']} attention heads are not a multiple of {shape['kv_heads']} kv heads"
            raise self.refusal(None, message)
        self._note_approximations(shape["context"])
        source, notes = f"Hugging Face config.json {kind}", "; ".join(self.notes)
        try:
            model = Transformer(id=name, name=name, source=source, notes=notes, **shape)
        except ValidationError as error:  # a product of the file's numbers is out of bounds
            first = error.errors()[0]
            raise self.refusal(None, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if model.parameters > MAX_PARAMETERS:
            raise self.refusal(None, f"comes to {model.parameters:.2g} parameters, which no model has")
        return model

    def _kind(self) -> str:
        """The model's family, if it is one that is read."""
        kind = self.data.get("model_type")
        nested = self.data.get("ffn_config")
        parts = [self.data, nested if isinstance(nested, dict) else {}]
        parts += [part for key in ("text_config", "llm_config") if isinstance(part := self.data.get(key), dict)]
        for key in () if kind in MIXTURES else EXPERTS:
            if any(part.get(key) not in (None, 0, 1, False) for part in parts):
                known = ", ".join(MIXTURES)
                raise self.refusal(key, f"mixtures of experts are read of these model types only: {known}")
        for part in () if kind in LATENT else parts:
            if part.get("kv_lora_rank") is not None:
                known = ", ".join(LATENT)
                message = f"multi-head latent attention (MLA) is read of these model types only: {known}"
                raise self.refusal("kv_lora_rank", message)
        if self.data.get("is_encoder_decoder") is True or kind in ENCODER_DECODERS:
            key = "model_type" if kind in ENCODER_DECODERS else "is_encoder_decoder"
            raise self.refusal(key, "encoder-decoder models are not supported, only decoder-only ones")
        if kind is None:
            raise self.refusal(None, "model_type is missing: is this the config.json of a Hugging Face model?")
        if not isinstance(kind, str):
            raise self.refusal("model_type", f"must be text, not {shown(kind)}")
        if kind not in FAMILIES:
            raise self._unknown(kind)
        return kind

    def _unknown(self, kind: str) -> InputError:
        bare = ascii(kind[:40])
        if "moe" in kind.casefold() or kind == "dbrx":
            known = ", ".join(MIXTURES)
            message = f"mixtures of experts are read of these model types only: {known}, not {bare}"
            return self.refusal("model_type", message)
        if isinstance(self.data.get("text_config"), dict):
            message = f"{bare} nests its language model: put what is under text_config into a file of its own"
            return self.refusal("model_type", message)
        known = ", ".join(name for name in FAMILIES if not name.startswith("Refined"))
        return self.refusal("model_type", f"unknown model type {bare} (known: {known})", did_you_mean(kind, FAMILIES))

    def _note_approximations(self, context: int) -> None:
        window = self.data.get("sliding_window")
        if isinstance(window, int) and window < context and self.data.get("use_sliding_window") is not False:
            self.notes.append(f"sliding_window {window} is not modelled: every layer attends to the full context")
        if self.data.get("quantization_config") is not None:
            self.notes.append("quantization_config is not read: the scenario's precision holds")

    # -- What the families ask for

    def problem(self, key: str | None, message: str, suggestion: str | None = None) -> Problem:
        """A problem with a key, at its line where the key occurs once."""
        found = list(itertools.islice(re.finditer(rf'"{re.escape(key)}"\s*:', self.text), 2)) if key else []
        line = column = None
        if len(found) == 1:
            before = self.text[: found[0].start()]
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return Problem(self.file, line, column, key, message, suggestion)

    def refusal(self, key: str | None, message: str, suggestion: str | None = None) -> InputError:
        """An error of this one problem."""
        return InputError([self.problem(key, message, suggestion)])

    def number(
        self, *keys: str, default: int | None = None, most: int = MAX_WIDTH, part: Mapping[str, Any] | None = None
    ) -> int:
        """The first of the keys that has a value, from 1 to ``most``; 1 and a problem if it is wrong."""
        data = self.data if part is None else part
        for key in keys:
            value = data.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self.problems.append(self.problem(key, f"must be a whole number, not {shown_short(value)}"))
            elif not 1 <= value <= most:
                self.problems.append(self.problem(key, f"must be between 1 and {most:,}, not {shown_short(value)}"))
            else:
                return value
            return 1
        if default is not None:
            return default
        names = " or ".join(keys)
        others = [key for key in data if key.isidentifier() and key not in keys]
        self.problems.append(self.problem(None, f"{names} is missing", did_you_mean(keys[0], others)))
        return 1

    def flag(self, key: str, default: bool, part: Mapping[str, Any] | None = None) -> bool:
        """A truth value."""
        value = (self.data if part is None else part).get(key)
        if value is not None and not isinstance(value, bool):
            self.problems.append(self.problem(key, f"must be true or false, not {shown_short(value)}"))
        return value if isinstance(value, bool) else default

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A mapping within the file (empty when it is not there)."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, dict):
            self.problems.append(self.problem(key, f"must be a mapping, not {shown_short(value)}"))
        return value if isinstance(value, dict) else {}

    def head_dim(self, hidden: int, heads: int) -> int:
        """What each head has of the hidden width."""
        if hidden % heads and not self.problems:
            self.problems.append(self.problem(None, f"the width {hidden} is not a multiple of {heads} heads"))
        return max(hidden // heads, 1)

    def context_or(self, default: int, *keys: str) -> int:
        """The context, or the one the family was trained with, and a note that says so."""
        context = self.number(*keys, default=0)
        if context == 0:
            self.notes.append(f"the file names no context: {default}, this family's default")
        return context or default
