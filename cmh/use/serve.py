"""A page of this machine to search with a text or a picture: what it answers, and whom.

Only a browser of this machine reaches it, unless another address is listened at. Other sites that such a browser has
open do not: the Host must be ours (else a name of theirs could be made to lead here), and what another origin asks is
refused. Pictures and texts of the dataset are asked for by number, never by path.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cmh import style
from cmh.errors import CmhError, EncoderError
from cmh.use.answers import MOST_BYTES, MOST_FOUND, Answers, utf8
from cmh.use.collection import KINDS

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXTRA = ("starlette", "uvicorn")  # what the extra [serve] brings
Result = TypeVar("Result")

PAGE = Path(__file__).parent / "page"
OURS = ("127.0.0.1", "localhost", "[::1]")
CONNECTIONS = 64  # at once; more are told to come later
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def check() -> None:
    """Raises EncoderError where the extra is not installed."""
    if lacking := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise EncoderError(f"--serve needs {' and '.join(lacking)}, of the extra [serve]: pip install 'cmh[serve]'")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free. Raises EncoderError where it cannot be had."""
    try:
        if not host:
            raise OSError("it is empty")
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, TypeError, ValueError) as error:  # a name that nobody knows; one that cannot be any
        why = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise EncoderError(
            f"--host {host} --port {port}: cannot be listened at ({why}); --port 0 takes any that is free, and --host"
            " must be a name or address of this machine"
        ) from error


def address(host: str, at: socket.socket) -> str:
    """What a browser is to open."""
    return f"http://{_names(host)[-1]}:{at.getsockname()[1]}/"


def open_to_others(at: socket.socket) -> bool:
    """Whether other machines may reach it."""
    return not ipaddress.ip_address(at.getsockname()[0]).is_loopback


def _names(host: str) -> list[str]:
    """What the Host of a request may be."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  (all addresses; by number nobody is sent here, but by our name)
        return [*OURS, socket.gethostname()]
    return [*OURS, f"[{host}]" if ":" in host else host]


def server(answers: Answers, host: str) -> uvicorn.Server:
    """A server for `run(sockets=[…])`, which an interrupt ends."""
    import uvicorn

    settings = uvicorn.Config(
        application(answers, host),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(settings)


class _Guard:
    """Refuses what other origins ask, and gives every answer the headers that keep a page to itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        asked = Headers(scope=scope)
        origin = asked.get("origin")
        elsewhere = asked.get("sec-fetch-site", "none") not in ("none", "same-origin")  # where browsers say it
        link = asked.get("sec-fetch-mode") == "navigate"
        foreign = (origin is not None and origin != f"http://{asked.get('host')}") or (elsewhere and not link)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        app = PlainTextResponse("asked by another site", 403) if foreign else self._app
        await app(scope, receive, with_headers)


def application(answers: Answers, host: str) -> Starlette:
    """The page, and what it asks: `/api/about`, `/api/search`, `/api/picture`."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    def refused(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code)
        return JSONResponse({"error": utf8(str(error))}, 422)

    def whole(text: str, name: str, low: int, high: int) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
            raise HTTPException(400, f"{name} is {text!r:.40}, but must be an integer from {low} to {high}")
        return int(text)

    def there(found: Result | None) -> Result:
        if found is None:
            raise HTTPException(404, "there is no such item")
        return found

    def kind(asked: Request, name: str) -> str:
        found = asked.query_params.get(name, KINDS[0])
        if found not in KINDS:
            raise HTTPException(400, f"{name} is {found!r:.40}, but must be {' or '.join(KINDS)}")
        return found

    def wanted(asked: Request) -> tuple[str, int | None]:
        top = asked.query_params.get("top")
        return kind(asked, "find"), None if top is None else whole(top, "top", 1, MOST_FOUND)

    def about(_: Request) -> Response:
        return JSONResponse(answers.about())

    def search(asked: Request) -> Response:
        query = asked.query_params
        if "text" in query:
            return JSONResponse(answers.for_text(query["text"], *wanted(asked)))
        if "like" in query:
            item = whole(query["like"], "like", 0, 10**9)
            return JSONResponse(there(answers.for_item(kind(asked, "of"), item, *wanted(asked))))
        raise HTTPException(400, "nothing to search for: ?text=…, ?of=pictures&like=NUMBER, or POST a picture")

    async def search_by_picture(asked: Request) -> Response:
        where, raw = wanted(asked), bytearray()
        async for block in asked.stream():
            raw += block
            if len(raw) > MOST_BYTES:
                raise HTTPException(413, f"a picture may have at most {MOST_BYTES:,} bytes")
        return JSONResponse(await run_in_threadpool(answers.for_picture, bytes(raw), *where))

    def picture(asked: Request) -> Response:
        item = whole(asked.path_params["item"], "item", 0, 10**9)
        raw = there(answers.picture(asked.path_params["version"], item))
        return Response(raw, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    def shared(_: Request) -> Response:
        return FileResponse(style.SHARED, media_type="text/css")

    return Starlette(
        routes=[
            Route("/api/about", about),
            Route("/api/search", search),
            Route("/api/search", search_by_picture, methods=["POST"]),
            Route("/api/picture/{version}/{item}", picture),
            Route("/style.css", shared),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=_names(host), www_redirect=False),
            Middleware(_Guard),
        ],
        exception_handlers={CmhError: refused, HTTPException: refused},
    )
