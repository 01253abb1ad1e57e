"""A size: the cheapest hardware for a load, the least latency or the most tokens for a budget.

:mod:`~sim.study.size_question` reads what is asked and lists every design (:mod:`~sim.study.size_space`),
:mod:`~sim.study.size_search` finds those that are best by checking (:mod:`~sim.study.size_check`), simulating
(:mod:`~sim.study.size_play`) and confirming them (:mod:`~sim.study.size_confirm`),
:mod:`~sim.study.size_document` tells it.
"""

from __future__ import annotations

from sim.study.executors import Hear, OpenExecutor
from sim.study.size_document import document, unanswered
from sim.study.size_question import Study
from sim.study.size_schema import Sizing
from sim.study.size_search import search


def size(study: Study, open_executor: OpenExecutor, hear: Hear | None = None) -> Sizing:
    """Search the space. If nothing does what is asked, the document has no answers, but why each kind of design lost
    and what came nearest. Raises Interrupted, with what is known, where the user interrupts it."""
    found = search(study, open_executor, hear)
    return document(found, hear) if found.answers else unanswered(found)
