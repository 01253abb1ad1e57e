"""What an answer rests on: every number with its origin, every assumption that physics forbids, every gap."""

from __future__ import annotations

from sim.jobs.play import Recording
from sim.jobs.serving.recording import ServingRecording
from sim.jobs.training.run import TrainingRecording
from sim.results.extras import assumed_of_extras, banners_of_extras, left_out_of_extras
from sim.results.schema import Assumption
from sim.units import format_bandwidth, format_bytes, format_flops, format_seconds

COMMON = [
    "The network is fluid: no packets, no incast loss, no pause frames, no hash collisions; a published comparison "
    "found a fluid all-reduce about 8% faster than a packet-level one.",
    "Clock throttling and thermal limits.",
]
NOT_MODELLED = [
    *COMMON,
    "Failures: a replica that loses a stage is down as a whole and returns in the same layout; a slow link slows each "
    "flow for itself; answers of a corrupted replica count until it is found.",
    "Tile and wave quantisation of matrix kernels (at most a point of median error).",
    "Decode attention is slower than modelled where tensor parallelism leaves one or two KV heads on a GPU "
    "(older engines were 20-50% slower at tp 8).",
    "With pipelines, host time that grows with all requests in flight of some engines.",
    "Overlap of collectives with compute: collectives are exposed.",
    "Weight-only quantisation has no penalty for unpacking beyond the bytes it reads.",
    "Beam search. KV caches handed over leave when the prompt is done, not layer by layer; copies to and from host "
    "memory do not slow those of other replicas.",
]

TRAINING_NOT_MODELLED = [
    *COMMON,
    "Communication beside kernels costs one factor (the stack's overlap); flows of different axes that meet on a link "
    "share it only with --detail full.",
    "Ranks do not jitter: a step has no noise; some large clusters lose a few percent to it, others do not.",
    "Memory fragmentation, and attention's gathered keys and values along cp; read an overflow with a band of 15%.",
    "Experts' tokens are spread as stated (imbalance, capacity) in every layer; routing is not simulated.",
    "Embedding gradients summed between the first and the last stage of a pipeline with tied embeddings.",
    "Failures of storage, moves away from slow nodes; writing a checkpoint slows only what crosses nodes, by its share "
    "of their network cards, at most by half.",
    "Convergence: what batch size, precision, staleness or dropped tokens do to the loss.",
    "Other jobs on the same links, where a training job meets faults, saves on several levels, has parameter servers, "
    "streams its pipeline or has steps of more than 400,000 operations: it has the network for itself then, and they "
    "do not feel it.",
]

CLAIMS = {
    "memory": ("unchecked", "MEMORY IS NOT CHECKED: the job may need more than the GPUs have"),
    "attention": ("free", "ATTENTION IS FREE: the weights' arithmetic alone counts (6 N a token trained, 2 N read)"),
    "kv_capacity": ("unchecked", "KV CAPACITY IS NOT CHECKED: batches may exist that no memory could hold"),
    "kv_reads": ("free", "KV READS ARE FREE: decode attention takes no time"),
    "tp_volume": ("one_copy", "COLLECTIVES MOVE ONE COPY: a ring moves 2(n-1)/n"),
    "tp_overlap": ("double_buffer", "COLLECTIVES HIDE: half of a batch computes beside those of the other half"),
    "pp_return_hop": ("counted", "THE PIPELINE'S RETURN HOP CARRIES ACTIVATIONS: it carries token numbers"),
}


def not_modelled(recording: Recording) -> list[str]:
    """What the answer leaves out, for the kinds of jobs it has."""
    kinds = [(recording.serving, NOT_MODELLED), (recording.training, TRAINING_NOT_MODELLED)]
    found = [line for jobs, lines in kinds if jobs for line in lines]
    return list(dict.fromkeys([*found, *left_out_of_extras(recording.serving)]))


def banners_of(recording: Recording) -> list[str]:
    """One line for each assumption in force that physics or engines forbid."""
    assume = recording.resolved.scenario.assume
    lines = [text for field, (value, text) in CLAIMS.items() if getattr(assume, field) == value]
    if assume.gpu is not None:
        rates = []
        if assume.gpu.flops is not None:
            rates.append(format_flops(assume.gpu.flops))
        if assume.gpu.memory_bandwidth is not None:
            rates.append(format_bandwidth(assume.gpu.memory_bandwidth))
        lines.append(f"GPU RATES ARE ASSUMED: {' and '.join(rates)} instead of the datasheet's")
    if assume.parameters is not None:
        lines.append(f"PARAMETER COUNT IS ASSUMED: {assume.parameters:.4g} weights are read in each pass")
    if assume.tp_latency is not None:
        lines.append(f"COLLECTIVE LATENCY IS ASSUMED: {format_seconds(assume.tp_latency)} each")
    lines += banners_of_extras(recording.serving)
    if any(job.job.stack.kernels == "datasheet" for job in recording.jobs):
        lines.insert(0, "IDEAL STACK: datasheet arithmetic, no launch, no latency; nothing real is this fast")
    return lines


