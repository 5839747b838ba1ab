"""What a client is told: a status, a message, headers."""

from __future__ import annotations

from collections.abc import Mapping

from dlcli.errors import DlcliError


class RequestError(DlcliError):
    """A request that is refused, with the HTTP status of the reply."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status, self.headers = status, dict(headers or {})
