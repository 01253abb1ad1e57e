"""What prompts have in common: a text that they begin with, what was said before, another answer to the same one.

A prompt is a path of segments (:mod:`prefix_cache`). Requests of a conversation follow each other: the prompt of a turn
is all that was said before it, and its own tokens behind that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from sim.jobs.serving.prefix_cache import Path
from sim.spec.workload import Load, SharedPrefix

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prompts:
    """The path of each request's prompt; ``tails`` is the segment that an answer adds to it, by request.

    ``follow`` has the next request of a conversation, and the seconds of thought before it; ``openings`` are the
    requests that come by themselves.
    """

    paths: Sequence[Path]
    openings: list[int]
    tails: dict[int, tuple[int, int]] = field(default_factory=dict)
    follow: dict[int, tuple[int, float]] = field(default_factory=dict)


def hashed(blocks: Sequence[Sequence[int]], prompt: Sequence[int], size: int) -> Prompts:
    """Prompts of a trace that names each block of ``size`` tokens by a hash of it and of those before it."""
    paths = [
        [(number, min((i + 1) * size, tokens)) for i, number in enumerate(numbers) if i * size < tokens]
        for numbers, tokens in zip(blocks, prompt, strict=True)
    ]
    return Prompts(paths, list(range(len(prompt))))


def cut(prompts: Prompts, prompt: Sequence[int]) -> Prompts:
    """The same of prompts that were cut to so many tokens: a block that is not whole any more is nobody else's."""
    paths = [[step for step in path if step[1] <= tokens] for path, tokens in zip(prompts.paths, prompt, strict=True)]
    return replace(prompts, paths=paths)


def sampled(prompt: Ints, samples: int, prefix: SharedPrefix | None, rng: np.random.Generator) -> tuple[Ints, Prompts]:
    """``samples`` answers to each prompt, behind a text that it begins with: prompt tokens, and what they share."""
    n = len(prompt)
    of = np.arange(n) // samples
    prompt = prompt[of * samples]
    texts, tokens = _texts(prefix, n, rng)
    prompt = prompt + tokens
    first = prefix.variants if prefix is not None else 0
    paths = [
        [*_beginning(texts, which, tokens), (first + which, whole)]
        for which, whole in zip(of.tolist(), prompt.tolist(), strict=True)
    ]
    return prompt, Prompts(paths, list(range(n)))


def conversations(
    load: Load, prompt: Ints, output: Ints, turns: Sequence[int], context: int, rng: np.random.Generator
) -> tuple[Ints, Prompts]:
    """Conversations of ``turns`` each, while what was said fits the model's ``context``: tokens of prompts, with
    all that was said before, and how they follow each other."""
    n, think = len(prompt), load.conversation.think_time if load.conversation else 0.0
    pauses = rng.exponential(think, n) if think else np.zeros(n)
    texts, tokens = _texts(load.prefix, n, rng)
    numbers, length = count(load.prefix.variants if load.prefix else 0), iter(turns)
    whole = np.zeros(n, dtype=np.int64)
    paths: list[Path] = []
    found = Prompts(paths, [])
    path: list[tuple[int, int]] = []
    said = left = 0
    for r, (own, answer) in enumerate(zip(prompt.tolist(), output.tolist(), strict=True)):
        if left and said + own + answer <= context:
            found.follow[r - 1] = r, float(pauses[r])
        else:
            path = _beginning(texts, len(found.openings), tokens)
            said, left = tokens, next(length)
            found.openings.append(r)
        left -= 1
        whole[r] = said + own
        path = [*path, (next(numbers), said + own)]
        paths.append(path)
        # The last token of an answer is never read by the model, so that its KV is not there.
        said += own + answer
        found.tails[r] = next(numbers), said - 1
        path = [*path, found.tails[r]]
    return whole, found


def _texts(prefix: SharedPrefix | None, n: int, rng: np.random.Generator) -> tuple[list[int], int]:
    """Which text each of n prompts begins with, and its tokens."""
    if prefix is None:
        return [], 0
    weights = np.arange(1, prefix.variants + 1, dtype=np.float64) ** -prefix.skew
    drawn = rng.choice(prefix.variants, size=n, p=weights / weights.sum())
    return drawn.tolist(), prefix.tokens


def _beginning(texts: Sequence[int], which: int, tokens: int) -> list[tuple[int, int]]:
    return [(texts[which], tokens)] if texts else []


def rests(follow: dict[int, tuple[int, float]], r: int) -> list[int]:
    """The requests that would have followed one."""
    found = []
    while (after := follow.get(r)) is not None:
        r = after[0]
        found.append(r)
    return found