def assumptions_of(recording: Recording) -> list[Assumption]:
    """GPU, kernel, link, stack and model numbers behind the answer, with origin and source."""
    rows: list[Assumption] = []
    resolved = recording.resolved
    for gpu in resolved.gpus.values():
        rows += [
            Assumption(name=f"{gpu.id}: 16-bit peak", value=format_flops(gpu.flops.fp16), origin="datasheet",
                       source=gpu.sources.get("flops", gpu.source)),
            Assumption(name=f"{gpu.id}: memory bandwidth", value=format_bandwidth(gpu.memory_bandwidth),
                       origin="datasheet", source=gpu.sources.get("memory_bandwidth", gpu.source)),
            Assumption(name=f"{gpu.id}: usable memory", value=format_bytes(gpu.usable_memory), origin="datasheet",
                       source=gpu.sources.get("usable_memory", gpu.source)),
        ]  # fmt: skip
        k = resolved.kernels(gpu)
        text = (
            f"ec {k.gemm_compute_16:g}, em {k.gemm_memory:g}, t0 {format_seconds(k.gemm_launch)}; decode "
            f"{k.decode_memory:g}, {format_seconds(k.decode_launch)}; prefill {k.prefill_compute:g}, "
            f"{format_seconds(k.prefill_launch)}, x {k.prefill_memory:g}"
        )
        origin = k.origin if gpu.kernels else "median of measured GPUs"
        rows.append(Assumption(name=f"{gpu.id}: kernel constants", value=text, origin=origin, source=k.source))
    for trained in recording.training:
        rows += _of_training_stack(trained)
        rows += _of_reliability(trained)
        rows += _of_levels(trained)
    rows += _of_faults(recording)
    for job in recording.serving:
        rows += _of_replicas(job)
        rows += assumed_of_extras(job)
        s = job.job.stack
        host = (
            f"host {format_seconds(s.host_per_step)} a pass + {format_seconds(s.host_per_sequence)} a sequence, "
            f"admission {s.admission}, KV {s.memory.fraction:g} {s.memory.rule.replace('_', ' ')}, "
            f"reserve {format_bytes(s.memory.reserve)}"
        )
        rows.append(
            Assumption(name=f"stack {s.id} {s.version}", value=host, origin=s.origin,
                       source=f"{s.source}" + (f" (fitted error {s.fitted_error})" if s.fitted_error else ""))
        )  # fmt: skip
    for any_job in recording.jobs:
        m = any_job.job.model
        cache = f"latents of {m.cached_elements}" if m.latent else f"{m.kv_heads} KV heads"
        shape = f"{m.parameters / 1e9:.2f} B, {m.layers} layers, {m.heads} heads, {cache}"
        if m.experts:
            shared = f" and {m.shared_experts} shared" if m.shared_experts else ""
            shape += f", {m.experts} experts{shared} of which a token meets {m.experts_per_token + m.shared_experts}"
            shape += f" ({m.active_parameters / 1e9:.2f} B)"
        rows.append(Assumption(name=f"model {m.id}", value=shape, origin="published", source=m.source))
    cost = resolved.scenario.cost
    if cost is not None and cost.prices_as_of:
        rows.append(Assumption(name="prices", value=f"as of {cost.prices_as_of}", origin="user", source="the scenario"))
    rows += _links(recording)
    return rows


