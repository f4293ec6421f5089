"""The worker's life: start, run, drain, stop, close."""

import asyncio
import logging

from trusted_pool import __version__
from trusted_pool.ports.blobs import Blobs
from trusted_pool.ports.clock import Clock, Dice
from trusted_pool.ports.journal import Journal
from trusted_pool.ports.sandbox import Sandbox
from trusted_pool.protocol.messages import API_VERSION, HealthAnswer
from trusted_pool.worker.attempts import Attempts
from trusted_pool.worker.enrolment import Enrolment
from trusted_pool.worker.events import Events
from trusted_pool.worker.inputs import Inputs
from trusted_pool.worker.intake import Intake
from trusted_pool.worker.pool_list import PoolList
from trusted_pool.worker.pools import Pools

#: How long a drained worker waits for its results to be fetched before it leaves; those that stay are kept on disk.
RESULTS_S = 30.0
#: The same, after it was told to end what runs.
HURRY_S = 3.0
#: How long nobody may listen before a drained worker leaves with results that were not fetched.
MENDED_S = 2.0

_log = logging.getLogger(__name__)


class Daemon:
    """One worker. Lifecycle: `start`, then `wait`, which a signal brings to its end, then `close`."""

    def __init__(
        self,
        *,
        worker_id: str,
        sandbox: Sandbox,
        journal: Journal,
        blobs: Blobs,
        enrolment: Enrolment,
        clock: Clock,
        dice: Dice,
        listed: tuple[str, ...] = (),
        anyone: bool = False,
        pool_list: PoolList | None = None,
    ) -> None:
        """`listed`: pools that may run jobs here; `pool_list`: a file with more of them; `anyone`: all may.

        Raises:
            EnrolmentError, PoolListError: one of them cannot be read.
        """
        self.worker_id = worker_id
        self.sandbox = sandbox
        self.journal = journal
        inputs = Inputs(blobs)
        self._blobs = blobs
        self.pools = Pools(listed=listed, anyone=anyone, enrolment=enrolment, journal=journal, pool_list=pool_list)
        self.attempts = Attempts(
            worker_id=worker_id, sandbox=sandbox, journal=journal, inputs=inputs, clock=clock, dice=dice
        )
        self.pools.on_out.append(self.attempts.stop_pool)
        self.intake = Intake(self.attempts, inputs)
        self.events = Events(self.attempts, journal, sandbox)
        self._signals = 0
        self._draining = asyncio.Event()
        self._at_once = asyncio.Event()
        self._hurry = asyncio.Event()

    def health(self) -> HealthAnswer:
        """Say how it is. A draining worker is healthy: what it runs goes on."""
        return HealthAnswer(
            status="healthy",
            worker_id=self.worker_id,
            version=__version__,
            api=API_VERSION,
            capacity=self.attempts.measure(),
            active_jobs=self.attempts.active,
            draining=self.attempts.draining,
        )

    async def start(self) -> None:
        """Measure the machine, sweep, take up the journal. Nothing may be asked of it before.

        Raises:
            SandboxError, JournalError, BlobsError: it cannot work here; the message says why.
        """
        await self.sandbox.start()
        await self._blobs.sweep()
        await self.attempts.start()

    def signal(self) -> None:
        """Hear a request to end: the first drains, the second ends what runs, the third does so at once."""
        self._signals += 1
        if self._signals == 1:
            _log.warning("Draining: %d running; no new jobs (again: end them)", self.attempts.active)
            self.attempts.drain()
            self._draining.set()
        elif self._signals == 2:  # noqa: PLR2004 - counting
            _log.warning("Ending %d running jobs (again: at once)", self.attempts.active)
            self.attempts.stop_all()
            self._hurry.set()
        else:
            self._at_once.set()

    def quit(self) -> None:
        """Hear SIGQUIT: like the second signal, or the third."""
        self._signals = max(self._signals, 1)
        self.signal()
        self._draining.set()

    async def wait(self) -> None:
        """Return when it was told to end and has nothing left to do."""
        await self._draining.wait()
        leaving = asyncio.ensure_future(self._leave())
        at_once = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait({leaving, at_once}, return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, at_once):
            task.cancel()
        await asyncio.wait({leaving, at_once})

    async def _leave(self) -> None:
        await self.attempts.idle()
        fetched, hurry = asyncio.ensure_future(self._fetched()), asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({fetched, hurry}, timeout=RESULTS_S, return_when=asyncio.FIRST_COMPLETED)
            if hurry.done():
                await asyncio.wait({fetched}, timeout=HURRY_S)
        finally:
            for task in (fetched, hurry):
                task.cancel()
            await asyncio.wait({fetched, hurry})
        if not self.attempts.empty:
            _log.warning("Results that nobody fetched stay here; start the worker again to hand them out")

    async def _fetched(self) -> None:
        """Wait while somebody listens, who then fetches; a broken line gets a moment to be mended."""
        attempts, events = self.attempts, self.events
        listening = True
        while listening and not attempts.empty:
            await attempts.until(lambda: attempts.empty or not events.followers)
            listening = await attempts.until(lambda: attempts.empty or events.followers > 0, MENDED_S)

    def hang_up(self) -> None:
        """Let the answers that never end, end: what follows events has heard all by then. Comes before `close`."""
        self.attempts.hang_up()

    async def close(self) -> None:
        """End everything at once and let go. Idempotent."""
        await self.attempts.close()
