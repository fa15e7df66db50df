from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.config import (
    CacheConfig,
    Config,
    ConfiguredCredential,
    LogConfig,
    LogFormat,
    LogLevel,
    ServerConfig,
    TcpAddress,
    TlsFiles,
    UnixAddress,
    load,
    schema,
    values,
)
from mirror.errors import ConfigError

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"

Load = Callable[..., Config]


@pytest.fixture(name="configure")
def fixture_configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a configuration whose file has this text, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def configure(
        text: str = "", *, mode: int = 0o600, environ: Mapping[str, str] | None = None, **flags: object
    ) -> Config:
        file = Path("mirror.toml")
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        overrides = {name.replace("__", "."): value for name, value in flags.items()}
        return load(path=file, environ=environ or {}, overrides=overrides)

    return configure


# --- what there is without a file ---


def test_without_a_file_it_is_a_docker_hub_mirror() -> None:
    config = load(path=None, environ={}, overrides={})
    assert config.server == ServerConfig(listen=(TcpAddress("0.0.0.0", 5000),), workers=1, shutdown_grace_seconds=30)  # noqa: S104 - the default
    assert config.log == LogConfig(level=LogLevel.INFO, format=LogFormat.AUTO)
    assert config.cache == CacheConfig(
        dir=Path("mirror-cache"), tag_ttl_seconds=60, stale_if_error_seconds=7 * 86400, negative_ttl_seconds=10
    )
    hub = config.default_upstream
    assert (hub.name, hub.endpoints) == ("docker.io", ("https://registry-1.docker.io",))
    assert hub.search_endpoint == "https://index.docker.io"
    assert (hub.tag_ttl_seconds, hub.connect_timeout_seconds, hub.read_timeout_seconds) == (60, 5, 30)
    assert (hub.max_connections, hub.credential, hub.ca_file) == (64, None, None)


def test_every_well_known_registry_is_there_and_one_is_the_default() -> None:
    upstreams = load(path=None, environ={}, overrides={}).upstreams
    assert list(upstreams) == [
        "docker.io",
        "ghcr.io",
        "quay.io",
        "gcr.io",
        "registry.k8s.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
        "registry.gitlab.com",
        "nvcr.io",
    ]
    assert [upstream.name for upstream in upstreams.values() if upstream.default] == ["docker.io"]
    others = [upstream for upstream in upstreams.values() if not upstream.default]
    assert [upstream.endpoints for upstream in others] == [(f"https://{upstream.name}",) for upstream in others]
    assert {upstream.search_endpoint for upstream in others} == {None}


# --- sources ---


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(configure: Load) -> None:
    file = '[cache]\ndir = "file"\ntag_ttl = "2m"\n[server]\nworkers = 2\n'
    variables = {"MIRROR_CACHE__DIR": "variable", "MIRROR_SERVER__WORKERS": "3"}
    config = configure(file, environ=variables, cache__dir="flag")
    assert (config.cache.dir, config.server.workers, config.cache.tag_ttl_seconds) == (Path("flag"), 3, 120)


def test_a_flag_that_was_not_given_changes_nothing(configure: Load) -> None:
    assert configure("[server]\nworkers = 2\n", server__workers=None).server.workers == 2


def test_flags_take_text_and_values(configure: Load) -> None:
    addresses = (TcpAddress("127.0.0.1", 1), UnixAddress(Path("/run/m")))
    assert configure(server__listen=["127.0.0.1:1", "unix:/run/m"]).server.listen == addresses
    assert configure(server__listen="127.0.0.1:1, unix:/run/m").server.listen == addresses
    assert configure(server__workers=4).server.workers == configure(server__workers="4").server.workers
    assert configure(cache__dir=Path("x")).cache.dir == Path("x")
    assert configure(**{"upstreams.docker.io.endpoints": ["http://127.0.0.1:1"]}).default_upstream.endpoints == (
        "http://127.0.0.1:1",
    )


