"""A blob on its first way through the mirror: streamed, shared, resumed, verified."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.functional.conftest import StartMirror
from tests.support.faults import (
    Chunked,
    Cut,
    Fault,
    FlipByte,
    IgnoreRange,
    Replace,
    Reset,
    Silence,
    Slow,
    Status,
    WrongContentRange,
)
from tests.support.images import Blob, blob, oci_image
from tests.support.mirrors import settings
from tests.support.pulling import Answer, MirrorClient, mirror_client
from tests.support.reading import reading
from tests.support.registry import TestRegistry

NAME = "library/app"
LAYER = blob(3_000_000, 7)
PATH = f"/v2/{NAME}/blobs/{LAYER.digest}"
MISS = "mirror; fwd=uri-miss; fwd-status=200; stored"
COLLAPSED = "mirror; fwd=uri-miss; collapsed"


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add_blob(NAME, LAYER)
    return registry


def stored_files(client: MirrorClient, folder: str = "blobs") -> list[Path]:
    return [path for path in (client.mirror.folder / folder).rglob("*") if path.is_file()]


def assert_whole(answer: Answer, content: Blob = LAYER) -> None:
    assert answer.status == 200
    assert answer.body == content.content


# A byte is sent on as it arrives


@pytest.mark.parametrize("size_bytes", [2, 100, 20_000, 5_000_000])
async def test_the_first_bytes_do_not_wait_for_the_last(
    registry: TestRegistry, client: MirrorClient, size_bytes: int
) -> None:
    content = blob(size_bytes, 3)
    registry.add_blob(NAME, content)
    registry.fail(Fault(action=Silence(fraction=0.5), kind="blob"))
    async with reading(client.mirror.base_url, f"/v2/{NAME}/blobs/{content.digest}") as answer:
        assert answer.size_bytes == size_bytes
        await answer.take(1)
        assert registry.count(kind="blob", finished=True) == 0
        registry.release()
        assert await answer.take_all()
        assert bytes(answer.body) == content.content


async def test_the_last_bytes_wait_for_the_digest(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Silence(after_bytes=len(LAYER.content) - 1), kind="blob"))
    async with reading(client.mirror.base_url, PATH) as answer:
        await answer.take(len(LAYER.content) - 16 * 1024)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await answer.take(1)


# One fetch, however many clients


async def test_forty_clients_of_one_cold_image_cost_one_fetch_of_each_part(
    registry: TestRegistry, client: MirrorClient
) -> None:
    image = oci_image(5, layers=3, layer_bytes=300_000)
    registry.add(NAME, "1", image)
    pulls = await asyncio.gather(*(client.pull(NAME, "1", image) for _ in range(40)))
    for answers in pulls:
        assert answers["tag"].body == image.manifest
        for part in image.blobs:
            assert_whole(answers[part.digest], part)
    fetched = [str(request.reference) for request in registry.requests if request.method == "GET"]
    assert sorted(fetched) == sorted([image.digest, *(part.digest for part in image.blobs)])
    assert registry.count(method="HEAD") == 1


async def test_a_late_client_starts_at_the_first_byte(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Silence(fraction=0.5), kind="blob"))
    async with reading(client.mirror.base_url, PATH) as first, reading(client.mirror.base_url, PATH) as late:
        assert (first.headers["cache-status"], late.headers["cache-status"]) == (MISS, COLLAPSED)
        await first.take(1_000_000)
        await late.take(1_000_000)
        registry.release()
        assert await first.take_all()
        assert await late.take_all()
        assert first.body == late.body == LAYER.content
    assert registry.count(kind="blob") == 1


async def test_a_client_that_leaves_stops_nothing(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Silence(fraction=0.5), kind="blob"))
    async with reading(client.mirror.base_url, PATH) as only:
        await only.take(1000)
        only.leave()
    registry.release()
    await client.settled()
    assert (await client.get(PATH)).cache_status == "mirror; hit"
    assert registry.count(kind="blob") == 1


async def test_a_client_that_reads_nothing_slows_nobody(registry: TestRegistry, client: MirrorClient) -> None:
    async with reading(client.mirror.base_url, PATH, buffer_bytes=1024):
        assert_whole(await client.get(PATH))
    assert registry.bytes_sent("blob") == len(LAYER.content)


# A broken transfer goes on where it stopped

HALF = len(LAYER.content) // 2
BREAKS: Sequence[tuple[str, Sequence[Fault]]] = [
    ("cut", [Fault(action=Cut(fraction=0.5), times=1)]),
    # what the kernel holds when a reset comes is lost on both sides: little of a transfer at a network's pace
    ("reset", [Fault(action=Slow(bytes_per_second=30_000_000)), Fault(action=Reset(fraction=0.5), times=1)]),
    ("cut four times", [Fault(action=Cut(after_bytes=500_000), times=4)]),
    (
        "503 in the middle",
        [Fault(action=Cut(fraction=0.5), times=1), Fault(action=Status(status=503), skip=1, times=2)],
    ),
    ("silent", [Fault(action=Silence(fraction=0.5), times=1)]),
    ("cut without a length", [Fault(action=Chunked()), Fault(action=Cut(fraction=0.5), times=1)]),
    ("503 at first", [Fault(action=Status(status=503), times=1)]),
]


@pytest.mark.parametrize("faults", [faults for _, faults in BREAKS], ids=[name for name, _ in BREAKS])
async def test_clients_notice_nothing_of_a_broken_transfer(
    registry: TestRegistry, start_mirror: StartMirror, faults: Sequence[Fault]
) -> None:
    client = await start_mirror(registry.base_url, overrides={"upstreams.docker.io.read_timeout": "0.3s"})
    registry.fail(*faults)
    answers = await client.get_many(PATH, 3)
    for answer in answers:
        assert_whole(answer)
    assert registry.bytes_sent("blob") < 1.2 * len(LAYER.content)
    assert (await client.get(PATH)).cache_status == "mirror; hit"


@pytest.mark.parametrize("size_bytes", [4000, 60_000, 300_000])
async def test_a_break_right_behind_the_head_loses_nothing(
    registry: TestRegistry, client: MirrorClient, size_bytes: int
) -> None:
    """What came with the head waits in aiohttp's buffer when the connection ends."""
    small = blob(size_bytes, 8)
    registry.add_blob(NAME, small)
    registry.fail(Fault(action=Cut(fraction=0.5), times=1))
    assert_whole(await client.get(f"/v2/{NAME}/blobs/{small.digest}"), small)
    assert registry.bytes_sent("blob") < 1.2 * size_bytes


