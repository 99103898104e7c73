"""The dashboard's addresses: the page and its parts, streams of events, and what its buttons ask for.

GET  /, /static/..., /plotly.js        files of this package, and plotly's script
GET  /events, /jobs/ID/events          server-sent events
POST /token, /jobs/ID/..., /workers/NODE/...   only with the token, in a header that no other site's page may send
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.dashboard import controls
from producer.dashboard.feed import Feed
from worker_config.decodable import decodable
from worker_config.errors import CeleriacError, ConfigError

STATIC = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "buttons.js": "text/javascript",
    "elements.js": "text/javascript",
    "job.js": "text/javascript",
}
# What may be shown and asked for: our own, and nothing else. Plotly writes styles into the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# A priority, in JSON.
MOST_BODY_BYTES = 1_000
MOST_JOB_FEEDS = 50

Read = Callable[[], dict[str, Any]]


class Feeds:
    """The stream of all that goes on, and one for each job that somebody looks at."""

    overview: Feed

    def __init__(self, overview: Read, job: Callable[[str], Read]) -> None:
        self.overview = Feed(overview)
        self._job = job
        self._jobs: dict[str, Feed] = {}

    def of_job(self, job_id: str) -> Feed | None:
        """That of a job; None where too many are looked at."""
        self._jobs = {known: feed for known, feed in self._jobs.items() if feed.is_on}
        if job_id not in self._jobs and len(self._jobs) < MOST_JOB_FEEDS:
            self._jobs[job_id] = Feed(self._job(job_id), tick_seconds=2.0)
        return self._jobs.get(job_id)

    def close(self) -> None:
        """End all streams."""
        for feed in (self.overview, *self._jobs.values()):
            feed.close()


class Guard:
    """Before everything: what changes something needs the token; every response has the page's policy."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            told = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(told, self._expected):
                refused = _told("This needs the token that `celeriac dashboard` printed when it started.", 403)
                return await refused(scope, receive, send_guarded)
        return await self._app(scope, receive, send_guarded)


def make_app(url: str, token: str, feeds: Feeds, hosts: list[str]) -> Starlette:
    """The whole of it, for these values of the header Host; `url` is that of Redis."""
    folder = files("producer.dashboard") / "static"
    parts = {name: (folder / name).read_bytes() for name in STATIC}

    async def page(_: Request) -> Response:
        return _file(parts, "page.html")

    async def static(request: Request) -> Response:
        return _file(parts, request.path_params["name"])

    async def plotly(_: Request) -> Response:
        return FileResponse(plotly_path(), media_type="text/javascript", headers={"cache-control": "max-age=3600"})

    async def events(_: Request) -> Response:
        return _stream(feeds.overview)

    async def job_events(request: Request) -> Response:
        feed = feeds.of_job(request.path_params["job"])
        return _stream(feed) if feed else _told("So many jobs are looked at that this one cannot be.", 503)

    async def check_token(_: Request) -> Response:
        return _told("The token is right.")  # else nobody gets here

    async def cancel(request: Request) -> Response:
        return await _done(controls.cancel, url, request.path_params["job"])

    async def priority(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY_BYTES:
                return _told("That is no priority.", 413)
        try:
            wanted = msgspec.json.decode(body, type=decodable(_Priority)).priority
        except msgspec.DecodeError:
            return _told("That is no priority.", 400)
        return await _done(controls.set_priority, url, request.path_params["job"], wanted)

    async def control(request: Request) -> Response:
        return await _done(controls.control, url, request.path_params["node"], request.path_params["command"])

    return Starlette(
        routes=[
            Route("/", page),
            Route("/static/{name}", static),
            Route("/plotly.js", plotly),
            Route("/events", events),
            Route("/jobs/{job}/events", job_events),
            Route("/token", check_token, methods=["POST"]),
            Route("/jobs/{job}/cancel", cancel, methods=["POST"]),
            Route("/jobs/{job}/priority", priority, methods=["POST"]),
            Route("/workers/{node}/{command}", control, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, token=token), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


def plotly_path() -> Path:
    """Plotly's script, which draws the pictures; it is found without importing plotly.

    Raises:
        ConfigError: it is not installed.
    """
    spec = find_spec("plotly")
    path = Path(next(iter((spec and spec.submodule_search_locations) or [""]))) / "package_data" / "plotly.min.js"
    if not path.is_file():
        raise ConfigError("the dashboard's pictures need plotly; run: pip install 'celeriac[dashboard]'")
    return path


class _Priority(msgspec.Struct):
    priority: str


def _file(parts: Mapping[str, bytes], name: str) -> Response:
    if name not in parts:
        return _told("There is no such page.", 404)
    return Response(parts[name], media_type=STATIC[name], headers={"cache-control": "no-cache"})


def _stream(feed: Feed) -> Response:
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(feed.events(), media_type="text/event-stream", headers=headers)


async def _done(do: Callable[..., str], *words: str) -> Response:
    try:
        return _told(await run_in_threadpool(do, *words))
    except CeleriacError as error:
        return _told(str(error), 409)


def _told(text: str, status: int = 200) -> Response:
    return JSONResponse({"text": text}, status)
