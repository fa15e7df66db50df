"""Test upstreams named after their habits: each class behaves, from outside, as one kind of registry does.

``async with Ghcr() as ghcr:`` is an upstream with a public and a private image, and ``ghcr.settings()`` are the
mirror's flags for it; `HABITS` are all of them. What all have in common is in `Habit`.
"""

from __future__ import annotations

from tests.support.habits.acr import Acr
from tests.support.habits.artifact_registry import ArtifactRegistry
from tests.support.habits.base import Habit, Sample
from tests.support.habits.debian_tokens import DebianTokens
from tests.support.habits.docker_hub import DockerHub
from tests.support.habits.ghcr import Ghcr
from tests.support.habits.gitlab import GitLab
from tests.support.habits.harbor import Harbor
from tests.support.habits.mcr import Mcr
from tests.support.habits.plain import HtpasswdRegistry, PlainRegistry
from tests.support.habits.private_ecr import PrivateEcr
from tests.support.habits.public_ecr import PublicEcr
from tests.support.habits.quay import Quay
from tests.support.habits.registry_k8s import RegistryK8s

Kind = type[Habit]
HABITS: tuple[Kind, ...] = (
    DockerHub,
    Ghcr,
    GitLab,
    Quay,
    ArtifactRegistry,
    RegistryK8s,
    PublicEcr,
    PrivateEcr,
    Acr,
    Harbor,
    Mcr,
    PlainRegistry,
    HtpasswdRegistry,
    DebianTokens,
)

__all__ = [
    "HABITS",
    "Acr",
    "ArtifactRegistry",
    "DebianTokens",
    "DockerHub",
    "Ghcr",
    "GitLab",
    "Habit",
    "Harbor",
    "HtpasswdRegistry",
    "Kind",
    "Mcr",
    "PlainRegistry",
    "PrivateEcr",
    "PublicEcr",
    "Quay",
    "RegistryK8s",
    "Sample",
]
