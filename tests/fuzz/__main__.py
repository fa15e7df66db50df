"""``make fuzz``: a million fuzzed requests and 200,000 fuzzed answers, unless it is told otherwise."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from dataclasses import dataclass

from tests.fuzz.answers import UPSTREAMS, AnswerFuzz
from tests.fuzz.judgement import Holdings, count_files, failures, wrong_files
from tests.fuzz.requests import RequestFuzz
from tests.support.images import docker_image
from tests.support.mirrors import MirrorProcess
from tests.support.raw import Pieces, RawRequest, RawServer, respond

NAME = "library/app"
SETTINGS = """
[server]
header_timeout = "1s"
max_connections_per_address = 2000
[cache]
negative_ttl = "1s"
min_free = "64MiB"
"""
_WARM_SHARE = 0.3
_GROWTH_BYTES = 60_000_000  # caches that fill up to their bounds
_GROWTH_HANDLES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it."""

    what: str
    number: int
    seed: int
    seconds: float
    answers: str
    before: Holdings
    after: Holdings
    files: int
    findings: list[str]

    def __str__(self) -> str:
        lines = [
            f"{self.number} fuzzed {self.what} in {self.seconds:.0f} s, seed {self.seed}",
            f"  answered: {self.answers}",
            f"  workers held {self.before}, then {self.after}",
            f"  {self.files} stored files, each of them hashed",
        ]
        lines.append(f"  {len(self.findings)} findings")
        return "\n".join([*lines, *(f"  ! {one[:1500]}" for one in self.findings[:20])])


async def fuzz_requests(number: int, seed: int, *, seconds: float = math.inf, workers: int = 2) -> Report:
    """Send fuzzed requests to a mirror, before an upstream that is well, for some time at most."""
    image = docker_image(1, layer_bytes=3000)

    def answer(request: RawRequest) -> Pieces:
        last = request.target.partition("?")[0].rsplit("/", 1)[-1]
        found = {"latest": image.manifest, image.digest: image.manifest, image.config.digest: image.config.content}
        body = found.get(last) if NAME in request.target else None
        if body is None:
            return respond(b"{}", status=404)
        headers = [("Content-Type", image.media_type), ("Docker-Content-Digest", image.digest)]
        return respond(b"" if request.method == "HEAD" else body, headers=headers, length=len(body))

    async with RawServer(answer) as upstream:
        with MirrorProcess({"docker.io": upstream.base_url}, workers=workers, extra=SETTINGS) as mirror:
            started = time.monotonic()
            fuzz = RequestFuzz(mirror.port, image, NAME, seed, ends_at=started + seconds)
            await fuzz.run(int(number * _WARM_SHARE))
            before = Holdings.of(mirror)
            await fuzz.run(number - int(number * _WARM_SHARE))
            return await _judge(mirror, "requests", fuzz.sent, seed, started, before, fuzz.findings, fuzz.statuses)


async def fuzz_answers(number: int, seed: int, *, seconds: float = math.inf, workers: int = 2) -> Report:
    """Have a mirror ask an upstream whose answers are fuzzed, for some time at most."""
    fuzz = AnswerFuzz(seed)
    async with RawServer(fuzz.answer) as upstream:
        urls = dict.fromkeys(UPSTREAMS, upstream.base_url)
        with MirrorProcess(urls, workers=workers, extra=SETTINGS.replace('"1s"\nmax', '"10s"\nmax')) as mirror:
            started = time.monotonic()
            fuzz.ends_at = started + seconds
            await fuzz.run(mirror.base_url, int(number * _WARM_SHARE))
            before = Holdings.of(mirror)
            await fuzz.run(mirror.base_url, number - int(number * _WARM_SHARE))
            return await _judge(mirror, "answers", fuzz.answered, seed, started, before, fuzz.findings, fuzz.statuses)


async def _judge(
    mirror: MirrorProcess,
    what: str,
    number: int,
    seed: int,
    started: float,
    before: Holdings,
    findings: list[str],
    statuses: object,
) -> Report:
    seconds = time.monotonic() - started
    after = Holdings.of(mirror)
    for _ in range(50):  # what is under way ends
        if after.handles <= before.handles:
            break
        await asyncio.sleep(0.2)
        after = Holdings.of(mirror)
    found = [*findings, *failures(mirror), *(f"wrong: {path}" for path in wrong_files(mirror.cache_folder))]
    if after.resident_bytes - before.resident_bytes > _GROWTH_BYTES:
        found.append(f"memory grew from {before} to {after}")
    if after.handles - before.handles > _GROWTH_HANDLES:
        found.append(f"handles grew from {before} to {after}")
    return Report(
        what=what,
        number=number,
        seed=seed,
        seconds=seconds,
        answers=str(statuses),
        before=before,
        after=after,
        files=count_files(mirror.cache_folder),
        findings=found,
    )


def main() -> int:
    """Read the command line, fuzz, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--answers", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="at most, for each of the two")
    options = parser.parse_args()
    reports = []
    if options.requests:
        reports.append(asyncio.run(fuzz_requests(options.requests, options.seed, seconds=60 * options.minutes)))
    if options.answers:
        reports.append(asyncio.run(fuzz_answers(options.answers, options.seed, seconds=60 * options.minutes)))
    sys.stdout.write("\n".join(map(str, reports)) + "\n")
    return int(any(report.findings for report in reports))


if __name__ == "__main__":
    raise SystemExit(main())
