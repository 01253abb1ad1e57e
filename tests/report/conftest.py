"""Results to draw."""

from __future__ import annotations

import pytest

from sim.results.schema import Result

from .factory import bare_result, hostile_result, make_mixed, make_result, make_training


@pytest.fixture
def result() -> Result:
    return make_result()


@pytest.fixture
def two_jobs() -> Result:
    return make_result(stages=4, jobs=("chat", "batch"))


@pytest.fixture
def training() -> Result:
    return make_training()


@pytest.fixture
def mixed() -> Result:
    return make_mixed()


@pytest.fixture
def bare() -> Result:
    return bare_result()


@pytest.fixture
def hostile() -> Result:
    return hostile_result()
