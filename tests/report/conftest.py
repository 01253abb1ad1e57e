"""Results to draw."""

from __future__ import annotations

import pytest

from sim.results.schema import Result

from .factory import bare_result, hostile_result, make_result


@pytest.fixture
def result() -> Result:
    return make_result()


@pytest.fixture
def two_jobs() -> Result:
    return make_result(stages=4, jobs=("chat", "batch"))


@pytest.fixture
def bare() -> Result:
    return bare_result()


@pytest.fixture
def hostile() -> Result:
    return hostile_result()
