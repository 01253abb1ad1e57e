"""Names of models on the Hugging Face hub as entries of the catalogue, by their shape alone.

A name is an alias of the catalogue, or an entry's id once the organisation before it and the words after it that do not
change the shape (a tuning, a format, a date) are taken off.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sim import catalog
from sim.adapters.lookup import Library
from sim.errors import InputError, Problem, did_you_mean

#: Words in names that tell the format of the weights.
_FORMATS: Final = (
    (r"nvfp4|fp4", "fp4"), (r"awq|gptq|w4a16|int4|4bit|bnb", "int4"), (r"fp8", "fp8"),
    (r"w8a8|w8a16|int8|8bit", "int8"), (r"q4_k_m", "q4_k_m"),
)  # fmt: skip
#: Words that do not change a model's shape.
_SUFFIX: Final = re.compile(
    r"[-_.](instruct|chat|hf|it|base|awq|gptq|marlin|fp8|fp4|nvfp4|int4|int8|4bit|8bit|bnb|w4a16|w8a8|w8a16|dynamic|"
    r"quantized|kv|gguf|q4_k_m|v0\.[12]|v1\.0|g128|bf16|fp16|unsloth|turbo|step-\S+)$"
)
_PREFIX: Final = re.compile(r"^(meta-)")


def weights_of(name: str) -> str | None:
    """The format of weights that a name tells; None if it tells none."""
    word = Path(name).name.casefold()
    return next((fmt for pattern, fmt in _FORMATS if re.search(rf"(^|[-_.])({pattern})($|[-_.])", word)), None)


def model_of(name: str, library: Library) -> str:
    """The catalogue id of a model that vLLM would serve, or the path of its config.json. Raises InputError."""
    config = Path(name) / "config.json"
    if config.is_file():
        return str(config.resolve())
    full, word = name.casefold(), name.rpartition("/")[2].casefold()
    known = library.names("model")
    tried = word
    while True:
        for candidate in (full, tried, _PREFIX.sub("", tried)):
            if candidate in known:
                return candidate
            if (meant := catalog.meant("model", candidate)) is not None:
                return meant
        shorter = _SUFFIX.sub("", tried)
        if shorter == tried:
            break
        tried = shorter
    near = did_you_mean(_PREFIX.sub("", tried), known)
    text = (
        f"{name} is no model of the catalogue (sim catalog model): give the folder of its config.json in its place, "
        "or describe it under define.models"
    )
    raise InputError([Problem("", None, None, "", text, near)])
