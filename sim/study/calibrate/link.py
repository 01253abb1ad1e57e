"""A measured link between two hosts as a catalogue entry."""

from __future__ import annotations

from typing import Any

from sim import __version__
from sim.adapters.link_meter import LinkMeasured
from sim.study.calibrate.entry import time_text


def link_entry(name: str, measured: LinkMeasured) -> dict[str, Any]:
    """The link under ``name``: what one TCP stream reached is its bandwidth, software included in the latency."""
    link = {
        "kind": "ethernet", "bandwidth": f"{measured.bandwidth / 1e9:.4g} GB/s", "efficiency": 1.0,
        "latency": time_text(measured.latency), "origin": "measured",
        "source": f"sim calibrate {__version__} --peer: one TCP stream each way, half of the shortest round trip",
        "notes": "goodput, so efficiency is 1; the hosts' software is part of the latency",
    }  # fmt: skip
    return {"define": {"links": {name: link}}}
