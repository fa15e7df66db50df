"""What is to be done for each client so that it trusts the mirror's own authority and pulls through the mirror.

Each client's steps are run by a test against the real client, exactly as they are printed.
"""

from __future__ import annotations

from string import Template
from typing import Final

# In each: `$ ` begins a command, run as root in the folder that has ca.crt; `into FILE:` the content of a file.
_CLIENTS: Final = {
    "Docker": """\
$ install -D -m 644 ca.crt /etc/docker/certs.d/$host/ca.crt
into /etc/docker/daemon.json:
  { "registry-mirrors": ["https://$host"] }
$ systemctl reload docker
""",
    "containerd (Kubernetes, nerdctl)": """\
$ install -D -m 644 ca.crt /etc/containerd/certs.d/_default/mirror-ca.crt
into /etc/containerd/certs.d/_default/hosts.toml:
  [host."https://$host"]
    capabilities = ["pull", "resolve"]
    ca = "/etc/containerd/certs.d/_default/mirror-ca.crt"
""",
    "podman, skopeo, buildah, CRI-O": """\
$ install -D -m 644 ca.crt /etc/containers/certs.d/$host/ca.crt
into /etc/containers/registries.conf.d/50-mirror.conf:
  [[registry]]
  prefix = "docker.io"
  location = "docker.io"
  [[registry.mirror]]
  location = "$host/docker.io"
""",
    "BuildKit": """\
$ install -D -m 644 ca.crt /etc/buildkit/mirror-ca.crt
into /etc/buildkit/buildkitd.toml:
  [registry."docker.io"]
    mirrors = ["$host"]
  [registry."$host"]
    ca = ["/etc/buildkit/mirror-ca.crt"]
$ docker buildx create --use --buildkitd-config /etc/buildkit/buildkitd.toml
""",
    "Debian and Ubuntu: curl and whatever else uses the system's trust store": """\
$ install -D -m 644 ca.crt /usr/local/share/ca-certificates/mirror-ca.crt
$ update-ca-certificates
""",
}


def trust_steps(host: str) -> str:
    """Return the steps for all clients; ``host`` is what they call the mirror, with its port unless that is 443."""
    return "\n".join(f"{client}:\n{_indent(_filled(steps, host))}" for client, steps in _CLIENTS.items())


def _filled(steps: str, host: str) -> str:
    return Template(steps.replace("$ ", "$$ ")).substitute(host=host)


def _indent(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