async def test_a_resumed_transfer_is_counted(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Cut(fraction=0.5), times=1))
    assert_whole(await client.get(PATH))
    resumes = client.mirror.metrics.get_sample_value("mirror_fill_resumes_total", {"upstream": "docker.io"})
    assert resumes == 1


@pytest.mark.parametrize("action", [IgnoreRange(), WrongContentRange(value=None)], ids=["whole", "no Content-Range"])
async def test_an_upstream_that_cannot_resume_is_started_over(
    registry: TestRegistry, client: MirrorClient, action: IgnoreRange | WrongContentRange
) -> None:
    registry.fail(Fault(action=Cut(fraction=0.5), times=1), Fault(action=action))
    answer = await client.ask(PATH) if isinstance(action, IgnoreRange) else None
    if answer is not None:
        assert_whole(answer)
    else:  # a range that does not say which it is cannot be used; the next client gets the blob
        async with reading(client.mirror.base_url, PATH) as broken:
            assert not await broken.take_all()
        registry.heal()
        assert_whole(await client.get(PATH))


async def test_an_upstream_that_breaks_for_good_cuts_the_body_and_keeps_what_came(
    registry: TestRegistry, client: MirrorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.engine.filling._RETRY_SECONDS", (0.01, 0.01))
    registry.fail(Fault(action=Cut(fraction=0.5), times=1), Fault(action=Status(status=500)))
    async with reading(client.mirror.base_url, PATH) as answer:
        assert not await answer.take_all()
    registry.heal()
    assert_whole(await client.get(PATH))
    assert registry.bytes_sent("blob") < 1.2 * len(LAYER.content)


# Nothing wrong is ever complete, or stored

WRONG = {
    "first byte": FlipByte(position=0),
    "byte in the middle": FlipByte(position=HALF),
    "last byte": FlipByte(position=-1),
    "sign-in page": Replace(),
    "too long": Replace(body=LAYER.content + b"x", content_type=None),
    "too short": Replace(body=LAYER.content[:-1], content_type=None),
}


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("action", WRONG.values(), ids=WRONG.keys())
async def test_wrong_bytes_are_never_completed_nor_stored(
    registry: TestRegistry, client: MirrorClient, action: FlipByte | Replace, framing: str
) -> None:
    chunked = [Fault(action=Chunked())] if framing == "chunked" else []
    registry.fail(Fault(action=action), *chunked)

    async def try_to_read() -> bool:
        async with reading(client.mirror.base_url, PATH) as answer:
            if framing == "chunked":
                return answer.status == 200 and (await answer.reader.read()).endswith(b"0\r\n\r\n")
            return answer.status == 200 and await answer.take_all()

    assert await asyncio.gather(*(try_to_read() for _ in range(3))) == [False] * 3
    await client.settled()
    assert stored_files(client) == stored_files(client, "partial") == []
    mismatches = client.mirror.metrics.get_sample_value("mirror_digest_mismatches_total", {"upstream": "docker.io"})
    assert mismatches is not None
    assert mismatches >= 1
    registry.heal()
    assert_whole(await client.get(PATH))


async def test_an_empty_body_is_no_answer_before_the_digest_has_matched(
    registry: TestRegistry, client: MirrorClient
) -> None:
    """Nothing of it can be held back: the head is the whole answer."""
    registry.fail(Fault(action=Replace(body=b""), kind="blob", method="GET"))
    answer = await client.get(PATH)
    assert (answer.status, answer.body == LAYER.content) == (502, False)
    registry.heal()
    assert (await client.get(PATH)).body == LAYER.content


async def test_a_mismatch_turns_to_the_next_endpoint(registry: TestRegistry, start_mirror: StartMirror) -> None:
    async with TestRegistry() as wrong:
        wrong.add_blob(NAME, LAYER)
        wrong.fail(Fault(action=FlipByte()))
        endpoints = {"upstreams.docker.io.endpoints": [wrong.base_url, registry.base_url]}
        client = await start_mirror(overrides=endpoints)
        async with reading(client.mirror.base_url, PATH) as answer:
            assert not await answer.take_all()
        assert_whole(await client.get(PATH))
    assert registry.count(kind="blob") == 1


# Ranges, on a hit and on a miss


@pytest.mark.parametrize("is_hit", [True, False], ids=["hit", "miss"])
@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-", 0, len(LAYER.content) - 1),
        ("bytes=10-19", 10, 19),
        ("bytes=1000000-", 1_000_000, len(LAYER.content) - 1),
        ("bytes=-5", len(LAYER.content) - 5, len(LAYER.content) - 1),
        ("bytes=2999999-9999999", 2_999_999, 2_999_999),
    ],
)
async def test_a_range_is_answered(
    registry: TestRegistry, client: MirrorClient, header: str, first: int, last: int, *, is_hit: bool
) -> None:
    if is_hit:
        await client.get(PATH)
    answer = await client.ask(PATH, headers={"Range": header})
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(LAYER.content)}"
    assert answer.body == LAYER.content[first : last + 1]
    assert registry.count(kind="blob") == 1


