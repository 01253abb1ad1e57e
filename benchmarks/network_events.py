"""How many transfers per wall second the network carries, and how many SimPy events each takes.

Two loads: "alone", where each sender has its own link, and "shared", where closed-loop flows cross links that
they share. Run as `python benchmarks/network_events.py`; the numbers belong to the machine they are taken on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator

import numpy as np
import simpy

from sim.engine.network import Links, Network


class CountingEnvironment(simpy.Environment):
    """An environment that counts the events it processes."""

    events = 0

    def step(self) -> None:
        self.events += 1
        super().step()


def sender(network: Network, route: Links, sizes: list[float]) -> Generator[simpy.Event, object, None]:
    """Send messages one after another, each when the one before has arrived."""
    for size in sizes:
        yield network.transfer(size, links=route, cap=50e9, latency=2e-6, overhead=1e-6, queue=route)


def alone(env: simpy.Environment, senders: int, count: int, rng: np.random.Generator) -> None:
    network = Network(env, [25e9] * senders)
    for link in range(senders):
        env.process(sender(network, ((link, 1.0),), rng.uniform(1e6, 1e8, count // senders).tolist()))


def shared(env: simpy.Environment, flows: int, links: int, count: int, rng: np.random.Generator) -> None:
    network = Network(env, [25e9] * links)
    for _ in range(flows):
        route = tuple((int(link), 1.0) for link in rng.choice(links, 3, replace=False))
        env.process(sender(network, route, rng.uniform(1e6, 1e8, count // flows).tolist()))


def report(name: str, count: int, env: simpy.Environment, events: int) -> None:
    started = time.perf_counter()
    env.run()
    seconds = time.perf_counter() - started
    print(f"{name}: {count / seconds:,.0f} transfers/s, {events / count:.2f} SimPy events each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alone", type=int, default=100_000, help="transfers of flows that share nothing")
    parser.add_argument("--shared", type=int, default=5_000, help="transfers of flows that share links")
    parser.add_argument("--senders", type=int, default=8, help="senders at once in the alone load")
    parser.add_argument("--flows", type=int, default=64, help="flows at once in the shared load")
    parser.add_argument("--links", type=int, default=16, help="links in the shared load, three on each route")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    def load(env: simpy.Environment, name: str) -> None:
        rng = np.random.default_rng(args.seed)
        if name == "alone":
            alone(env, args.senders, args.alone, rng)
        else:
            shared(env, args.flows, args.links, args.shared, rng)

    for name, asked, width in (("alone", args.alone, args.senders), ("shared", args.shared, args.flows)):
        counted, timed = CountingEnvironment(), simpy.Environment()
        load(counted, name)
        counted.run()
        load(timed, name)
        report(name, asked // width * width, timed, counted.events)


if __name__ == "__main__":
    main()
