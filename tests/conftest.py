"""What tests of several kinds share: a pool for those that break nothing, and its logs beside what failed."""

from collections.abc import Iterator

import pytest

from support.installed import need
from support.real_pool import RealPool


@pytest.fixture(scope="session")
def bwrap() -> str:
    return need("bwrap")


@pytest.fixture(scope="session")
def shared_pool(tmp_path_factory: pytest.TempPathFactory, bwrap: str) -> Iterator[RealPool]:
    """Two workers with two slots each, for tests that end nothing and count on nothing that others may change."""
    assert bwrap
    with RealPool(tmp_path_factory.mktemp("shared")) as pool:
        yield pool


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    pool = getattr(item, "funcargs", {}).get("shared_pool")
    if report.failed and call.when == "call" and pool is not None:
        report.sections.append(("the shared pool", pool.logs()))
    return report