def test_variables_without_two_underscores_are_somebody_elses(configure: Load) -> None:
    kubernetes = {"MIRROR_PORT": "tcp://10.0.0.1:5000", "MIRROR_SERVICE_HOST": "10.0.0.1", "MIRROR_CONFIG": "x.toml"}
    assert configure(environ=kubernetes | {"OTHER__KEY": "1"}) == configure()


@pytest.mark.parametrize(
    ("variable", "upstream"),
    [
        ("MIRROR_UPSTREAMS__DOCKER_IO__MAX_CONNECTIONS", "docker.io"),
        ("MIRROR_UPSTREAMS__REGISTRY_K8S_IO__MAX_CONNECTIONS", "registry.k8s.io"),
        ("MIRROR_UPSTREAMS__docker.io__MAX_CONNECTIONS", "docker.io"),
        ("MIRROR_UPSTREAMS__A__B_5000__MAX_CONNECTIONS", "a--b:5000"),
        ("MIRROR_UPSTREAMS__new.example__MAX_CONNECTIONS", "new.example"),
    ],
)
def test_a_variable_finds_its_upstream(configure: Load, variable: str, upstream: str) -> None:
    config = configure('[upstreams."a--b:5000"]\n', environ={variable: "7"})
    assert config.upstreams[upstream].max_connections == 7


def test_lists_and_booleans_in_variables(configure: Load) -> None:
    variables = {
        "MIRROR_UPSTREAMS__QUAY_IO__HOSTNAMES": "one.example, Two.example:5000",
        "MIRROR_UPSTREAMS__QUAY_IO__DEFAULT": "true",
        "MIRROR_UPSTREAMS__GHCR_IO__ENABLED": "false",
        "MIRROR_UPSTREAMS__GCR_IO__TOKEN_HOSTS": "",
    }
    config = configure(environ=variables)
    assert config.default_upstream.name == "quay.io"
    assert config.default_upstream.hostnames == ("one.example", "two.example:5000")
    assert "ghcr.io" not in config.upstreams
    assert config.upstreams["gcr.io"].token_hosts == ()


# --- upstreams ---


def test_a_table_adds_an_upstream_even_when_it_is_empty(configure: Load) -> None:
    upstream = configure('[upstreams."registry.example:5001"]\n').upstreams["registry.example:5001"]
    assert upstream.endpoints == ("https://registry.example:5001",)
    assert not upstream.default


def test_an_upstream_has_the_caches_lifetime_unless_it_has_its_own(configure: Load) -> None:
    upstreams = configure('[cache]\ntag_ttl = "5m"\n[upstreams."ghcr.io"]\ntag_ttl = "1h"\n').upstreams
    assert (upstreams["docker.io"].tag_ttl_seconds, upstreams["ghcr.io"].tag_ttl_seconds) == (300, 3600)


def test_enabled_false_removes_an_upstream(configure: Load) -> None:
    assert "nvcr.io" not in configure('[upstreams."nvcr.io"]\nenabled = false\n').upstreams


def test_another_default_takes_it_from_docker_hub(configure: Load) -> None:
    upstreams = configure('[upstreams."ghcr.io"]\ndefault = true\n').upstreams
    assert [upstream.name for upstream in upstreams.values() if upstream.default] == ["ghcr.io"]


def test_every_key_of_an_upstream_has_its_effect(configure: Load) -> None:
    upstream = configure("""
        [upstreams."docker.io"]
        endpoints = ["http://[::1]:5000/", "https://b.example/prefix"]
        hostnames = ["hub.example"]
        connect_timeout = "1s"
        read_timeout = "1.5s"
        max_connections = 1
        ca_file = "ca.pem"
        token_hosts = ["Auth.example"]
        redirect_networks = ["10.0.0.0/8", "fd00::/8"]
        search_endpoint = ""
    """).default_upstream
    assert upstream.endpoints == ("http://[::1]:5000", "https://b.example/prefix")
    assert upstream.hostnames == ("hub.example",)
    assert (upstream.connect_timeout_seconds, upstream.read_timeout_seconds) == (1, 1.5)
    assert (upstream.max_connections, upstream.ca_file) == (1, Path("ca.pem"))
    assert (upstream.token_hosts, upstream.search_endpoint) == (("auth.example",), None)
    assert [str(network) for network in upstream.redirect_networks] == ["10.0.0.0/8", "fd00::/8"]


