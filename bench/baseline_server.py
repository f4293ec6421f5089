"""The baseline of the submit benchmark: the same endpoints, kept in memory only, on aiohttp.

What a coordinator of two hundred lines does: it reads the form, puts the bytes into a dict and answers.
"""

import argparse
import asyncio
import json
import uuid

from aiohttp import web

JOBS: dict[str, dict[str, object]] = {}


async def submit(request: web.Request) -> web.Response:
    """Keep a job in memory."""
    form = await request.post()
    files = form["files"]
    manifest = json.loads(str(form.get("manifest", "{}")))
    job_id = f"pool-{uuid.uuid4().hex[:12]}"
    data = files.file.read() if isinstance(files, web.FileField) else b""
    JOBS[job_id] = {"manifest": manifest, "files": data, "status": "queued"}
    return web.json_response({"job_id": job_id, "status": "queued"})


async def status(request: web.Request) -> web.Response:
    """Answer a job's status."""
    job = JOBS.get(request.match_info["job_id"])
    if job is None:
        return web.json_response({"error": "not found"}, status=404)
    return web.json_response({"job_id": request.match_info["job_id"], "pool_status": job["status"]})


async def pool(_request: web.Request) -> web.Response:
    """Answer the pool's counts."""
    return web.json_response({"total_workers": 0, "total_jobs": len(JOBS), "workers": []})


async def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    app = web.Application(client_max_size=1 << 30)
    app.add_routes([web.post("/submit", submit), web.get("/status/{job_id}", status), web.get("/pool", pool)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