@pytest.mark.parametrize("is_hit", [True, False], ids=["hit", "miss"])
@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=9-3", "lines=1-2", "bytes=x"])
async def test_a_range_that_is_not_one_plain_range_gets_the_whole(
    client: MirrorClient, header: str, *, is_hit: bool
) -> None:
    if is_hit:
        await client.get(PATH)
    assert_whole(await client.ask(PATH, headers={"Range": header}))


async def test_a_range_past_the_end_is_unsatisfiable(client: MirrorClient) -> None:
    answer = await client.ask(PATH, headers={"Range": "bytes=3000000-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */3000000")


async def test_conditions_on_the_etag(client: MirrorClient) -> None:
    etag = (await client.get(PATH)).headers["ETag"]
    assert (await client.ask(PATH, headers={"If-None-Match": etag})).status == 304
    part = await client.ask(PATH, headers={"Range": "bytes=0-1", "If-Range": etag})
    assert part.status == 206
    assert_whole(await client.ask(PATH, headers={"Range": "bytes=0-1", "If-Range": '"other"'}))


async def test_a_range_far_ahead_of_the_download_is_asked_for_itself(
    registry: TestRegistry, client: MirrorClient
) -> None:
    large = blob(40_000_000, 9)
    registry.add_blob(NAME, large)
    path = f"/v2/{NAME}/blobs/{large.digest}"
    registry.fail(Fault(action=Silence(after_bytes=1_000_000), times=1))
    async with reading(client.mirror.base_url, path) as whole:
        await whole.take(1000)
        ahead = await client.ask(path, headers={"Range": "bytes=30000000-30000099"})
        assert (ahead.status, ahead.cache_status) == (206, "mirror; fwd=bypass")
        assert ahead.body == large.content[30_000_000:30_000_100]
        registry.release()
        assert await whole.take_all()
    assert registry.bytes_sent("blob") == len(large.content) + 100


# Odd blobs


async def test_a_blob_whose_length_nobody_tells_is_streamed_in_chunks(
    registry: TestRegistry, client: MirrorClient
) -> None:
    registry.fail(Fault(action=Chunked()), Fault(action=Silence(fraction=0.5)))
    async with reading(client.mirror.base_url, PATH, buffer_bytes=1 << 23) as first:
        assert first.headers["transfer-encoding"] == "chunked"
        registry.release()
        await first.reader.readuntil(b"\r\n0\r\n\r\n")
    assert_whole(await client.get(PATH))
    assert registry.count(kind="blob") == 1


@pytest.mark.parametrize("odd", [blob(0, 1), blob(1, 1), blob(5000, 1, algorithm="sha512")], ids=["0", "1", "sha512"])
async def test_odd_blobs_are_stored_and_served(registry: TestRegistry, client: MirrorClient, odd: Blob) -> None:
    registry.add_blob(NAME, odd)
    for expected in (MISS, "mirror; hit"):
        answer = await client.get(f"/v2/{NAME}/blobs/{odd.digest}")
        assert_whole(answer, odd)
        assert answer.cache_status == expected
        await client.settled()


async def test_a_head_tells_the_length_and_fetches_nothing(registry: TestRegistry, client: MirrorClient) -> None:
    answer = await client.head(PATH)
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(LAYER.content)))
    assert registry.count(kind="blob", method="GET") == 0
    await client.get(PATH)
    registry.reset_record()
    answer = await client.head(PATH)
    assert (answer.cache_status, answer.headers["Content-Length"]) == ("mirror; hit", str(len(LAYER.content)))
    assert registry.requests == []


async def test_a_blob_that_is_not_there_leaves_no_file(client: MirrorClient) -> None:
    missing = blob(10, 99)
    answer = await client.get(f"/v2/{NAME}/blobs/{missing.digest}")
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
    await client.settled()
    assert stored_files(client, "partial") == []


async def test_a_restart_goes_on_with_what_is_half_there(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path
) -> None:
    """Left by a process that was killed: the file and what was announced of it."""
    registry.fail(Fault(action=Silence(fraction=0.5), times=1))
    async with (
        mirror_client(tmp_path / "cache", settings({"docker.io": registry.base_url})) as first,
        reading(first.mirror.base_url, PATH) as answer,
    ):
        await answer.take(HALF)
    assert len(stored_files(first, "partial")) == 2
    registry.faults.clear()
    second = await start_mirror(registry.base_url)
    await second.settled()
    assert_whole(await second.get(PATH))
    assert registry.bytes_sent("blob") < 1.2 * len(LAYER.content)