def _of_training_stack(job: TrainingRecording) -> list[Assumption]:
    """The constants of a training stack for each type of GPU it runs on."""
    s, rows = job.job.stack, []
    for gpu in dict.fromkeys(member.gpu for _, _, member, _, _ in job.members):
        c = s.constants_for(gpu)
        text = (
            f"ec {c.matmul_16:g} (8 bit {c.matmul_8:g}), ea {c.attention:g}, ke {c.elementwise:g}, th "
            f"{format_seconds(c.host_per_layer)}, xt {c.tp_exposed:g}, ov {c.overlap:g}, en {c.network:g}, xp "
            f"{c.pipeline_exposed:g}, tail {format_seconds(c.step_overhead)}"
        )
        fitted = f" (fitted on {c.rows} rows: {c.fitted_error or 'error not told'})" if c.rows else ""
        origin = s.origin if gpu in s.gpus or s.origin != "measured" else "judged: this GPU was not measured"
        source = f"{s.source}{fitted}"
        rows.append(Assumption(name=f"training stack {s.id} {s.version} on {gpu}", value=text, origin=origin,
                               source=source))  # fmt: skip
    return rows


def _of_faults(recording: Recording) -> list[Assumption]:
    """What breaks, and who says so."""
    resolved, faults = recording.resolved, recording.resolved.scenario.faults
    if faults is None:
        return []
    if faults.preset is not None:
        preset = resolved.fault_preset
        assert preset is not None
        text = f"{len(preset.classes)} classes, rates x {faults.scale:g}"
        return [Assumption(name=f"faults {preset.id}", value=text, origin=preset.origin, source=preset.source)]
    if faults.trace is not None:
        text = f"{len(resolved.fault_trace or ()):,} recorded faults"
    else:
        rates = [(c.name, c.per, format_seconds(c.mtbf / faults.scale)) for c in resolved.faults]
        text = ", ".join(f"{name}: one a {per} every {time}" for name, per, time in rates)
    return [Assumption(name="faults", value=text, origin="user", source="the scenario")]


def _of_reliability(job: TrainingRecording) -> list[Assumption]:
    """How a job comes back."""
    if job.reliability is None or job.life is None or not job.reliability.recovery:
        return []
    spec, means = job.job.spec, job.reliability.recovery
    text = f"policy {spec.policy}, {format_seconds(min(means.values()))}"
    if max(means.values()) > min(means.values()):
        text += f" to {format_seconds(max(means.values()))}"
    stated = "recovery" in spec.model_fields_set
    source = "the scenario" if stated else "docs/model.md: ranges of published restarts, MegaScale's among them"
    return [Assumption(name=f"{job.name}: recovery, mean by class of fault", value=text,
                       origin="user" if stated else "judged", source=source)]  # fmt: skip


def _of_replicas(job: ServingRecording) -> list[Assumption]:
    """How a replica comes back."""
    if job.incidents is None:
        return []
    spec = job.job.spec
    phases = {
        name: time for name in ("time", "detect", "diagnose", "replace", "launch")
        if (time := getattr(spec.recovery, name)) is not None
    }  # fmt: skip
    if "time" in phases:
        phases = {"time": phases["time"]}
    told = [f"{n} {format_seconds(t) if isinstance(t, float) else format_seconds(t.median)}" for n, t in phases.items()]
    stated = "recovery" in spec.model_fields_set
    source = "the scenario" if stated else "docs/model.md: ranges of published restarts"
    return [Assumption(name=f"{spec.name}: recovery of a replica", value=f"failover {spec.failover}, {', '.join(told)}",
                       origin="user" if stated else "judged", source=source)]  # fmt: skip


def _of_levels(job: TrainingRecording) -> list[Assumption]:
    """On which levels a job saves, where there are several."""
    if job.reliability is None or job.reliability.terms.saving.then is None:
        return []
    found = [
        f"every {format_seconds(level.interval)}, standing still for {format_seconds(level.blocking)}, durable "
        f"{format_seconds(level.persist)} later"
        for level in job.reliability.terms.saving.levels
    ]
    return [Assumption(name=f"{job.name}: levels of checkpoints", value="; then ".join(found), origin="user",
                       source="the scenario, times over its links")]  # fmt: skip


def _links(recording: Recording) -> list[Assumption]:
    used = {link for channel in recording.channels for link, _ in channel.links}
    seen: dict[str, Assumption] = {}
    for link in sorted(used):
        info = recording.topology.links[link]
        text = (
            f"{format_bandwidth(info.bandwidth)} a direction, {info.efficiency:.0%} usable, "
            f"latency {format_seconds(info.latency)}, {format_seconds(info.overhead)} a message"
        )
        known = [x for x in recording.resolved.links.values() if x.kind == info.kind and info.bandwidth in x.rates]
        origin, source = (known[0].origin, known[0].source) if known else ("topology", "the topology file")
        seen.setdefault(
            info.equivalence,
            Assumption(name=f"link {info.equivalence}", value=text, origin=origin, source=source),
        )
    return list(seen.values())
