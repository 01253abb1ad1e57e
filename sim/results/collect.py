"""From a recording to the parts of a Result: devices, links, ledger, time lines, memory.

Every GPU-second is in exactly one bucket: a device class's buckets add up to its GPUs times the simulated
time, and the classes (with the unused GPUs as spare) to the cluster's.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.engine.timeline import Bins, ChannelTrack, DeviceTrack
from sim.jobs.play import Recording
from sim.jobs.reliability.life import Life
from sim.jobs.serving.recording import ServingRecording
from sim.jobs.training.run import TrainingRecording
from sim.laws.pieces import pieces_of
from sim.laws.pricing import Counts, PowerDraw
from sim.laws.topology_parts import LinkInfo
from sim.results.incidents import down_time
from sim.results.metrics import Table, sums_at
from sim.results.schema import (
    DeviceClass,
    LinkClass,
    MemoryStage,
    RooflineDot,
    Span,
    Timeline,
)
from sim.spec.hardware import Gpu

Floats = NDArray[np.float64]
MOST_BINS = 1000
MOST_SPANS = 1500
MOST_SPANS_OF_TRAINING = 6000
POINTS_OF_A_CDF = 101


def device_classes(recording: Recording) -> list[DeviceClass]:
    """Every class of GPUs that did the same, and the ones no job used."""
    found, used, end = [], 0, recording.end
    for job in recording.jobs:
        for track, peak, bandwidth in job.tracks:
            used += track.count
            busy = track.busy / end if end else 0.0
            ledger = track.ledger(end)
            seconds = end - sum(ledger.get(bucket, 0.0) for bucket in IDLE)
            found.append(DeviceClass(
                name=track.name, job=track.job, stage=track.stage, gpu=track.gpu, count=track.count,
                busy=busy, pass_s=track.busy / track.passes if track.passes else None,
                flops_utilisation=track.flops / (peak * end) if end else 0.0,
                bandwidth_utilisation=track.bytes / (bandwidth * end) if end else 0.0,
                ledger={k: v * track.count for k, v in ledger.items()},
                energy_j=_joules(recording.resolved.gpus[track.gpu], end, seconds, track) * track.count,
            ))  # fmt: skip
    spare: dict[str, int] = {}
    if used < len(recording.topology.gpus):
        taken = {g for job in recording.jobs for g in job.gpus}
        for site in recording.topology.gpus:
            if site.index not in taken:
                spare[site.gpu] = spare.get(site.gpu, 0) + 1
    for gpu, count in spare.items():
        found.append(DeviceClass(
            name=f"spare {gpu}", job=None, stage=None, gpu=gpu, count=count, busy=0.0, flops_utilisation=0.0,
            bandwidth_utilisation=0.0, ledger={"spare": count * end},
            energy_j=recording.resolved.gpus[gpu].idle_power * count * end,
        ))  # fmt: skip
    return found


def _joules(card: Gpu, end: float, working: float, track: DeviceTrack) -> float:
    """Energy of one GPU that worked for some seconds of a run."""
    if working <= 0.0:
        return card.idle_power * end
    watts = card.working_watts(track.bytes / working, track.flops / working)
    return card.idle_power * (end - working) + watts * working


def ledger_of(devices: list[DeviceClass]) -> dict[str, float]:
    """GPU-seconds by bucket over all devices."""
    total: dict[str, float] = {}
    for device in devices:
        for bucket, seconds in device.ledger.items():
            total[bucket] = total.get(bucket, 0.0) + seconds
    return total


#: What a job among failures is drawn as doing, and the stretches of its life that are that.
STATES = {
    "training": ("work", "checkpoint"), "recovery": ("detection", "restart", "stalled", "shrink", "grow", "migrate"),
    "down": ("down",),
}  # fmt: skip
#: Buckets of the ledger in which a GPU draws what it draws idle.
IDLE = (
    "waiting for work", "pipeline bubble", "spare", "checkpoint saving", "failure detection", "restart",
    "waiting for repair", "start-up", "migration", "switched off",
)  # fmt: skip


def draws_of(recording: Recording, devices: list[DeviceClass]) -> list[PowerDraw]:
    """Power consumers: GPUs by class, and the hosts, busy as their GPUs are on average."""
    draws, weighted, gpus = [], 0.0, 0
    for device in devices:
        card = recording.resolved.gpus[device.gpu]
        seconds = device.count * recording.end
        waiting = sum(device.ledger.get(b, 0.0) for b in IDLE)
        working = 1 - waiting / seconds if seconds else 0.0
        busy = card.tdp
        if device.energy_j is not None and seconds > waiting:
            busy = (device.energy_j - card.idle_power * waiting) / (seconds - waiting)
        draws.append(PowerDraw(device.name, device.count, card.idle_power, busy, working))
        weighted, gpus = weighted + working * device.count, gpus + device.count
    host = recording.resolved.topology.total_host_power
    draws.append(PowerDraw("hosts", 1, host.idle, host.busy, weighted / gpus if gpus else 0.0))
    return draws


def counts_of(recording: Recording) -> Counts:
    """What the cluster has that is paid for by the piece."""
    return pieces_of(recording.resolved.topology)


def memory_stages(recording: Recording) -> list[MemoryStage]:
    """Bytes on one GPU of each stage; equal stages of several replicas share a row."""
    rows: dict[tuple[object, ...], MemoryStage] = {}
    for job in recording.jobs:
        if isinstance(job, TrainingRecording):
            for held in job.layout.stages:
                for gpu, memory in held.memory.items():
                    rows[job.name, held.number, gpu] = MemoryStage(
                        job=job.name, stage=held.number, gpu=gpu, count=held.counts[gpu],
                        capacity_bytes=memory.capacity, parts=memory.budget(), offloaded=memory.host,
                    )  # fmt: skip
        else:
            _add_serving_memory(rows, recording, job)
    return list(rows.values())


def _add_serving_memory(
    rows: dict[tuple[object, ...], MemoryStage], recording: Recording, job: ServingRecording
) -> None:
    """Rows of a serving job's stages."""
    for stages, tokens in zip(job.layout.replicas, job.layout.tokens, strict=True):
        held = max(0, tokens)
        for stage in stages:
            for gpu, memory in stage.memory.items():
                key = (job.job.spec.name, stage.number, gpu, stage.layers, held)
                count = sum(recording.topology.gpus[g].gpu == gpu for g in stage.gpus)
                if key in rows:
                    count += rows[key].count
                rows[key] = MemoryStage(
                    job=job.job.spec.name, stage=stage.number, gpu=gpu, count=count,
                    capacity_bytes=memory.capacity, parts=memory.parts(held), kv_tokens=held,
                )  # fmt: skip