# --- credentials ---

HUB = '[upstreams."docker.io"]\nusername = "somebody"\n'


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "s3cret\r\n"])
def test_a_password_from_a_file_loses_its_line_break(configure: Load, content: str) -> None:
    Path("secret").write_text(content, encoding="utf-8", newline="")
    credential = configure(HUB + 'password_file = "secret"\n').default_upstream.credential
    assert credential == ConfiguredCredential(username="somebody", password="s3cret", password_file=Path("secret"))


def test_a_password_from_a_variable(configure: Load) -> None:
    config = configure(HUB + 'password_env = "HUB_TOKEN"\n', environ={"HUB_TOKEN": "s3cret"})
    assert config.default_upstream.credential == ConfiguredCredential(username="somebody", password="s3cret")


def test_a_password_in_a_private_file(configure: Load) -> None:
    credential = configure(HUB + 'password = "s3cret"\n').default_upstream.credential
    assert credential == ConfiguredCredential(username="somebody", password="s3cret")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_password_in_a_file_that_others_can_read_is_refused(configure: Load, mode: int) -> None:
    message = refusal(configure, HUB + 'password = "s3cret"\n', mode=mode)
    assert message == (
        'mirror.toml: upstreams."docker.io".password is refused in a file that others can read;'
        " chmod 600 it, or use password_file"
    )


def test_no_representation_shows_a_password(configure: Load) -> None:
    assert "s3cret" not in repr(configure(HUB + 'password = "s3cret"\n'))


def test_the_credential_of_a_removed_upstream_is_not_read(configure: Load) -> None:
    text = '[upstreams."ghcr.io"]\nenabled = false\nusername = "a"\npassword_file = "missing"\n'
    assert "ghcr.io" not in configure(text).upstreams


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HUB, "username needs password_file, password_env or password too"),
        ('[upstreams."docker.io"]\npassword_file = "empty"\n', "password_file needs username too"),
        (
            HUB + 'password_env = "A"\npassword_file = "empty"\n',
            "password_env cannot be set together with password_file",
        ),
        (HUB + 'password_file = "missing"\n', "password_file cannot be read: No such file or directory: missing"),
        (HUB + 'password_file = "empty"\n', "password_file names a file that is empty"),
        (HUB + 'password_file = "lines"\n', "password_file names something that is not one line of text"),
        (HUB + 'password_file = "binary"\n', "password_file is not UTF-8 text"),
        (HUB + 'password_env = "UNSET"\n', "password_env names a variable that is not set"),
        (HUB + 'password_env = "s3cret-token"\n', "password_env must be the name of an environment variable"),
        (HUB + 'password = "s3cret\\n"\n', "password must be one line of text"),
        (HUB + "password = 12345\n", "password must be one line of text"),
        ('[upstreams."docker.io"]\nusername = "a:b"\n', "username must be a name without a colon"),
    ],
)
def test_a_credential_that_cannot_be_used(configure: Load, text: str, reason: str) -> None:
    Path("empty").write_text("\n", encoding="utf-8")
    Path("lines").write_text("s3cret\nmore\n", encoding="utf-8")
    Path("binary").write_bytes(b"s3cret\xff")
    message = refusal(configure, text)
    assert message == f'mirror.toml: upstreams."docker.io".{reason}'
    assert "s3cret" not in message
    assert "12345" not in message


# --- refusals ---


