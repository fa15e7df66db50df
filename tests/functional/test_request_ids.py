"""The same name for a request everywhere: in the mirror's answer, its log, and in what it asks of the registry."""

from __future__ import annotations

import asyncio

from tests.support.faults import Fault, Redirect
from tests.support.images import blob, oci_image
from tests.support.pulling import MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
LAYER = blob(100_000)
BLOB = f"/v2/{NAME}/blobs/{LAYER.digest}"


async def test_the_registry_is_told_whose_request_it_is_and_its_cdn_is_not(
    registry: TestRegistry, client: MirrorClient
) -> None:
    registry.add_blob(NAME, LAYER)
    registry.fail(Fault(action=Redirect(), kind="blob"))
    answer = await client.get(BLOB)
    assert answer.body == LAYER.content
    told = {(one.kind, one.headers.get("x-request-id")) for one in registry.requests if one.kind in {"blob", "cdn"}}
    assert told == {("blob", answer.headers["X-Request-Id"]), ("cdn", None)}


async def test_each_request_on_a_connection_has_its_own(registry: TestRegistry, client: MirrorClient) -> None:
    for tag in ("1", "2"):
        registry.add(NAME, tag, oci_image(int(tag)))
        answer = await client.get(f"/v2/{NAME}/manifests/{tag}")
        asked = [one.headers.get("x-request-id") for one in registry.requests if one.reference == tag]
        assert asked
        assert set(asked) == {answer.headers["X-Request-Id"]}


async def test_a_download_that_many_wait_for_bears_the_name_of_the_first(
    registry: TestRegistry, client: MirrorClient
) -> None:
    registry.add_blob(NAME, LAYER)
    answers = await asyncio.gather(*(client.get(BLOB) for _ in range(5)))
    asked = [one.headers.get("x-request-id") for one in registry.requests if one.kind == "blob" and one.method == "GET"]
    assert len(asked) == 1
    assert asked[0] in {answer.headers["X-Request-Id"] for answer in answers}
