"""Google's Artifact Registry."""

from __future__ import annotations

import base64
import json
import secrets

from tests.support.access import Access
from tests.support.faults import Redirect
from tests.support.habits.base import Habit, Sample
from tests.support.images import docker_image, oci_image
from tests.support.registry import TestRegistry
from tests.support.tokens import BearerGate, Challenge, TokenService, TokenSettings, write_challenge

_PRIVATE_KEY = "TESTPRIVATEKEYOFASERVICEACCOUNT"
KEY_FILE = json.dumps(
    {
        "type": "service_account",
        "project_id": "test",
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{_PRIVATE_KEY}\n-----END PRIVATE KEY-----\n",
        "client_email": "mirror@test.iam.gserviceaccount.com",
    },
    indent=2,
)
"""A service account's key as Google's console gives it: of many lines, and all of them are the password."""


class ArtifactRegistry(Habit):
    """Names no service on ``/v2/``, redirects to paths of its own, and knows who comes by what kind of key it is."""

    name = "us-docker.pkg.dev"
    tokens: TokenService
    public = Sample("project/public/app", "1", oci_image(141, layer_bytes=20_000))
    private = Sample("project/private/app", "1", docker_image(142, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        users = {
            "_json_key": KEY_FILE,
            "_json_key_base64": base64.b64encode(KEY_FILE.encode()).decode(),
            "oauth2accesstoken": "ya29.test-access-token",
        }
        self.access = Access(users=users, private={self.private.repository: set(users)})
        settings = TokenSettings(path="/v2/token", service=self.name, fields={"token": "{}"}, post_status=404)
        self.tokens = TokenService(self.access, settings=settings)
        self.registry = TestRegistry(gate=BearerGate(self.tokens, write=_write_challenge))
        self.registry.redirects["blob"] = Redirect(status=302, relative=True)

    def replace_access_token(self) -> tuple[str, str]:
        """End the access token, as an hour does; return user and password of the next one."""
        self.access.users["oauth2accesstoken"] = password = f"ya29.{secrets.token_urlsafe(16)}"
        return "oauth2accesstoken", password

    @property
    def secrets(self) -> set[str]:
        """Every text that must not be seen, the key in the key file too."""
        return super().secrets | {_PRIVATE_KEY}


def _write_challenge(challenge: Challenge) -> str:
    return write_challenge(challenge) if challenge.scope else f'Bearer realm="{challenge.realm}"'
