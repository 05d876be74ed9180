"""``/dial/``: the shipped dial's sheets of pictures, the only files of the page's own on disk."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ..stored.catalogue import precomputed_folder

ADDRESS = "/dial/"
NAME = re.compile(r"dial-[0-9]{1,3}(-apart)?\.webp")
HEADERS = {
    "cache-control": "public, max-age=86400",
    "x-content-type-options": "nosniff",
}


async def sheet(request: Request) -> Response:
    """A sheet by its name; nothing else has an answer."""
    name = str(request.path_params["name"])
    path = precomputed_folder() / name
    if NAME.fullmatch(name) is None or not path.is_file():
        return Response(status_code=404)
    return FileResponse(path, headers=HEADERS, media_type="image/webp")


ROUTE = Route(ADDRESS + "{name}", sheet)
