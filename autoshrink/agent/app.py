"""The agent's requests. See docs/devices.md for the protocol.

Nothing that comes is ever run as code: a job names a runtime of the table, files by their SHA-256, and numbers.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from autoshrink import __version__
from autoshrink.agent.guard import Guard, Large, Late, Rules
from autoshrink.agent.queue import Entry, Queue, Refused
from autoshrink.agent.store import Wrong
from autoshrink.agent.wire import PROTOCOL, JobRequest
from autoshrink.backends import BACKENDS, get_backend
from autoshrink.backends.base import Backend
from autoshrink.measure.environment import describe_machine
from autoshrink.measure.identity import identity_here
from autoshrink.measure.sensors import read_sensors

LONGEST_WAIT_S = 25.0
MOST_PROBLEMS = 20
Number = InPath(ge=1, le=2**31)


def make_app(queue: Queue, rules: Rules) -> Guard:
    """The application of an agent, behind its guard."""

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        queue.start()
        yield
        await queue.close()

    app = FastAPI(lifespan=life, openapi_url=None)

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        return _error(error.status, str(error))

    @app.exception_handler(Wrong)
    async def wrong(_request: Request, error: Wrong) -> Response:
        return _error(422, str(error))

    @app.exception_handler(Late)
    async def late(_request: Request, error: Late) -> Response:
        return _error(408, str(error), close=True)

    @app.exception_handler(Large)
    async def large(_request: Request, error: Large) -> Response:
        return _error(413, str(error), close=True)

    @app.exception_handler(OSError)
    async def no_room(_request: Request, error: OSError) -> Response:
        return _error(507, f"the device cannot keep it ({os.strerror(error.errno) if error.errno else error})")

    @app.exception_handler(ClientDisconnect)
    async def left(_request: Request, _left: ClientDisconnect) -> Response:
        return _error(400, "the client went away")

    @app.exception_handler(HTTPException)
    async def not_there(_request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def not_valid(_request: Request, error: RequestValidationError) -> Response:
        return _error(422, _told(error.errors()))

    described: dict[str, Any] = {}

    @app.get("/v1/device")
    async def device() -> dict[str, Any]:
        # Looking around takes the processor some time, which a measurement must not feel.
        if not described or not queue.length:
            described["machine"] = describe_machine() | {"sensors": read_sensors()}
            described["backends"] = {name: _can(get_backend(name)) for name in BACKENDS}
        return {
            "protocol": PROTOCOL,
            "autoshrink": __version__,
            "queue": queue.length,
            "latest": dict(queue.latest),
            **described,
        }

    @app.post("/v1/sessions")
    async def open_session() -> dict[str, Any]:
        return {"session": queue.open().name}

    @app.delete("/v1/sessions/{session}")
    async def end_session(session: str) -> dict[str, Any]:
        queue.end(queue.session(session))
        return {}

    @app.put("/v1/sessions/{session}/jobs/{number}", status_code=202)
    async def submit(request: Request, session: str, number: int = Number) -> dict[str, Any]:
        found = queue.session(session)
        try:
            job = JobRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise Refused(422, _told(error.errors())) from None
        problems = job.problems()
        if problems:
            raise Refused(422, "; ".join(problems))
        can = get_backend(job.backend).available_to_run()
        if can.state not in ("ready", "untimed"):
            raise Refused(424, f"{job.backend} is {can.state} on this device: {can.why}; {can.fix}")
        return _shown(queue, queue.submit(found, number, job))

    @app.get("/v1/sessions/{session}/jobs/{number}")
    async def look(
        session: str, number: int = Number, since: int = -1, wait: float = Query(0.0, ge=0, le=LONGEST_WAIT_S)
    ) -> dict[str, Any]:
        entry = queue.entry(queue.session(session), number)
        if wait:
            await queue.wait(entry, since, wait)
        return _shown(queue, entry)

    @app.delete("/v1/sessions/{session}/jobs/{number}")
    async def remove(session: str, number: int = Number) -> dict[str, Any]:
        queue.remove(queue.session(session), number)
        return {}

    @app.put("/v1/sessions/{session}/jobs/{number}/files/{sha256}")
    async def receive(request: Request, session: str, sha256: str, number: int = Number) -> dict[str, Any]:
        entry = queue.entry(queue.session(session), number)
        await queue.receive(entry, sha256, request.stream())
        return {}

    @app.get("/v1/sessions/{session}/jobs/{number}/files/{name:path}")
    async def fetch(session: str, name: str, number: int = Number) -> Response:
        entry = queue.entry(queue.session(session), number)
        # By the list of what the job gave, never by the name itself.
        if name not in entry.files or entry.folder is None:
            raise Refused(404, "the job gave no such file")
        return FileResponse(entry.folder / Path(name), media_type="application/octet-stream")

    return Guard(app, rules)


def _can(backend: Backend) -> dict[str, Any]:
    found = backend.available_to_run()
    identity = identity_here(backend) if found.state in ("ready", "untimed") else {}
    return {"state": found.state, "why": found.why, "fix": found.fix, "identity": identity}


def _shown(queue: Queue, entry: Entry) -> dict[str, Any]:
    """What a client is told of a job."""
    shown: dict[str, Any] = {"state": entry.state, "version": entry.version, "stage": entry.stage}
    if entry.state == "queued":
        shown["ahead"] = queue.position(entry)
    if entry.state == "files":
        shown["missing"] = sorted(entry.missing)
    if entry.state == "failed":
        shown["reason"] = entry.reason
    if entry.state == "done":
        shown["result"] = entry.result
    if entry.files:
        shown["files"] = {name: list(of) for name, of in entry.files.items()}
    return shown


def _told(problems: Sequence[Any]) -> str:
    """What pydantic found."""
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems[:MOST_PROBLEMS])


def _error(status: int, why: str, close: bool = False) -> JSONResponse:
    """`close` ends the connection, whose body was not read to its end."""
    return JSONResponse({"error": why}, status, {"Connection": "close"} if close else None)
