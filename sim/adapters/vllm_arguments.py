"""vLLM's arguments from where people have them: a command, a script, a file of arguments, a compose or pod file.

Nothing is run and no variable is filled in: what stands there is what is read.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.adapters.vllm_names import FLAGS, KNOWN, MANY, SHORT
from sim.adapters.yaml_source import KeyPath, load_yaml
from sim.errors import InputError, Problem, did_you_mean

Complain = Callable[[str, str | None], Problem]
#: Bytes of a script that are read.
MAX_BYTES = 1_000_000
#: Where a shell's command ends.
_ENDS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "2>&1", "2>", "<"})
_SERVER = re.compile(r"vllm\.entrypoints\.\S*api_server$|api_server\.py$")
_IMAGE = re.compile(r"vllm[\w.-]*/vllm[\w./-]*(:\S+)?(@\S+)?$|vllm-openai[\w.-]*(:\S+)?$")


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: its name without dashes, its value (True or False where it has none), and as it was written."""

    name: str
    value: Any
    said: str
    _complain: Complain

    def problem(self, message: str, suggestion: str | None = None) -> Problem:
        """What is wrong with it, at its place."""
        return self._complain(message, suggestion)


def read_arguments(said: str) -> list[Argument]:
    """The arguments of a command line, or of the file at that path. Raises InputError."""
    if not re.search(r"\s", said) and (path := _file(said)) is not None:
        if path.suffix in (".yaml", ".yml", ".json"):
            return _of_data(path)
        with path.open("rb") as file:
            text = file.read(MAX_BYTES)
        return parse_command(text.decode("utf-8", errors="replace"), str(path))
    return parse_command(said)


def _file(said: str) -> Path | None:
    try:
        if Path(said).is_file():
            return Path(said)
    except (OSError, ValueError):
        return None
    if said.endswith((".yaml", ".yml", ".json", ".sh", ".txt")):
        raise InputError([Problem("", None, None, "", f"no such file: {said}", None)])
    return None


# ---- Commands


