"""One credential: a name with a password, or an identity token that a token service exchanges."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

_KEY: Final = secrets.token_bytes(32)  # made before workers are forked, so that theirs is the same

AZURE_USER: Final = "00000000-0000-0000-0000-000000000000"
"""Who Azure's registries are told to be when the password is a token of theirs.

Source: https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md
"""


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What to show to an upstream; ``repr`` leaves the secret out.

    Args:
        username: empty for an identity token, which needs none.
        secret: the password, or the token.
        place: where it was found, in words for people.
        is_identity_token: whether it is to be exchanged (OAuth 2's refresh token) and never shown as a password.
    """

    username: str
    secret: str = field(repr=False)
    place: str
    is_identity_token: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """What tells this credential from every other, in this process and its workers, and gives nothing away."""
        text = f"{self.is_identity_token}\0{self.username}\0{self.secret}"
        return hashlib.blake2b(text.encode(), digest_size=16, key=_KEY).hexdigest()
