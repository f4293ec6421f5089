"""Calls for looking after jobs, workers and the pool; part of the client."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from trusted_pool.client.transport import Transport
from trusted_pool.protocol.answers import (
    BulkCancelAnswer,
    DryRunAnswer,
    ExplainAnswer,
    HistoryAnswer,
    PauseAnswer,
    StatusAnswer,
    SubmitAnswer,
    WorkerAnswer,
    WorkersAnswer,
)
from trusted_pool.protocol.identity import to_path

_DRY_RUN_SILENCE_S = 120.0


class Care:
    """What is asked beside submitting and fetching."""

    _transport: Transport

    async def explain(self, job_id: str) -> ExplainAnswer:
        """Ask why a job is where it is."""
        return await self._transport.ask("GET", f"/explain/{quote(job_id, safe='')}", ExplainAnswer)

    async def history(self, job_id: str) -> HistoryAnswer:
        """Ask for the whole story of a job, oldest first."""
        return await self._transport.ask("GET", f"/history/{quote(job_id, safe='')}", HistoryAnswer)

    async def rerun(self, job_id: str) -> SubmitAnswer:
        """Submit a job's files and manifest again, as a new job."""
        return await self._transport.ask("POST", f"/rerun/{quote(job_id, safe='')}", SubmitAnswer)

    async def set_priority(self, job_id: str, priority: int) -> StatusAnswer:
        """Give a waiting job another priority; a step is worth 60 s of waiting."""
        path = f"/priority/{quote(job_id, safe='')}"
        return await self._transport.ask("POST", path, StatusAnswer, body=_json({"priority": priority}))

    async def cancel_all(
        self,
        *,
        states: Sequence[str] = (),
        owner: str | None = None,
        name: str | None = None,
        worker: str | None = None,
        labels: Mapping[str, str] | None = None,
        everything: bool = False,
    ) -> BulkCancelAnswer:
        """Cancel every job that all the given conditions meet, or everything that has not ended."""
        given = {"states": list(states), "owner": owner, "name": name, "worker": worker, "labels": dict(labels or {})}
        body = {key: value for key, value in given.items() if value} | ({"all": True} if everything else {})
        return await self._transport.ask("POST", "/jobs/cancel", BulkCancelAnswer, body=_json(body))

    async def dry_run(self, body: Mapping[str, Any]) -> DryRunAnswer:
        """Ask what would become of a submit with this body. Nothing is kept."""
        return await self._transport.ask(
            "POST", "/submit", DryRunAnswer, params={"dry_run": "1"}, body=body, silence_s=_DRY_RUN_SILENCE_S
        )

    async def workers(self) -> WorkersAnswer:
        """Ask how the workers are."""
        return await self._transport.ask("GET", "/workers", WorkersAnswer)

    async def set_duty(self, worker_id: str, verb: str, deadline_s: float | None = None) -> WorkerAnswer:
        """`cordon`, `uncordon` or `drain` a worker given by its id or the beginning of it."""
        params = {} if deadline_s is None else {"deadline": f"{deadline_s:g}"}
        path = f"/workers/{quote(to_path(worker_id), safe='')}/{verb}"
        return await self._transport.ask("POST", path, WorkerAnswer, params=params)

    async def pause(self, *, paused: bool = True) -> PauseAnswer:
        """Dispatch nothing until it is resumed; or resume."""
        return await self._transport.ask("POST", "/pause" if paused else "/resume", PauseAnswer)


def _json(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": msgspec.json.encode(fields)}