# -- links --------------------------------------------------------------------------------------------------


def _resampled(bins: Bins, width: float, count: int) -> Floats:
    """The bins' amounts at a coarser width (a power of two times theirs)."""
    values = np.array(bins.values)
    factor = round(width / bins.width)
    values = np.concatenate((values, np.zeros(-len(values) % factor)))
    merged: Floats = values.reshape(-1, factor).sum(axis=1)
    merged = merged[:count]
    return np.concatenate((merged, np.zeros(count - len(merged))))


def common_width(recording: Recording) -> tuple[float, int]:
    """Bin width that all tracks can be brought to, and the number of bins: at most ``MOST_BINS``."""
    widths = [c.bins.width for c in recording.channels]
    widths += [b.width for j in recording.serving for r in j.replicas for b in (r.tally.running, r.tally.cached)]
    widths += [track.bins.width for track in recording.tracks]
    width = max(widths, default=1.0)
    while recording.end / width >= MOST_BINS:
        width *= 2
    return width, max(1, int(np.ceil(recording.end / width)))


#: Shares of channels that a link carries: (number of the channel, bytes on the link for a byte sent).
Users = tuple[tuple[int, float], ...]


def users_of(channels: list[ChannelTrack]) -> tuple[dict[int, Users], dict[int, int]]:
    """By link what it carries of which channel, and how many links it stands for."""
    users: dict[int, list[tuple[int, float]]] = {}
    alike: dict[int, int] = {}
    for number, channel in enumerate(channels):
        for link, weight in channel.links:
            users.setdefault(link, []).append((number, weight))
            alike[link] = max(alike.get(link, 1), channel.alike.get(link, 1))
    return {link: tuple(mine) for link, mine in users.items()}, alike