def parse_command(text: str, file: str = "") -> list[Argument]:
    """The arguments of the vLLM command in a text: a line of it, if there are several."""
    joined = re.sub(r"\\\r?\n", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = [i for i, line in enumerate(lines) if re.search(r"\bvllm serve\b|api_server|vllm-openai", line)]
    if len(found) > 1:
        raise _refusal(file, f"{len(found)} commands of vLLM stand there: give one of them")
    words = _command(lines, found[0], file) if found else _command([" ".join(lines)], 0, file)
    return arguments_of(words, lambda message, near: Problem(file, None, None, "", message, near))


def _command(lines: Sequence[str], first: int, file: str) -> list[str]:
    """The words of the command that begins on a line; quotes may end on a later one."""
    for end in range(first + 1, len(lines) + 1):
        try:
            return shlex.split("\n".join(lines[first:end]))
        except ValueError as error:
            why = str(error).lower()
    raise _refusal(file, f"cannot be read as a command ({why})")


def _refusal(file: str, message: str, suggestion: str | None = None) -> InputError:
    return InputError([Problem(file, None, None, "", message, suggestion)])


def engine_words(words: Sequence[str]) -> list[str] | None:
    """What follows `vllm serve`, the server's module or vLLM's image; None where there is no vLLM."""
    start: int | None = None
    for i, word in enumerate(words):
        if " " in word and "vllm" in word and (within := engine_words(_words(word))) is not None:
            return within  # sh -c "vllm serve ..."
        if (word == "serve" and i and Path(words[i - 1]).name == "vllm") or _SERVER.search(word) or _IMAGE.search(word):
            start = i + 1
    if start is None:
        return None
    rest = list(words[start:])
    end = next((i for i, word in enumerate(rest) if word in _ENDS), len(rest))
    return rest[:end]


def arguments_of(words: Sequence[str], complain: Complain) -> list[Argument]:
    """Words of a command as arguments. Raises InputError with every word that is none of vLLM's."""
    rest = engine_words(words)
    if rest is None:
        if not words or not (words[0].startswith("-") or "/" in words[0]):
            text = "is no command of vLLM: give vllm serve MODEL --..., its arguments, or a file with them"
            raise InputError([complain(f"'{' '.join(words)[:60]}' {text}", None)])
        rest = list(words)
    found, problems = list[Argument](), list[Problem]()
    i = 0
    while i < len(rest):
        word = rest[i]
        i += 1
        if not re.match(r"-+[A-Za-z]", word):
            if any(a.name == "model" for a in found):
                problems.append(complain(f"'{word}' is neither an argument nor the value of one", None))
            else:
                found.append(Argument("model", word, word, complain))
            continue
        name, equals, value = word.partition("=")
        name, field, sign = _name(name)
        values: list[Any] = [value] if equals else []
        flag = name in FLAGS and not field
        if not equals and flag and i < len(rest) and rest[i].lower() in ("true", "false"):
            values, i = [rest[i]], i + 1
        elif not equals and not flag:
            while i < len(rest) and not re.match(r"--?[A-Za-z]", rest[i]) and (not values or name in MANY):
                values, i = [*values, rest[i]], i + 1
        said = " ".join([word, *(values if not equals else [])])
        if name not in KNOWN:
            problems.append(_unknown(name, word.partition("=")[0], complain))
        elif not values and not flag:
            problems.append(complain(f"{word} has no value", None))
        else:
            one: Any = (values if name in MANY else values[0]) if values else True
            if flag:
                one = (str(one).lower() == "true") == sign
            found.append(Argument(name, {field: one} if field else one, said, complain))
    if problems:
        raise InputError(problems)
    return found


def _name(word: str) -> tuple[str, str, bool]:
    """An argument's full name, the field of it that is meant (--speculative-config.model), and whether it is a yes."""
    bare = word.lstrip("-")
    if not word.startswith("--"):
        return SHORT.get(bare, bare), "", True
    name, _, field = bare.partition(".")
    name = name.replace("_", "-").casefold()
    if name not in KNOWN and name.startswith("no-") and name.removeprefix("no-") in FLAGS:
        return name.removeprefix("no-"), field, False
    return name, field.replace("-", "_"), True


def _unknown(name: str, word: str, complain: Complain) -> Problem:
    near = did_you_mean(name, [*KNOWN, *(f"no-{flag}" for flag in FLAGS)])
    return complain(f"{word} is no argument of vLLM", f"--{near}" if near else None)


# ---- Files


def _of_data(path: Path) -> list[Argument]:
    """A file of arguments by name, or one with a container that runs vLLM."""
    source = load_yaml(path)
    data = source.data
    containers = list(_containers(data, ()))
    if len(containers) > 1:
        where = ", ".join(".".join(map(str, at)) for at, _ in containers)
        raise _refusal(str(path), f"several containers run vLLM ({where}): give the arguments of one of them")
    if containers:
        at, words = containers[0]
        if variable := next((word for word in words if re.search(r"\$\{?\w", word)), None):
            raise InputError([source.problem(at, f"{variable} is a variable: put its value there", None)])
        return arguments_of(words, lambda message, near: source.problem(at, message, near))
    if isinstance(data, list) and all(isinstance(word, str) for word in data):
        return arguments_of(data, lambda message, near: source.problem((), message, near))
    if not isinstance(data, dict):
        raise _refusal(str(path), "holds neither arguments by name nor a container that runs vLLM")
    found, problems = list[Argument](), list[Problem]()
    for key, value in data.items():
        name = "model" if key in ("model", "model_tag", "model-tag") else str(key).replace("_", "-").casefold()

        def complain(message: str, near: str | None, key: str = key) -> Problem:
            return source.problem((key,), message, near)

        no = name not in KNOWN and name.startswith("no-") and name.removeprefix("no-") in FLAGS
        name = name.removeprefix("no-") if no else name
        if name not in KNOWN:
            near = did_you_mean(name, KNOWN)
            problems.append(complain("is no argument of vLLM", near))
        elif value is not None:
            shown = value if isinstance(value, str) else json.dumps(value)
            found.append(Argument(name, value is not True if no else value, f"{key}: {shown}", complain))
    if problems:
        raise InputError(problems)
    return found


def _containers(data: Any, at: KeyPath) -> Iterator[tuple[KeyPath, list[str]]]:
    """The containers in a compose or pod file that run vLLM: where, and the words of their commands."""
    if isinstance(data, list):
        for i, entry in enumerate(data):
            yield from _containers(entry, (*at, i))
    if not isinstance(data, dict):
        return
    keys = [key for key in ("entrypoint", "command", "args") if isinstance(data.get(key), str | list)]
    words = [word for key in keys for word in _words(data[key])]
    image = str(data.get("image", ""))
    if words and _IMAGE.search(image) and engine_words(words) is None:
        words = ["vllm", "serve", *words]
    if words and engine_words(words) is not None:
        yield (*at, keys[-1]), words
        return
    for key, value in data.items():
        yield from _containers(value, (*at, key))


def _words(command: str | list[Any]) -> list[str]:
    if not isinstance(command, str):
        return [str(word) for word in command]
    try:
        return shlex.split(command)
    except ValueError:  # quotes that do not end: no command
        return command.split()
