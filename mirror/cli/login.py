"""``mirror login`` and ``mirror logout``: credentials of upstreams, in the habit of ``docker login``."""

from __future__ import annotations

import asyncio
import getpass
import sys
import time
from typing import TYPE_CHECKING

from mirror.cli.options import add_config_option, load_config
from mirror.config.secrets import check_password
from mirror.config.values import USERNAME, Unfit
from mirror.credentials import login_file
from mirror.credentials.docker_config import made_of, server_names
from mirror.credentials.sources import CredentialSources
from mirror.errors import LoginFailed, UpstreamError, UsageError, quote
from mirror.telemetry import logs
from mirror.upstream.inspection import Inspector
from mirror.upstream.logins import Verdict
from mirror.upstream.sessions import Sessions

if TYPE_CHECKING:
    import argparse

    from mirror.config import Config, UpstreamConfig
    from mirror.credentials import Credential

_SECRET_LIMIT_CHARACTERS = 64 * 1024


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    # no abbreviations: `--password SECRET` would be taken for `--password-stdin`, and the secret for something else
    login = commands.add_parser("login", help="store an upstream's credential", allow_abbrev=False)
    login.add_argument("registry", metavar="REGISTRY", help="the upstream's name, such as ghcr.io")
    login.add_argument("-u", "--username", metavar="USER", help="whom to log in as; asked for on a terminal")
    login.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    login.add_argument("--no-check", action="store_true", help="store it without asking the registry")
    add_config_option(login)
    login.set_defaults(run=run_login)
    logout = commands.add_parser("logout", help="remove an upstream's stored credential")
    logout.add_argument("registry", metavar="REGISTRY", help="the upstream's name, such as ghcr.io")
    add_config_option(logout)
    logout.set_defaults(run=run_logout)


def run_login(options: argparse.Namespace) -> int:
    """Check a credential and store it.

    Raises:
        ConfigError, UsageError: the configuration, or what was typed, cannot be used.
        LoginFailed: the registry refuses it, has no use for it, or cannot be asked; nothing is stored.
        StorageError: it cannot be stored.
    """
    logs.silence()
    config = load_config(options)
    upstream = _find_upstream(config, options.registry)
    if config.cache.offline and not options.no_check:
        raise UsageError(
            "cache.offline is set, so no registry is asked: say --no-check to store a credential unchecked"
        )
    credential = _read_credential(options)
    verdict = None if options.no_check else asyncio.run(_judge(config, upstream, credential))
    if verdict is Verdict.REFUSED:
        message = f"{upstream.name} does not accept this password of {credential.username}; nothing was stored"
        raise LoginFailed(message)
    if verdict is Verdict.UNTRUSTED:
        raise LoginFailed(
            f"{upstream.name} sends logins to a token service outside of its own domain; nothing was sent or stored."
            " If that is right, list the service's host in token_hosts"
        )
    if verdict is Verdict.UNFIT:
        raise LoginFailed(f"{upstream.name} asks for a password, and a token is none; nothing was sent or stored")
    login_file.keep(config.login_file, upstream.name, credential)
    print(_said(config, upstream, credential, verdict))
    return 0


def run_logout(options: argparse.Namespace) -> int:
    """Remove a credential.

    Raises:
        ConfigError, UsageError: the configuration, or what was typed, cannot be used.
        StorageError: it cannot be removed.
    """
    logs.silence()
    config = load_config(options)
    upstream = _find_upstream(config, options.registry)
    if login_file.forget(config.login_file, upstream.name):
        print(f"The credential for {upstream.name} was removed; a running mirror stops using it within a second or two")
    else:
        print(f"No credential for {upstream.name} was stored")
    return 0


def _find_upstream(config: Config, registry: str) -> UpstreamConfig:
    """Find whom a user means: an upstream's name, or what Docker calls it."""
    if registry in config.upstreams:
        return config.upstreams[registry]
    for upstream in config.upstreams.values():
        if registry in server_names(upstream):
            return upstream
    known = ", ".join(config.upstreams)
    raise UsageError(f"{quote(registry)} is not an upstream of this configuration; these are: {known}")


def _read_credential(options: argparse.Namespace) -> Credential:
    username = options.username
    if username is None and sys.stdin.isatty() and not options.password_stdin:
        username = input("Username: ")
    if not username:
        raise UsageError("say who logs in: -u USER")
    try:
        username = USERNAME.read(username)
        password = check_password(_read_password(is_piped=options.password_stdin), username=username)
    except Unfit as error:
        raise UsageError(f"the username or password {error}") from error
    return made_of(username, password, place=login_file.PLACE)


def _read_password(*, is_piped: bool) -> str:
    if not is_piped and not sys.stdin.isatty():
        raise UsageError("standard input is not a terminal; pipe the password in and say --password-stdin")
    try:
        text = sys.stdin.read(_SECRET_LIMIT_CHARACTERS) if is_piped else getpass.getpass("Password: ")
    except UnicodeDecodeError:
        raise UsageError("the password is not text") from None  # the error holds it
    except EOFError:
        text = ""
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise UsageError("there is no password on standard input" if is_piped else "a password is needed")
    return text


async def _judge(config: Config, upstream: UpstreamConfig, credential: Credential) -> Verdict:
    source = CredentialSources(config, time.time).of(upstream)
    try:
        async with Sessions(upstream) as sessions:
            return await Inspector(upstream, sessions, source, time.time).judge(credential)
    except UpstreamError as error:
        raise LoginFailed(f"{error}; nothing was stored (--no-check stores it without asking)") from error


def _said(config: Config, upstream: UpstreamConfig, credential: Credential, verdict: Verdict | None) -> str:
    """Say what was done, and what may surprise."""
    said = [f"The credential of {credential.username} for {upstream.name} is stored in {config.login_file}"]
    if verdict is Verdict.UNASKED:
        said.append(f"{upstream.name} asks nobody to log in, so that it could not be checked")
    if upstream.credential is not None:
        said.append(f"It is not used as long as the table of {upstream.name} in the configuration has a username")
    said.append("A running mirror uses it within a second or two")
    return "\n".join(said)
