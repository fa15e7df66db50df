"""Which upstream and repository a request means: four rules (docs/architecture.md) over a closed set of upstreams."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_to_bytes

from mirror.errors import NameInvalid, NameUnknown, quote
from mirror.oci.reference import Repository
from mirror.oci.requests import CatalogRequest, Ping, parse_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.oci.patterns import Rules
    from mirror.oci.requests import Request
    from mirror.ports import Upstream

DOCKER_HUB = "docker.io"
_NEVER_IN_A_PATH = re.compile(r"[\\\0]|%(?:2f|5c|00)", re.IGNORECASE)  # separators, to somebody or after the split


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A path and query as the client wrote them, decoded once."""

    path: str
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What is asked of which repository; ``namespace`` is what ``ns`` said, to be echoed."""

    request: Request
    upstream: Upstream | None = None
    repository: Repository | None = None
    namespace: str | None = None


def read_target(raw_target: str) -> Target:
    """Take a request target apart, from its raw text: what a router has decoded or normalised is not trusted.

    Raises:
        NameInvalid: an encoding that has no business in a registry's path.
    """
    raw_path, _, raw_query = raw_target.partition("#")[0].partition("?")
    if not raw_path.startswith("/"):  # absolute form, as for a proxy
        raw_path = "/" + raw_path.partition("://")[2].partition("/")[2]
    if _NEVER_IN_A_PATH.search(raw_path):
        raise NameInvalid(f"{quote(raw_path)} has an encoded separator in it")
    try:
        path = unquote_to_bytes(raw_path).decode("ascii")
        query: dict[str, str] = {}
        for name, value in parse_qsl(raw_query, keep_blank_values=True, max_num_fields=32, errors="strict"):
            query.setdefault(name, value)
    except ValueError as error:
        raise NameInvalid(f"{quote(raw_target)} is not usable text") from error
    return Target(path=path, query=query)


class Router:
    """Finds the upstream that a client means; no other host is ever contacted on a client's word."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        *,
        default: str,
        hostnames: Mapping[str, str],
        rules: Mapping[str, Rules],
    ) -> None:
        """Take the configured upstreams by name, the default's name, upstreams' names by ``Host`` header, and rules."""
        self._upstreams = upstreams
        self._default = default
        self._hostnames = hostnames
        self._rules = rules

    @property
    def default(self) -> Upstream:
        """The upstream of a request that names none."""
        return self._upstreams[self._default]

    def route(self, target: Target, host: str) -> Route:
        """Read a registry request.

        Raises:
            InvalidRequest: the path cannot be.
            NameUnknown: no endpoint, or an upstream that is not configured.
            Denied: a repository that the configuration does not allow, whatever is asked of it.
        """
        prefix, path = self._split_prefix(target.path)
        request = parse_path(path, target.query)
        if isinstance(request, (Ping, CatalogRequest)):
            return Route(request=request, namespace=target.query.get("ns"))
        namespace = target.query.get("ns")
        name, upstream, by_default = self._choose(request.name, namespace, host, prefix)
        if "/" not in name and (by_default or upstream.name == DOCKER_HUB):
            name = f"library/{name}"
        repository = Repository(upstream.name, name)
        rules = self._rules.get(repository.upstream)
        if rules is not None:
            rules.check(repository)
        return Route(request=request, upstream=upstream, repository=repository, namespace=namespace)

    def permits(self, repository: Repository) -> bool:
        """Tell whether the configuration lets a repository be served."""
        rules = self._rules.get(repository.upstream)
        return rules is None or rules.permit(repository.name)

    def _split_prefix(self, path: str) -> tuple[str | None, str]:
        """Return the upstream before ``/v2``, if there is one, and what follows it."""
        if path == "/v2" or path.startswith("/v2/"):
            return None, path[len("/v2") :]
        first, _, rest = path[1:].partition("/")
        if first in self._upstreams and (rest == "v2" or rest.startswith("v2/")):
            return first, rest[len("v2") :]
        raise NameUnknown(f"{quote(path)} is not an endpoint of this registry")

    def _choose(self, name: str, namespace: str | None, host: str, prefix: str | None) -> tuple[str, Upstream, bool]:
        chosen = namespace or self._by_host(host) or prefix
        first, _, rest = name.partition("/")
        if chosen is None:
            if rest and first in self._upstreams:
                return rest, self._upstreams[first], False
            if rest and ("." in first or ":" in first):
                raise self._unknown(first)
            return name, self.default, True
        if chosen not in self._upstreams:
            raise self._unknown(chosen)
        # BuildKit puts a mirror's path after /v2 and sends ns as well
        return (rest if rest and first == chosen else name), self._upstreams[chosen], False

    def _by_host(self, host: str) -> str | None:
        host = host.lower()  # the configuration's are
        return self._hostnames.get(host) or self._hostnames.get(host.rpartition(":")[0])

    def _unknown(self, name: str) -> NameUnknown:
        return NameUnknown(f"no upstream {quote(name)} is configured in this mirror")
