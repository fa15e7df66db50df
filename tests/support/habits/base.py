"""What every test upstream has: samples to pull, a credential, a record, and a life that keeps its ports.

The registry is on 127.0.0.1 and its data on 127.0.0.2: another host, which must not see a credential. A token service
on the registry's own host is there too, on another port; one on another host is on 127.0.0.3.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from tests.support.access import Access
from tests.support.content import read_all
from tests.support.faults import Fault, Status
from tests.support.images import Image
from tests.support.mirrors import settings
from tests.support.registry import TestRegistry
from tests.support.replies import error_reply
from tests.support.tokens import TokenService

DATA_HOST = "127.0.0.2"
OTHER_HOST = "127.0.0.3"


class Sample(NamedTuple):
    """An image that the upstream has."""

    repository: str
    tag: str
    image: Image

    @property
    def scope(self) -> str:
        """What a token for pulling it is asked for with."""
        return f"repository:{self.repository}:pull"


class Part(Protocol):
    """A server that keeps its port from `stop` to `start`."""

    async def start(self) -> None:
        """Listen."""
        ...

    async def stop(self) -> None:
        """Be gone."""
        ...

    async def __aenter__(self) -> Any:  # noqa: ANN401 - each returns itself
        """Listen for the first time."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Be gone for ever."""
        ...


class Habit:
    """An upstream with the habits of one kind of registry.

    `name` is what the mirror's configuration calls it. `registry` has the record, the faults and the content of what
    clients are told to ask; `tokens` those of the token service, if there is one. `public` and `private` are None where
    the kind has none; `private` is for the user of `credential`. Habits are no faults: `heal` leaves them.
    """

    name: ClassVar[str]
    public: ClassVar[Sample | None] = None
    private: ClassVar[Sample | None] = None

    registry: TestRegistry
    tokens: TokenService | None = None
    others: Sequence[Part] = ()  # servers beside those two

    def __init__(self) -> None:
        self.access = Access()
        self._resources = AsyncExitStack()
        self._ended: set[str] = set()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for part in self._parts:
                await stack.enter_async_context(part)
            self._fill()
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    async def start(self) -> None:
        """Be there again, on the same ports."""
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        """Be gone, every host of it: ports and connections closed; content, tokens and record stay."""
        for part in reversed(self._parts):
            await part.stop()

    def settings(self) -> dict[str, object]:
        """Return the mirror's flags for this upstream, without a credential."""
        return settings({self.name: self.registry.base_url})

    def manifest_url(self, sample: Sample) -> str:
        """Return where the registry answers for a sample's tag."""
        return f"{self.registry.base_url}/v2/{sample.repository}/manifests/{sample.tag}"

    def config_url(self, sample: Sample) -> str:
        """Return where the registry answers for a blob of a sample."""
        return f"{self.registry.base_url}/v2/{sample.repository}/blobs/{sample.image.config.digest}"

    @property
    def _parts(self) -> list[Part]:
        return [*self.others, *([] if self.tokens is None else [self.tokens]), self.registry]

    @property
    def samples(self) -> list[Sample]:
        """The public image and the private one, where there is one."""
        return [sample for sample in (self.public, self.private) if sample is not None]

    @property
    def credential(self) -> tuple[str, str] | None:
        """User and password that are right at this moment; None where nobody has any."""
        return next(iter(self.access.users.items()), None)

    @property
    def secrets(self) -> set[str]:
        """Every text that must not be seen: passwords, alone and as Basic sends them, tokens, signatures of links."""
        found = set(self.access.users.values()) | {encode_basic(*pair) for pair in self.access.users.items()}
        found |= self._ended | self.registry.cdn.signatures
        return found if self.tokens is None else found | self.tokens.secrets

    def end_credential(self) -> None:
        """Make `credential` another one: the one so far is not accepted any longer, nor any token."""
        if self.credential is not None:
            user, password = self.credential
            self._ended |= {password, encode_basic(user, password)}
            self.access.users[user] = f"test-{secrets.token_urlsafe(24)}"
        if self.tokens is not None:
            self.tokens.revoke_all()

    def heal(self) -> None:
        """Take every fault away, a limit that was exceeded too."""
        self.registry.heal()
        if self.tokens is not None:
            self.tokens.heal()

    def _fill(self) -> None:
        for repository, tag, image in self.samples:
            self.registry.add(repository, tag, image)


def encode_basic(user: str, password: str) -> str:
    """Return what follows the word Basic in ``Authorization``."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def hide_unknown(access: Access, registry: TestRegistry) -> None:
    """Let nobody tell a repository that is not there from a private one."""
    access.exists = lambda repository: repository in registry.content.names


def too_many(message: str) -> Fault:
    """Return the fault of a registry that has had enough of this client: 429, without a hint in the headers."""
    body = read_all(error_reply(429, "TOOMANYREQUESTS", message).body)
    return Fault(action=Status(status=429, body=body, headers={"Content-Type": "application/json"}), path="/v2/")
