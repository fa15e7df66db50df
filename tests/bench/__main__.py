"""``make bench``: measure everything side by side; with ``--write``, put it into docs/performance.md."""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import measures, report, servers
from tests.bench.figures import Results
from tests.bench.servers import Server
from tests.support.images import Blob, Image, blob, oci_image
from tests.support.process import RegistryProcess

_HOT_BYTES = 64_000_000


def main() -> None:
    """Run."""
    options = _options()
    results = Results()
    image, big = oci_image(1, layers=2, layer_bytes=1_000_000), blob(_HOT_BYTES, 5)
    with RegistryProcess() as registry:
        registry.add("library/app", "1", image)
        registry.add_blob("library/app", big)
        upstream = Server(name="upstream", version="", base_url=registry.base_url, pids=[registry.pid])
        stored = blob(measures.COLD_BYTES, 6)
        with _started(registry, image, [big, stored]) as (limit, caches):
            measures.hot(results, [*caches, limit], image, big, rounds=options.rounds, seconds=options.seconds)
            measures.cold(results, caches, registry, upstream, options.rounds)
            measures.crowd(results, caches, registry, limit, stored, options.rounds)
            measures.memory(results, [*caches, limit])
            results.notes.append(measures.fleet(caches[0], registry, oci_image(77, layers=3, layer_bytes=2_000_000)))
            with tempfile.TemporaryDirectory() as folder:
                Path(folder).chmod(0o755)
                told = measures.tls(
                    caches[0], registry.base_url, Path(folder, "tls"), image, big, seconds=options.seconds
                )
                results.notes.append(told)
            versions = {"Python": platform.python_version()}
            versions |= {server.name: server.version for server in (*caches, limit)}
        with tempfile.TemporaryDirectory() as folder:
            results.notes.append(measures.slow_upstream(registry, Path(folder), 1))
            results.notes.append(measures.workers(registry.base_url, Path(folder), image, seconds=options.seconds))
    print(report.table(results, versions))
    if options.write:
        report.write(results, versions)


@contextmanager
def _started(
    registry: RegistryProcess, image: Image, blobs: Sequence[Blob]
) -> Iterator[tuple[Server, Sequence[Server]]]:
    files = {f"manifests/{image.digest}": image.manifest, "manifests/1": image.manifest}
    files |= {f"blobs/{one.digest}": one.content for one in (*blobs, image.config)}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        root = Path(folder)
        root.chmod(0o755)
        for name in ("nginx", "docker-registry"):
            (root / name).mkdir()
        limit = stack.enter_context(servers.nginx(files, root / "nginx"))
        caches = [
            stack.enter_context(servers.mirror(registry.base_url, root / "mirror", extra=servers.LONG_TAGS)),
            stack.enter_context(servers.docker_registry(registry.base_url, root / "docker-registry")),
            stack.enter_context(servers.drayage(registry.base_url, root / "drayage")),
        ]
        yield limit, caches


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured; the median counts")
    parser.add_argument("--seconds", type=int, default=3, help="how long wrk runs each time")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
