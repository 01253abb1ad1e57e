"""What a replica cannot beat, from its laws alone: the least time of a token, the most requests a second.

No simulation of the same replica is faster, so that a search may leave out what these already rule out. With p and o
the tokens of a prompt and its output, n = o - 1, and c = mean(p n + n^2 / 2) / mean(n) the context of the mean token:

    a token's pass       tpot >= T(1), with T(b) = sum over stages of a decode pass of b sequences, and its hops
    the first token      ttft >= the slowest stage's passes of the whole prompt, and one pass of the other stages
    a stage's time       requests/s <= 1 / [ mean(p + n) * least over M of pass(M) / M + reads of mean(n) c tokens ]
    a hop's time         requests/s <= rate of the hop / bytes of mean(p + n) tokens
    a replica's memory   requests/s <= tokens of KV cache / (tpot * mean(p n + n^2 / 2))
    sequences            requests/s <= most over b of [ slots b / T(b) ] / mean(n), b up to a slot's share of all;
                         T(b) with the prompt tokens that ride along, mean(p) / mean(n) for each that is decoded

Without a KV cache a token's pass has its whole context beside it, p n + n^2 / 2 tokens for the n of an output, which
count with those of prompts; nothing is read or held, and the context of a token is no less than the shortest prompt.

A request holds at least its prompt, and a token more with each it generates, for as many passes as it generates
tokens; by Little's law what all hold is their rate times what each holds for its time. Under a limit on the 99th
percentile of TPOT only such b count for which T(b) is within it: the mean is taken to be no more than that percentile
(a hundredth of all requests would have to be a hundred times as slow as the rest).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.jobs.serving.build import UNBOUNDED, ReplicaBuilder
from sim.jobs.serving.replica import Hop, Stage
from sim.laws.layout import Layout
from sim.laws.step_halves import HalvedLaw
from sim.laws.topology import Topology


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompt and output tokens of each request that is asked."""

    prompt: Sequence[int]
    output: Sequence[int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one replica: requests/s at most in the long run, generated tokens/s at most at any time, seconds a token and
    seconds to the first token of a prompt at least.

    The rates are 0 where no batch, not even of one, keeps the limit on TPOT.
    """

    requests_per_s: float
    tokens_per_s: float
    tpot: float
    _stages: tuple[Stage, ...]
    _chunk: int

    def ttft(self, prompt: int) -> float:
        """Seconds until a prompt of so many tokens has its first token."""
        whole, rest = divmod(prompt, self._chunk)
        chunks = [self._chunk] * min(whole, 1) + [rest] * (rest > 0)
        times = [
            whole * _pass(stage, self._chunk) + (_pass(stage, rest) if rest else 0.0) for stage in self._stages
        ]
        slowest = max(range(len(times)), key=times.__getitem__)
        others = (i for i in range(len(times)) if i != slowest)
        last = chunks[-1] if chunks else 1
        return times[slowest] + sum(_pass(self._stages[i], last) for i in others)


def bounds_of(
    resolved: Resolved, job: ResolvedServing, topology: Topology, layout: Layout, asked: Lengths, number: int = 0
) -> Bounds:
    """Bounds of replica ``number`` of ``layout``, under the job's limit on TPOT if it has one."""
    builder = ReplicaBuilder(resolved, job, topology)
    stages = builder.stages(number, layout)
    limits = builder.limits(layout, number)
    chunk = min(limits.prefill_chunk, limits.max_tokens)
    most = -(-limits.max_sequences // limits.slots)
    static = job.spec.batching.policy == "static"
    if static:  # the whole batch's prompts ride in passes of their own size
        most = limits.batch_size
        chunk = max(asked.prompt) * most
    count = len(asked.prompt)
    pairs = [(p, o - 1) for p, o in zip(asked.prompt, asked.output, strict=True)]
    passes = sum(n for _, n in pairs) / count
    held = sum(p * n + n * n / 2 for p, n in pairs) / count
    again, least = 0.0, 0  # tokens computed again: of a request, and at least beside a token
    if not job.spec.batching.kv_cache:
        again, held, least = held + passes / 2 - passes, 0.0, min(asked.prompt)
    tokens = sum(p + n for p, n in pairs) / count + again
    context = held / passes if passes else 0.0
    largest = max(chunk, limits.max_tokens)
    rates = [1 / (tokens / _tokens_per_s(s, largest) + _slope(s) * held) for s in stages]
    rates += [s.hop.cap / (s.hop.bytes_per_token * tokens) for s in stages if s.hop and s.hop.bytes_per_token]
    tpot = _cycle(stages, 1, 0.0, least, largest)
    if passes:
        if limits.blocks < UNBOUNDED // limits.block_tokens:
            rates.append(limits.blocks * limits.block_tokens / (tpot * held))
        beside = (again if static else tokens - passes) / passes
        batch = _largest_batch(stages, most, context, beside, largest, job.spec.objectives.tpot_p99)
        cycle = _cycle(stages, batch, context, beside, largest) if batch else 1.0
        rates.append(limits.slots * batch / cycle / passes)
    generated = min(_tokens_per_s(s, largest) for s in stages)
    alone = _largest_batch(stages, most, 0.0, 0.0, largest, job.spec.objectives.tpot_p99)
    generated = min(generated, limits.slots * alone / _cycle(stages, alone, 0.0, 0.0, largest)) if alone else 0.0
    return Bounds(min(rates), generated, tpot, stages, max(1, chunk))


def _cycle(stages: Sequence[Stage], sequences: int, context: float, beside: float, largest: int) -> float:
    """Seconds in which so many sequences of a batch, of a mean context, have their next token, with ``beside`` tokens
    of prompts in the passes for each of them; no pass has more than the ``largest``'s tokens.

    Kernels' time is convex in a pass's tokens, so that no other spread of the prompts takes less; what collectives take
    for the prompts is left out. With experts it is not (a second prompt meets experts that the first one met): there a
    token takes as long as in the largest pass, which is the least that a token can take.
    """
    tokens, time = sequences + int(beside * sequences), 0.0
    for stage in stages:
        alone = _pass(stage, sequences, sequences)
        if stage.law.shape.mixture:
            more = tokens / largest * _pass(stage, largest, collectives=False)
        else:
            more = _pass(stage, tokens, sequences, collectives=False)
        time += max(alone, more)
        time += _slope(stage) * sequences * context
    return time + sum(_hop(s.hop, tokens) for s in stages if s.hop is not None)


def _largest_batch(
    stages: Sequence[Stage], most: int, context: float, beside: float, largest: int, limit: float | None
) -> int:
    """Sequences of the largest batch whose tokens come within the limit; 0 if there is none."""
    if limit is None:
        return most
    return bisect_right(range(1, most + 1), limit, key=lambda b: _cycle(stages, b, context, beside, largest))


def _pass(stage: Stage, tokens: int, sequences: int = 0, *, collectives: bool = True) -> float:
    """Seconds of a pass of the stage's slowest GPUs, without attention; where halves of a batch hide each other's
    collectives, of the longer of kernels and collectives; where ranks have sequences of their own, of as many as leave
    no rank fuller than others."""
    times = []
    shape = stage.law.shape
    if shape.data:
        tokens, sequences = max(1, tokens // shape.tp * shape.tp), sequences // shape.tp * shape.tp
    for law in (member.law for member in stage.members):
        base = law.base(tokens, sequences)
        if not collectives:
            times.append(base.busy)
        else:
            times.append(max(base.busy, base.communication) if isinstance(law, HalvedLaw) else base.total)
    return float(max(times))


def _slope(stage: Stage) -> float:
    """Seconds to read a token of KV cache, on the stage's slowest GPUs."""
    return float(max(member.law.decode_slope for member in stage.members))


def _hop(hop: Hop, tokens: int) -> float:
    """Seconds of the message of a pass of so many tokens to the next stage, without its gathering there."""
    return float(hop.overhead + hop.bytes_per_token * tokens / hop.cap + hop.latency)


def _tokens_per_s(stage: Stage, most: int) -> float:
    """Tokens a second at most: passes of more tokens are longer, and never slower a token, up to ``most``."""
    sizes = [min(most, 2**k) for k in range(most.bit_length() + 1)]
    return float(max(size / _pass(stage, size) for size in sizes))