def refusal(configure: Load, text: str, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        configure(text, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[cache]\ntag_tll = "1m"\n', "cache.tag_tll is not a setting; did you mean cache.tag_ttl?"),
        ('[cach]\ndir = "x"\n', "cach is not a setting; did you mean cache?"),
        ("[cach]\n", "cach is not a setting; did you mean cache?"),
        ("workers = 2\n", "workers is not a setting; did you mean server.workers?"),
        (
            '[upstreams."docker.io"]\nendpoint = "x"\n',
            'upstreams."docker.io".endpoint is not a setting; did you mean upstreams."docker.io".endpoints?',
        ),
        (
            '[cache]\nsomething = "1GiB"\n',
            "cache.something is not a setting; known here: dir, max_size, min_free, tag_ttl, stale_if_error,",
        ),
        ('[cache]\n"a\\nb" = 1\n', 'cache."a\\nb" is not a setting; known here: '),
        ('[cache]\ndir.path = "x"\n', "cache.dir must be a path, not a table"),
        ("cache = 3\n", "cache must be a table"),
        ("upstreams = []\n", "upstreams must be a table"),
        ('upstreams."ghcr.io" = true\n', 'upstreams."ghcr.io" must be a table'),
        ("[[upstreams]]\n", "upstreams must be a table"),
        (
            '[upstreams."GHCR.io"]\n',
            'upstreams."GHCR.io" must be named by a host in lower case, with or without a port',
        ),
        ('[upstreams."a:99999"]\n', 'upstreams."a:99999" must be named by a host'),
        (
            '[upstreams."ghcr.io"]\nsearch_endpoint = "https://x"\n',
            'upstreams."ghcr.io".search_endpoint is a setting of docker.io only',
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(configure: Load, text: str, message: str) -> None:
    assert refusal(configure, text).startswith(f"mirror.toml: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[server]\nlisten = "0.0.0.0:5000"\n', "server.listen must be a list, not '0.0.0.0:5000'"),
        ("[server]\nlisten = []\n", "server.listen must be a list of at least 1, not an empty list"),
        (
            '[server]\nlisten = ["5000"]\n',
            """server.listen must be "host:port", "[::]:port" or "unix:/path", not '5000'""",
        ),
        ('[server]\nworkers = "2"\n', "server.workers must be a whole number of at least 0, not '2'"),
        ("[server]\nworkers = true\n", "server.workers must be a whole number of at least 0, not true"),
        ("[server]\nworkers = -1\n", "server.workers must be a whole number of at least 0, not -1"),
        ("[server]\nworkers = 1.5\n", "server.workers must be a whole number of at least 0, not 1.5"),
        ("[server]\nworkers = 1979-05-27\n", "server.workers must be a whole number of at least 0, not a date or time"),
        (
            "[cache]\ntag_ttl = 60\n",
            "cache.tag_ttl must be a duration such as 90s, 5m, 12h or 7d, not 60",
        ),
        (
            '[upstreams."ghcr.io"]\nread_timeout = "0s"\n',
            (
                'upstreams."ghcr.io".read_timeout must be a duration such as 90s, 5m, 12h or 7d, longer than nothing,'
                " not '0s'"
            ),
        ),
        ('[log]\nlevel = "trace"\n', "log.level must be one of debug, info, warning, error, not 'trace'"),
        ("[log]\nformat = [1]\n", "log.format must be one of auto, console, json, not a list"),
        ('[cache]\ndir = ""\n', "cache.dir must be a path, not ''"),
        ('[cache]\ndir = "a\\u0000b"\n', r"cache.dir must be a path, not 'a\x00b'"),
        (
            '[upstreams."ghcr.io"]\nendpoints = ["https://ghcr.io", "ghcr.io"]\n',
            (
                'upstreams."ghcr.io".endpoints must be an absolute http or https URL without user, query or fragment,'
                " not 'ghcr.io'"
            ),
        ),
        (
            '[upstreams."ghcr.io"]\nendpoints = ["https://user:s3cret@ghcr.io"]\n',
            'upstreams."ghcr.io".endpoints must be an absolute http or https URL without user, query or fragment',
        ),
        (
            '[upstreams."ghcr.io"]\nenabled = "yes"\n',
            "upstreams.\"ghcr.io\".enabled must be true or false, not 'yes'",
        ),
        (
            '[upstreams."ghcr.io"]\nmax_connections = 0\n',
            'upstreams."ghcr.io".max_connections must be a whole number of at least 1, not 0',
        ),
        (
            '[upstreams."ghcr.io"]\nhostnames = ["a/b"]\n',
            "upstreams.\"ghcr.io\".hostnames must be a host name, with or without a port, not 'a/b'",
        ),
        (
            '[upstreams."ghcr.io"]\ntoken_hosts = ["a:1"]\n',
            "upstreams.\"ghcr.io\".token_hosts must be a host name without a port, not 'a:1'",
        ),
        (
            '[upstreams."ghcr.io"]\nredirect_networks = ["1.0.0.0/4"]\n',
            "upstreams.\"ghcr.io\".redirect_networks must be a network such as 10.0.0.0/8 or fd00::/8, not '1.0.0.0/4'",
        ),
        (
            '[access]\ntrusted_proxies = ["10.0.0.1/8"]\n',
            (
                "access.trusted_proxies must be a network such as 10.0.0.0/8 or fd00::/8, whose last bits are 0,"
                " an address, or \"unix:\", not '10.0.0.1/8'"
            ),
        ),
        (
            '[access]\nhtpasswd = "a"\nanonymous_networks = ["office"]\n',
            (
                'access.anonymous_networks must be a network such as 10.0.0.0/8 or fd00::/8, an address, or "unix:",'
                " not 'office'"
            ),
        ),
        (
            '[access]\nanonymous_networks = ["10.0.0.0/8"]\n',
            "access.anonymous_networks needs access.htpasswd too: without it, nobody needs a password",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_the_reason(configure: Load, text: str, message: str) -> None:
    assert refusal(configure, text) == f"mirror.toml: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[upstreams."ghcr.io"]\ndefault = true\n[upstreams."quay.io"]\ndefault = true\n',
            'upstreams."quay.io".default cannot be true too: upstreams."ghcr.io".default is',
        ),
        (
            '[upstreams."docker.io"]\ndefault = false\n',
            'upstreams."docker.io".default leaves no default upstream; set default = true for another one',
        ),
        (
            '[upstreams."docker.io"]\nenabled = false\n',
            'upstreams."docker.io".enabled leaves no default upstream; set default = true for another one',
        ),
        (
            '[upstreams."ghcr.io"]\nhostnames = ["m"]\n[upstreams."quay.io"]\nhostnames = ["M"]\n',
            'upstreams."quay.io".hostnames has m, which already selects ghcr.io',
        ),
    ],
)
def test_upstreams_that_contradict_each_other(configure: Load, text: str, message: str) -> None:
    assert refusal(configure, text) == f"mirror.toml: {message}"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MIRROR_CACHE__TAG_TLL", "1m", "cache.tag_tll is not a setting; did you mean cache.tag_ttl?"),
        ("MIRROR_CACH__DIR", "x", "cach is not a setting; did you mean cache?"),
        ("MIRROR_SERVER__WORKERS", "two", "server.workers must be a whole number of at least 0, not 'two'"),
        ("MIRROR_SERVER__LISTEN", "", "server.listen must be a list of at least 1, not an empty list"),
        ("MIRROR_UPSTREAMS__GHCR_IO__ENABLED", "1", "upstreams.\"ghcr.io\".enabled must be true or false, not '1'"),
        (
            "MIRROR_UPSTREAMS__DOKER_IO__USERNAME",
            "x",
            "names no upstream; add its table to the file first",
        ),
        ("MIRROR_UPSTREAMS__A_B__USERNAME", "x", "may mean a-b or a.b; set it in the file"),
        (
            "MIRROR_UPSTREAMS__USERNAME",
            "x",
            "upstreams.username is not a setting; the name of an upstream stands before the key",
        ),
    ],
)
def test_an_error_in_a_variable_names_it(configure: Load, variable: str, value: str, message: str) -> None:
    text = '[upstreams."a.b"]\n[upstreams."a-b"]\n'
    assert refusal(configure, text, environ={variable: value}) == f"{variable}: {message}"


