"""What all acceptance tests share: a pool for those that break nothing, and logs beside what failed."""

import os
import shutil
from collections.abc import Iterator

import pytest

from support.real_pool import RealPool


def need(program: str) -> str:
    """Return the path of a program; without it the test is skipped, or fails where CI is set."""
    path = shutil.which(program)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")
    return str(path)


@pytest.fixture(scope="session")
def bwrap() -> str:
    return need("bwrap")


@pytest.fixture(scope="session")
def curl() -> str:
    return need("curl")


@pytest.fixture(scope="session")
def strace() -> str:
    return need("strace")


@pytest.fixture(scope="session")
def promtool() -> str:
    return need("promtool")


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