def link_classes(recording: Recording) -> tuple[list[LinkClass], dict[str, list[float]]]:
    """Links that carried anything, by class, and the mean utilisation of each class over time."""
    width, count = common_width(recording)
    last = recording.end - width * (count - 1)
    seconds = np.full(count, width)
    seconds[-1] = last if last > 0 else width
    channels = recording.channels
    users, alike = users_of(channels)
    classes: dict[str, dict[Users, int]] = {}
    infos: dict[str, LinkInfo] = {}
    for link, mine in users.items():  # links that carry the same are counted, not told apart
        info = recording.topology.links[link]
        infos.setdefault(info.equivalence, info)
        found = classes.setdefault(info.equivalence, {})
        found[mine] = found.get(mine, 0) + alike[link]
    series = [_resampled(channel.bins, width, count) for channel in channels]
    rows, lines = [], {}
    for name, members in classes.items():
        number, bandwidth = sum(members.values()), infos[name].bandwidth
        total, line, peak = 0.0, np.zeros(count), 0.0
        for mine, times in members.items():
            carried = sum((series[i] * weight for i, weight in mine), np.zeros(count))
            total += times * sum(channels[i].bytes * weight for i, weight in mine)
            line += times * carried
            peak = max(peak, float((carried / (bandwidth * seconds)).max()))
        mean = total / (number * bandwidth * recording.end) if recording.end else 0.0
        rows.append(LinkClass(
            name=name, kind=infos[name].kind, count=number, bandwidth=bandwidth, bytes=total,
            utilisation_mean=mean, utilisation_peak=max(peak, mean),
        ))  # fmt: skip
        lines[name] = [round(float(x), 6) for x in line / (number * bandwidth * seconds)]
    return rows, lines


# -- time ---------------------------------------------------------------------------------------------------


def timeline_of(recording: Recording, tables: list[Table], window_start: float) -> Timeline:
    """Utilisation of devices and links, each job's queue, batch and KV cache, and a window of spans."""
    width, count = common_width(recording)
    seconds: Floats = np.minimum(width, recording.end - width * np.arange(count))
    seconds[seconds <= 0] = width
    devices: dict[str, list[float]] = {}
    for track in recording.tracks:
        busy = _resampled(track.bins, width, count) / seconds
        devices[track.name] = [round(min(1.0, float(x)), 6) for x in busy]
    middle: Floats = width * (np.arange(count, dtype=np.float64) + 0.5)
    jobs = {}
    for job, table in zip(recording.serving, tables, strict=True):
        inside = sums_at(middle, table.arrival, table.finish, np.ones(len(table)))
        running = sum(_resampled(r.tally.running, width, count) for r in job.replicas) / seconds
        cached = sum(_resampled(r.tally.cached, width, count) for r in job.replicas) / seconds
        capacity = sum(job.layout.tokens)
        jobs[job.job.spec.name] = {
            "waiting": _rounded(np.maximum(0.0, inside - running)),
            "running": _rounded(running),
            "kv_occupancy": _rounded(cached / capacity) if capacity > 0 else [],
        }
        if job.incidents is not None:
            down = _resampled(down_time(job, recording.end), width, count) / seconds / len(job.replicas)
            edges = [min(width * i, recording.end) for i in range(count + 1)]
            made = np.array([table.output_tokens(a, b) for a, b in pairwise(edges)]) / seconds
            jobs[job.job.spec.name] |= {
                "output_tokens_per_s": _rounded(made), "up": _rounded(np.clip(1.0 - down, 0.0, 1.0))
            }  # fmt: skip
    for trained in recording.training:
        if trained.life is not None:
            jobs[trained.name] = _states(trained.life, width, seconds)
    spans, window = _spans(recording, window_start)
    return Timeline(
        bin_s=width, devices=devices, links=link_classes(recording)[1], jobs=jobs, spans=spans, spans_window_s=window
    )


