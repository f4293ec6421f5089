"""The coordinator is stopped and goes on (SIGSTOP, SIGCONT) at random moments under load: nobody is worse off."""

import logging
import os
import random  # noqa: TID251 - seeded, and the seed is printed
import signal
import threading
from pathlib import Path

import pytest

from support.load import Clients, check
from support.real_pool import RealPool
from support.traces import accepted_results, runs_ended, spent, until_released

_log = logging.getLogger(__name__)

JOBS = 150
STOPS = 12
SEED = int(os.environ.get("CRASH_SEED", "0")) or int.from_bytes(os.urandom(4), "big")


@pytest.mark.timeout(180)
def test_the_coordinator_is_stopped_for_moments_and_for_longer_than_the_grace(tmp_path: Path):
    dice = random.Random(SEED)  # noqa: S311 - no secret
    _log.warning("CRASH_SEED=%d runs this again", SEED)
    pauses = [dice.uniform(0.02, 0.8) for _ in range(STOPS)]
    pauses[dice.randrange(STOPS)] = 4.5
    with RealPool(tmp_path, [2, 2], options=("--check-interval", "500ms", "--grace", "3s")) as pool:
        clients = Clients(pool, JOBS, max_attempts=1, rest_s=0.1)
        clients.start()
        for pause_s in pauses:
            threading.Event().wait(dice.uniform(0.02, 0.5))
            pool.coordinator.send(signal.SIGSTOP)
            threading.Event().wait(pause_s)
            pool.coordinator.send(signal.SIGCONT)
        clients.join()
        check(pool, clients)
        for job_id in clients.acknowledged:
            assert spent(pool.status(job_id)) == 1, "its own sleep is not a worker's silence"
        until_released(pool)
        assert runs_ended(pool) == dict.fromkeys(clients.acknowledged, 1)
        assert "is lost" not in pool.coordinator.log
        pool.coordinator.stop()
        assert accepted_results(pool) == dict.fromkeys(clients.acknowledged, 1)
