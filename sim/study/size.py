"""A size: the cheapest hardware for a load, the least latency or the most tokens for a budget.

:mod:`~sim.study.size_question` reads what is asked and lists every design (:mod:`~sim.study.size_space`),
:mod:`~sim.study.size_search` finds those that are best by checking (:mod:`~sim.study.size_check`) and simulating them
(:mod:`~sim.study.size_play`), :mod:`~sim.study.size_document` tells it.
"""

from __future__ import annotations

from sim.errors import InfeasibleError
from sim.study.executors import Hear, OpenExecutor
from sim.study.size_document import document, nothing
from sim.study.size_question import Study
from sim.study.size_schema import Sizing
from sim.study.size_search import search


def size(study: Study, open_executor: OpenExecutor, hear: Hear | None = None) -> Sizing:
    """Search the space. Raises InfeasibleError, with why each kind of design lost, if nothing does what is asked."""
    found = search(study, open_executor, hear)
    if not found.answers:
        raise InfeasibleError(nothing(found))
    return document(found, hear)
