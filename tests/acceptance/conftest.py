"""Programs that acceptance tests need."""

import pytest

from support.installed import need


@pytest.fixture(scope="session")
def curl() -> str:
    return need("curl")


@pytest.fixture(scope="session")
def strace() -> str:
    return need("strace")


@pytest.fixture(scope="session")
def promtool() -> str:
    return need("promtool")
