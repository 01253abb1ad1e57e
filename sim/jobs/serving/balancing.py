"""Which replica a request goes to, when it comes: policies by name.

- *round_robin*: in turn.
- *least_loaded*: the one with the fewest requests, running or waiting.
- *kv_aware*: the one that has the fewest tokens of prompts to compute until the request's are: those of requests that
  wait there, and its own that are not in the prefix cache. Of equals the least loaded.

Of equals the one whose turn it is. (*sticky*, where who comes again stays, needs no look at the replicas.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.jobs.serving.batching import Scheduler
from sim.jobs.serving.requests import RequestTable


class Balancer:
    """What a router knows of a job's replicas: their schedulers, and the requests on their way to them."""

    def __init__(self, policy: str, table: RequestTable) -> None:
        self.table = table
        self.schedulers: list[Scheduler] = []
        #: Requests that were sent to a replica and not yet seen by it.
        self.coming: list[int] = []
        #: Tokens to compute of requests that were sent to a replica and not let in.
        self.ahead: list[int] = []
        self._sent: dict[int, tuple[int, int]] = {}
        self._turn = 0
        self._key = KEYS[policy]

    def join(self, scheduler: Scheduler) -> None:
        """The next replica."""
        self.schedulers.append(scheduler)
        self.coming.append(0)
        self.ahead.append(0)

    def choose(self, r: int, among: Sequence[int]) -> int:
        """The replica a request goes to."""
        n = len(self.schedulers)
        k = min(among, key=lambda k: (*self._key(self, r, k), (k - self._turn) % n))
        self._turn = (k + 1) % n
        self.coming[k] += 1
        self._sent[r] = k, self.to_compute(r, k)
        self.ahead[k] += self._sent[r][1]
        return k

    def seen(self, k: int) -> None:
        """A request has come to a replica's queue, or was refused there."""
        self.coming[k] -= 1

    def left_queue(self, r: int) -> None:
        """A request was let in, refused, or went elsewhere."""
        sent = self._sent.pop(r, None)
        if sent is not None:
            self.ahead[sent[0]] -= sent[1]

    def load(self, k: int) -> int:
        """Requests of a replica."""
        scheduler = self.schedulers[k]
        return scheduler.running + len(scheduler.waiting) + self.coming[k]

    def to_compute(self, r: int, k: int) -> int:
        """Tokens of a request's prompt that are not in a replica's cache."""
        cache, tokens = self.schedulers[k].cache, self.table.prompt[r] + self.table.generated[r]
        return tokens if cache is None else max(1, tokens - cache.search(r).tokens)


Key = Callable[[Balancer, int, int], tuple[int, ...]]
KEYS: dict[str, Key] = {
    "round_robin": lambda balancer, r, k: (),
    "least_loaded": lambda balancer, r, k: (balancer.load(k),),
    "kv_aware": lambda balancer, r, k: (balancer.ahead[k] + balancer.to_compute(r, k), balancer.load(k)),
}
"""Of each policy what it makes least, for request r on replica k."""