@pytest.mark.parametrize(
    ("override", "value", "message"),
    [
        ("server.workers", -1, "--workers: server.workers must be a whole number of at least 0, not -1"),
        ("cache.dir", "", "--cache-dir: cache.dir must be a path, not ''"),
        ("cache.dri", "x", "--cache-dri: cache.dri is not a setting; did you mean cache.dir?"),
    ],
)
def test_an_error_in_a_flag_names_it(override: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path=None, environ={}, overrides={override: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[server\n", r"is not TOML: .*\(at line 1, column 8\)"),
        (b"[server]\nworkers = 1\nworkers = 2\n", r"is not TOML: .*\(at line 3, column 12\)"),
        (b"[server]\n\nlisten = '\xff'\n", r"is not UTF-8 text \(at line 3\)"),
        (b"a = " + b"[" * 100_000, "is not TOML: .*"),
        (b"a = " + b"9" * 5000, "is not TOML: .*"),
    ],
    ids=["syntax", "twice", "bytes", "nesting", "number"],
)
def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mirror.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {message}$"):
        load(path=file, environ={}, overrides={})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/none\.toml: cannot be read: No such file or directory$"):
        load(path=tmp_path / "none.toml", environ={}, overrides={})


# --- values ---


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("100B", 100),
        ("1.5kB", 1500),
        ("64KiB", 65_536),
        ("50GB", 50 * 10**9),
        ("50GiB", 50 * 2**30),
        ("2TiB", 2 * 2**40),
    ],
)
def test_a_size(text: str, size_bytes: int) -> None:
    assert values.size().read(text) == size_bytes


