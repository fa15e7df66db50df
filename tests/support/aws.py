"""Amazon's API, as far as it gives passwords for private registries: signed requests, answers as the real one's.

Source: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Self

from aiohttp import web

_ACTION = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
_KEY, _SECRET = "AKIATESTTESTTESTTEST", "test-aws-secret-key"
_SIGNED = re.compile(
    rf"AWS4-HMAC-SHA256 Credential={_KEY}/[0-9]{{8}}/eu-west-1/ecr/aws4_request, "
    r"SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*, Signature=[0-9a-f]{64}"
)


class AwsApi:
    """Answers GetAuthorizationToken on 127.0.0.1."""

    def __init__(self, make_password: Callable[[], tuple[str, float]]) -> None:
        self._make_password = make_password
        self._runner: web.ServerRunner | None = None
        self._port = 0
        self.calls = 0
        self.refuses = False

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        (host_and_port,) = self._runner.addresses
        self._port = host_and_port[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which Amazon's libraries find an identity and this API."""
        return {
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_ENDPOINT_URL_ECR": f"http://127.0.0.1:{self._port}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.calls += 1
        is_signed = _SIGNED.fullmatch(request.headers.get("Authorization", "")) is not None
        if self.refuses or not is_signed or request.headers.get("X-Amz-Target") != _ACTION:
            error = {"__type": "UnrecognizedClientException", "message": "The security token is invalid."}
            return _json(error, status=400)
        password, ends_at = self._make_password()
        token = base64.b64encode(f"AWS:{password}".encode()).decode()
        made = {"authorizationToken": token, "expiresAt": ends_at, "proxyEndpoint": "https://example.test"}
        return _json({"authorizationData": [made]})


def _json(document: object, *, status: int = 200) -> web.Response:
    body = json.dumps(document).encode()
    return web.Response(status=status, body=body, content_type="application/x-amz-json-1.1")
