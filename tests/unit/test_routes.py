"""Whatever a client writes, the mirror asks only configured upstreams, and only for names that the grammar allows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.errors import MirrorError, NameInvalid, NameUnknown
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.reference import Reference, Repository, Tag
from mirror.oci.requests import BlobRequest, ManifestRequest, Page, Ping
from mirror.policy import TagLifetime
from mirror.ports import BlobStream
from mirror.web.routes import Route, Router, Target, read_target
