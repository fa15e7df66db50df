"""Answers that several test servers give."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus

from multidict import CIMultiDict

from tests.support.content import Body, body_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer to be sent; `takes_ranges` says that a `Range` is to be cut out of the body."""

    status: int
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: Body = ()
    takes_ranges: bool = False

    @property
    def is_content(self) -> bool:
        """Whether this is what was asked for rather than an error, a challenge or a redirect."""
        return self.status == HTTPStatus.OK


def json_reply(value: object, *, status: int = 200, content_type: str = "application/json") -> Reply:
    """Return a JSON document."""
    headers = CIMultiDict({"Content-Type": content_type})
    return Reply(status=status, headers=headers, body=body_of(json.dumps(value).encode()))


def error_reply(status: int, code: str, message: str, detail: object = None) -> Reply:
    """Return an error.

    Spec: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes
    """
    return json_reply({"errors": [{"code": code, "message": message, "detail": detail}]}, status=status)
