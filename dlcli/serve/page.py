"""The page of a server, on ``/``: a model, an input, its prediction. It loads nothing else."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from dlcli.formats.web import page as web

if TYPE_CHECKING:
    from dlcli.serve.state import ServerState


@cache
def policy() -> str:
    """The content security policy: only the page's own style and script, requests to its own server."""
    digests = web.digests_of_parts()
    return (
        f"default-src 'none'; style-src {' '.join(digests['style'])}; "
        f"script-src {' '.join(digests['script'])}; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(state: ServerState) -> str:
    """The HTML, with what it needs to know of the models."""
    models = [web.facts(one.name, one.version, one.artifact.card) for one in state.models.all()]
    return web.page("dlcli serve", models, token=state.config.token is not None)
