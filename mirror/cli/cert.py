"""``mirror cert``: a certificate for the mirror without asking anybody, and how clients come to trust it."""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.cli.options import add_config_option, load_config
from mirror.config import TcpAddress
from mirror.errors import UsageError, quote

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mirror.cli.authority import Made, ServerName

_DEFAULT_FOLDER = "mirror-certs"
_HTTPS_PORT = 443
_HOST_NAME = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST_NAME_LIMIT = 253


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("cert", help="make or renew a certificate for HTTPS")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="host names and addresses that clients reach the mirror by; default: those of the certificate that is "
        "there, or this machine's",
    )
    parser.add_argument("--dir", default=_DEFAULT_FOLDER, metavar="DIR", help="where the files are kept")
    add_config_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make or renew the certificate and print what to do with it.

    Raises:
        ConfigError: the configuration, which knows the port, cannot be used.
        UsageError: a name cannot be a host's.
        StorageError: the folder cannot be used.
    """
    from mirror.cli.authority import Authority, current_time  # noqa: PLC0415 - the library is slow to load

    config = load_config(options)
    authority = Authority(Path(options.dir))
    names = tuple(dict.fromkeys(map(_read_name, options.names))) or authority.names() or _names_of_this_machine()
    made = authority.issue(names, now=current_time())
    port = next((one.port for one in config.server.listen if isinstance(one, TcpAddress)), _HTTPS_PORT)
    print(_report(made, port))
    return 0


def _read_name(text: str) -> ServerName:
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        name = text.lower().removesuffix(".")
    looks_like_an_address = name.rpartition(".")[2].isdigit()
    if looks_like_an_address or len(name) > _HOST_NAME_LIMIT or not _HOST_NAME.fullmatch(name):
        raise UsageError(f"{quote(text)} is no host name or address; write it without scheme, port and path")
    return name


def _names_of_this_machine() -> Sequence[ServerName]:
    found: list[ServerName] = []
    for text in (socket.getfqdn(), socket.gethostname(), "localhost"):
        name = text.lower()
        if _HOST_NAME.fullmatch(name) and name not in found:
            found.append(name)
    return (*found, ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))


def _report(made: Made, port: int) -> str:
    from mirror.cli.trust_steps import trust_steps  # noqa: PLC0415 - beside the other half of this

    names = ", ".join(map(str, made.names))
    first = made.names[0]
    host = f"[{first}]" if isinstance(first, ipaddress.IPv6Address) else str(first)
    authority = "made now" if made.is_new_authority else "as before: who trusts it has nothing to do"
    return f"""\
{made.certificate}  for {names}, until {made.certificate_ends:%Y-%m-%d}; run this again to renew it
{made.authority}  the authority that signed it, until {made.authority_ends:%Y-%m-%d}; {authority}

The mirror, in its configuration file; a running one takes renewed files up by itself:
  [server]
  tls_certificate = "{made.certificate.resolve()}"
  tls_key = "{made.key.resolve()}"

Each client has to trust the authority. Copy {made.authority.resolve()} to it, and
nothing else from that folder. There, as root, in the folder with the copy:

{trust_steps(host if port == _HTTPS_PORT else f"{host}:{port}")}"""
