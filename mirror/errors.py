"""Every error that may cross a layer, named for what the caller can do about it.

``str(error)`` is a message for people: what, which, and what next. It holds no secret, and text from outside goes
through `quote` first.
"""

from __future__ import annotations

from typing import ClassVar

_QUOTED_LIMIT = 100


def quote(text: str) -> str:
    """Quote text from outside for a message or a header: ASCII, one line, at most about a hundred characters."""
    return ascii(text if len(text) <= _QUOTED_LIMIT else text[: _QUOTED_LIMIT - 1] + "…")


class MirrorError(Exception):
    """Anything that the mirror itself has found wrong."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed if it is made again soon."""


class ConfigError(MirrorError):
    """The configuration cannot be used; the message names the place, the key and the reason."""


class UsageError(MirrorError):
    """A command was called in a way that makes no sense; the message says what to write instead."""


class LoginFailed(MirrorError):
    """A registry did not take a credential, or could not be asked whether it does."""


class ControlFailed(MirrorError):
    """What an operator asked of the cache could not be done, or the server that it was asked of not be reached."""


class InvalidRequest(MirrorError):
    """The client asked for something that cannot exist."""


class NameInvalid(InvalidRequest):
    """A repository name that the grammar does not allow."""


class DigestInvalid(InvalidRequest):
    """A digest of an unknown algorithm, or of the wrong length, alphabet or case."""


class ReferenceInvalid(InvalidRequest):
    """A tag that the grammar does not allow."""


class PlatformInvalid(InvalidRequest):
    """A platform that is not written as ``linux/amd64``."""


class PageInvalid(InvalidRequest):
    """A page (``n``, ``last``) that makes no sense."""


class ManifestInvalid(MirrorError):
    """Bytes that are not a manifest, or not the one that their digest promises."""


class ArchiveInvalid(MirrorError):
    """A file that is not an image layout, or not one that can be trusted; the message says why."""


class NotStored(MirrorError):
    """An image is not in the cache, or not wholly; the message says what is missing, and how to fetch it."""


class Refused(MirrorError):
    """What is asked for would lose something that was to be kept; the message says what to do first."""


class Unsupported(MirrorError):
    """A method or an endpoint that a pull-through mirror does not have."""


class Unauthorized(MirrorError):
    """The client has shown no password for this mirror, or a wrong one."""


class TooManyRequests(MirrorError):
    """The client asks for more than its share."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        """Keep when it may ask again."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Denied(MirrorError):
    """The upstream, or the configuration, does not allow this repository."""


class NotFound(MirrorError):
    """What was asked for is not there; that is an answer, not an outage."""

    def __init__(self, message: str, *, was_asked: bool = True) -> None:
        """Keep whether an upstream was asked; not where the mirror is offline."""
        super().__init__(message)
        self.was_asked = was_asked


class NameUnknown(NotFound):
    """No such repository, upstream or endpoint."""


class ManifestUnknown(NotFound):
    """No such tag or manifest in the repository."""


class BlobUnknown(NotFound):
    """No such blob in the repository."""


class RangeUnsatisfiable(MirrorError):
    """A range that starts past the end of the content."""

    def __init__(self, message: str, *, size_bytes: int) -> None:
        """Keep the size, which the answer states in ``Content-Range: bytes */size``."""
        super().__init__(message)
        self.size_bytes = size_bytes


class UpstreamError(MirrorError):
    """An upstream did not give what it was asked for."""

    def __init__(self, message: str, *, upstream: str) -> None:
        """Keep the name of the upstream, as the configuration has it."""
        super().__init__(message)
        self.upstream = upstream


class UpstreamUnreachable(UpstreamError):
    """No connection, or no answer in time."""

    retryable = True


class UpstreamFailed(UpstreamError):
    """A 5xx, or an answer that makes no sense."""

    retryable = True


class RateLimited(UpstreamError):
    """The upstream answered 429: asking again soon makes it worse."""

    def __init__(self, message: str, *, upstream: str, retry_after_seconds: float | None) -> None:
        """Keep how long the upstream wants to be left alone; ``None`` where it did not say."""
        super().__init__(message, upstream=upstream)
        self.retry_after_seconds = retry_after_seconds


class UpstreamInvalid(UpstreamError):
    """Content that is not what was asked for: an HTML page, an over-long manifest, a size that differs."""


class DigestMismatch(UpstreamInvalid):
    """Content whose digest is not the one that it was asked for by."""


class StorageError(MirrorError):
    """The store could not read or write; the client can still be served from the upstream."""
