"""``/dial/``: the shipped dials' sheets of pictures, the only files of the page's own on disk."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ..stored.catalogue import precomputed_folder, twin_folder

ADDRESS = "/dial/"
TWIN = "injected"
"""The folder of the twin's."""
NAME = re.compile(r"dial-[0-9]{1,3}(-apart)?\.webp")
HEADERS = {
    "cache-control": "public, max-age=86400",
    "x-content-type-options": "nosniff",
}


async def sheet(request: Request) -> Response:
    """A sheet by its name; nothing else has an answer."""
    name = str(request.path_params["name"])
    folder, twin = precomputed_folder(), request.path_params.get("twin")
    if twin not in (None, TWIN):
        return Response(status_code=404)
    path = (folder if twin is None else twin_folder(folder)) / name
    if NAME.fullmatch(name) is None or not path.is_file():
        return Response(status_code=404)
    return FileResponse(path, headers=HEADERS, media_type="image/webp")


ROUTES = [Route(ADDRESS + "{name}", sheet), Route(ADDRESS + "{twin}/{name}", sheet)]