def _states(life: Life, width: float, seconds: Floats) -> dict[str, list[float]]:
    """Share of each bin that a run worked (saving included) and that it came back from failures."""
    found: dict[str, list[float]] = {}
    for name, kinds in STATES.items():
        bins = life.over_time(*kinds)
        if name == "training" or any(bins.values):
            found[name] = _rounded(np.minimum(1.0, _resampled(bins, width, len(seconds)) / seconds))
    return found


def _rounded(values: Floats) -> list[float]:
    return [round(float(x), 6) for x in values]


def _spans(recording: Recording, start: float) -> tuple[list[Span], list[float]]:
    """The spans after ``start`` that a chart can hold, cut at the same instant on every device."""
    tracks = recording.tracks
    most = MOST_SPANS if recording.serving else MOST_SPANS_OF_TRAINING
    share = max(1, most // max(1, len(tracks)))
    kept = [list(track.spans.after(start, share)) for track in tracks]
    if not any(kept):
        kept, start = [list(track.spans.after(0.0, share)) for track in tracks], 0.0
    last = recording.end if recording.serving else max((job.step.seconds for job in recording.training), default=0.0)
    end = min((spans[-1].end for spans in kept if len(spans) == share), default=last)
    rows = [
        Span(
            device=t.name, kind=s.kind, start_s=s.start, end_s=s.end, batch=s.batch, tokens=s.tokens,
            micro_batch=s.micro_batch, chunk=s.chunk,
        )
        for t, spans in zip(tracks, kept, strict=True)
        for s in spans
        if s.start < end
    ]  # fmt: skip
    return rows, [start, max(end, start)]


def roofline_dots(recording: Recording) -> list[RooflineDot]:
    """Each phase of each job's first stage: how much arithmetic a byte, and how fast."""
    dots = []
    for job in recording.jobs:
        if isinstance(job, TrainingRecording):
            dots += _training_dots(job)
            continue
        stage = job.replicas[0].stages[0]
        rates = stage.law.shape.rates
        for phase, (flops, nbytes, seconds) in sorted(job.replicas[0].tally.phases.items()):
            if seconds > 0 and nbytes > 0:
                dots.append(RooflineDot(
                    device=stage.track.name, phase=phase, flops_per_byte=flops / nbytes, flops_per_s=flops / seconds,
                    peak_flops=rates.peak, bandwidth=rates.bandwidth,
                ))  # fmt: skip
    return dots


def _training_dots(job: TrainingRecording) -> list[RooflineDot]:
    """Forward and backward of a micro-batch on the stage in the middle."""
    _, _, member, _, track = job.members[len(job.members) // 2]
    dots = []
    for phase in ("forward", "backward"):
        work = [getattr(p, phase).work for p in member.passes]
        if phase == "backward":
            work += [p.weight.work for p in member.passes]
        flops, nbytes, seconds = (sum(getattr(w, x) for w in work) for x in ("flops", "bytes", "seconds"))
        if seconds > 0 and nbytes > 0:
            dots.append(RooflineDot(
                device=track.name, phase=phase, flops_per_byte=flops / nbytes, flops_per_s=flops / seconds,
                peak_flops=member.rates.peak, bandwidth=member.rates.bandwidth,
            ))  # fmt: skip
    return dots


def latency_cdf(table: Table, start: float, end: float) -> dict[str, list[list[float]]]:
    """[value, share] points of the latencies of requests that came in the window."""
    inside = (table.arrival >= start) & (table.arrival <= end)
    columns = {
        "ttft_s": (table.first - table.arrival)[inside],
        "tpot_s": table.tpot[inside],
        "latency_s": (table.finish - table.arrival)[inside],
        "queue_s": (table.scheduled - table.arrival)[inside],
    }
    found = {}
    shares = np.linspace(0, 1, POINTS_OF_A_CDF)
    for name, values in columns.items():
        values = values[~np.isnan(values)]
        if len(values):
            found[name] = [[float(v), float(p)] for v, p in zip(np.quantile(values, shares), shares, strict=True)]
    return found
