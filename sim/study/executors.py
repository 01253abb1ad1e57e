"""Where many runs are played: here, in processes, or on a Dask cluster, all as ``concurrent.futures.Executor``.

Processes come from a fork server that has imported the simulator once, where the system has one. They leave Ctrl-C
to the parent and end when it does, even if it was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar

from sim.errors import InputError, Problem, RunError

P = ParamSpec("P")
T = TypeVar("T")

DASK = "dask://"

#: Hears what is being done, and the share of it that is.
Hear = Callable[[str, float], None]
#: An executor while it is open, and how many calls it plays at once.
OpenExecutor = Callable[[], AbstractContextManager[tuple[Executor, int]]]


class SerialExecutor(Executor):
    """Calls at once, in this process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def open_executor(name: str, workers: int = 1, preload: tuple[str, ...] = ()) -> Iterator[tuple[Executor, int]]:
    """The executor of that name, and how many calls it makes at once.

    ``serial``, ``processes`` (``workers`` of them, with the modules of ``preload`` imported) or
    ``dask://host:port``. On leaving, calls that have not begun are cancelled. Raises InputError for any other
    name or if Dask is not installed, RunError if no scheduler answers.
    """
    if name == "serial":
        yield SerialExecutor(), 1
    elif name == "processes":
        pool = ProcessPoolExecutor(workers, mp_context=_context(preload), initializer=_settle)
        try:
            yield pool, workers
        finally:
            pool.shutdown(cancel_futures=True)
    elif name.startswith(DASK) and len(name) > len(DASK):
        with _dask(name) as found:
            yield found
    else:
        message = f"unknown executor '{name}': there are serial, processes and dask://host:port"
        raise InputError([Problem("--executor", None, None, None, message)])


def _context(preload: tuple[str, ...]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _settle() -> None:
    """What a worker process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _dask(name: str) -> Iterator[tuple[Executor, int]]:
    try:
        import distributed
    except ImportError:
        message = "needs Dask: pip install 'gpu-cluster-sim[cluster]'"
        raise InputError([Problem(f"--executor {name}", None, None, None, message)]) from None
    address = name.removeprefix(DASK)
    connect: Any = distributed.Client  # its methods carry no types
    try:
        client = connect(f"tcp://{address}", timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RunError(f"no Dask scheduler answers at {address} ({type(error).__name__})") from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise RunError(f"the Dask scheduler at {address} has no workers")
        # pure=False: a call with equal arguments is made again, not answered from the scheduler's memory.
        executor: Executor = client.get_executor(pure=False)
        try:
            yield executor, threads
        finally:
            executor.shutdown(wait=False)