@pytest.mark.parametrize("value", ["", "5", "5 GiB", "5g", "GiB", "-1GiB", "1PiB", 5, 0, True, None, "\uff15GiB"])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(values.Unfit, match="must be a size such as 512MiB, 50GiB or 50GB"):
        values.size().read(value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("12h", 43200), ("7d", 604800), ("0s", 0), ("0.25s", 0.25)]
)
def test_a_duration(text: str, seconds: float) -> None:
    assert values.duration().read(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "5S", "1h30m", "1e3s", "5ms", "\N{ARABIC-INDIC DIGIT FIVE}s", "5s\n", ".5s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(values.Unfit):
        values.duration().read(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5000", TcpAddress("127.0.0.1", 5000)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::]:5000", TcpAddress("::", 5000)),
        ("[fe80::1]:65535", TcpAddress("fe80::1", 65535)),
        ("unix:/run/mirror.sock", UnixAddress(Path("/run/mirror.sock"))),
    ],
)
def test_an_address_and_back(text: str, address: TcpAddress | UnixAddress) -> None:
    assert values.ADDRESS.read(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":5000",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "host: 5000",
        "::1:5000",
        "[]:5000",
        "[host]:5000",
        "a b:5000",
        "http://host:5000",
        "unix:",
        "unix:relative",
        "unix:/a\0b",
        "unix:/" + "a" * 107,
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(values.Unfit):
        values.ADDRESS.read(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ghcr.io",
        "//ghcr.io",
        "ftp://ghcr.io",
        "https://",
        "https:///v2",
        "https://a b",
        "https://a\nb",
        "https://a:0",
        "https://a:99999",
        "https://[a",
        "https://[x]",
        "https://user@a",
        "https://a?",
        "https://a#b",
        "https://é.example",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(values.Unfit):
        values.ENDPOINT.read(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('tls_certificate = "a"\n', "server.tls_certificate needs server.tls_key too"),
        ('tls_key = "a"\n', "server.tls_key needs server.tls_certificate too"),
        ('tls_client_ca = "a"\n', "server.tls_client_ca needs server.tls_certificate too"),
        ('tls_client_ca = "a"\ntls_certificate = "b"\n', "server.tls_certificate needs server.tls_key too"),
    ],
)
def test_https_needs_certificate_and_key(configure: Load, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^mirror.toml: {reason}$"):
        configure(f"[server]\n{text}")


def test_https_is_what_its_files_make_it(configure: Load) -> None:
    assert configure().server.tls is None
    assert configure('[server]\ntls_certificate = "a"\ntls_key = "b"\n').server.tls == TlsFiles(
        certificate=Path("a"), key=Path("b"), client_ca=None
    )


def test_workers_are_one_for_each_core_when_the_number_is_zero() -> None:
    assert ServerConfig(workers=0).worker_count == len(os.sched_getaffinity(0))
    assert ServerConfig(workers=3).worker_count == 3


def complaint(*, environ: Mapping[str, str], overrides: Mapping[str, object]) -> str:
    try:
        load(path=None, environ=environ, overrides=overrides)
    except ConfigError as error:
        return str(error)
    return ""


TOML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
KEYS = [f"{section}.{'ghcr.io.' if section == 'upstreams' else ''}{key}" for section, key, _ in schema.every_key()]


@given(key=st.sampled_from(KEYS) | st.text(), value=TOML_VALUES)
@example(key="server.workers", value=1 << 100_000)
def test_any_value_is_taken_or_refused_in_one_line(key: str, value: object) -> None:
    assert complaint(environ={}, overrides={key: value}).isprintable()


@given(part=st.text(), value=st.text())
def test_any_variable_is_taken_or_refused_in_one_line(part: str, value: str) -> None:
    for variable in (f"MIRROR_CACHE__{part}", f"MIRROR_{part}__DIR", f"MIRROR_UPSTREAMS__{part}__DEFAULT"):
        assert complaint(environ={variable: value}, overrides={}).isprintable()


# --- documentation ---


class Documented(NamedTuple):
    section: str
    key: str
    default: str


def documented() -> list[Documented]:
    rows = []
    section = ""
    for line in DOCUMENTATION.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = re.fullmatch(r"## `\[([a-z]+).*\]`", line)
            section = heading[1] if heading else ""
        elif section and (row := re.match(r"\| `([a-z_]+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", line)):
            rows.append(Documented(section, row[1], row[2].strip("`")))
    return rows


def test_every_setting_is_documented_and_no_other() -> None:
    there = [(row.section, row.key) for row in documented()]
    assert sorted(there) == sorted((section, key) for section, key, _ in schema.every_key())


def test_every_documented_default_is_the_real_one() -> None:
    real = {(section, key): setting.default for section, key, setting in schema.every_key()}
    computed = {("upstreams", "endpoints"): "https://NAME", ("upstreams", "tag_ttl"): "tag_ttl` of `[cache]"}
    for row in documented():
        default = real[row.section, row.key]
        assert row.default == (computed[row.section, row.key] if default is None else json.dumps(default))


def test_the_documented_example_is_a_configuration(configure: Load) -> None:
    example_file = re.search(r"## Example\n\n```toml\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)
    assert example_file is not None
    Path("hub").write_text("s3cret\n", encoding="utf-8")
    config = configure(example_file[1].replace("/run/secrets/hub", "hub"))
    assert config.server.workers == 2
    assert config.default_upstream.credential == ConfiguredCredential(
        username="somebody", password="s3cret", password_file=Path("hub")
    )
