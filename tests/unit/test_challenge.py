from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.http.challenge import Challenge, parse_challenges

TOKEN_CHARACTERS = "abcXYZ019!#$%&'*+.^_`|~-"


def challenge(scheme: str, **parameters: str) -> Challenge:
    return Challenge(scheme=scheme, parameters=parameters)


def test_docker_hub_s_challenge() -> None:
    header = (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
        'scope="repository:library/alpine:pull,push",error="insufficient_scope"'
    )
    assert parse_challenges([header]) == [
        challenge(
            "bearer",
            realm="https://auth.docker.io/token",
            service="registry.docker.io",
            scope="repository:library/alpine:pull,push",
            error="insufficient_scope",
        )
    ]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([], [], id="no header"),
        pytest.param([""], [], id="an empty header"),
        pytest.param([" , ,"], [], id="only separators"),
        pytest.param(["Basic"], [challenge("basic")], id="a scheme alone"),
        pytest.param(['BASIC REALM="x"'], [challenge("basic", realm="x")], id="any case"),
        pytest.param(
            ["Bearer realm=https://gcr.io/v2/token,service=gcr.io"],
            [challenge("bearer", realm="https://gcr.io/v2/token", service="gcr.io")],
            id="bare values",
        ),
        pytest.param(
            ['Bearer realm="a" , service = "b"\t,\r\n scope="c"'],
            [challenge("bearer", realm="a", service="b", scope="c")],
            id="space anywhere",
        ),
        pytest.param(
            ['Negotiate, Basic realm="a, b", Bearer realm="c",scope="d,e"'],
            [challenge("negotiate"), challenge("basic", realm="a, b"), challenge("bearer", realm="c", scope="d,e")],
            id="several in one header",
        ),
        pytest.param(
            ['Basic realm="a"', 'Bearer realm="b"'],
            [challenge("basic", realm="a"), challenge("bearer", realm="b")],
            id="several headers",
        ),
        pytest.param(
            ["NTLM TlRMTVNTUAAC==, Negotiate abc/+, Basic realm=x"],
            [challenge("ntlm"), challenge("negotiate"), challenge("basic", realm="x")],
            id="data instead of parameters",
        ),
        pytest.param(
            [r'Basic realm="a \"quoted\" \\ realm"'], [challenge("basic", realm=r'a "quoted" \ realm')], id="escapes"
        ),
        pytest.param(['Bearer realm="a",realm="b"'], [challenge("bearer", realm="a")], id="the first of two"),
        pytest.param(['realm="a", Basic realm="b"'], [challenge("basic", realm="b")], id="parameters of nothing"),
        pytest.param(['Bearer realm=""'], [challenge("bearer", realm="")], id="an empty value"),
        pytest.param(['Bearer realm="unclosed'], [challenge("bearer", realm=""), challenge("unclosed")], id="unclosed"),
    ],
)
def test_challenges_are_read_as_registries_write_them(headers: list[str], expected: list[Challenge]) -> None:
    assert parse_challenges(headers) == expected


parameters = st.dictionaries(st.text(TOKEN_CHARACTERS, min_size=1).map(str.lower), st.text())
challenges = st.builds(
    Challenge, scheme=st.text(TOKEN_CHARACTERS, min_size=1).map(str.lower), parameters=parameters.filter(bool)
)


def render(challenge: Challenge) -> str:
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in challenge.parameters.items()}
    return f"{challenge.scheme} " + ", ".join(f'{name}="{value}"' for name, value in escaped.items())


@given(st.lists(challenges))
def test_challenges_read_back_as_they_were_written(expected: list[Challenge]) -> None:
    assert parse_challenges(render(challenge) for challenge in expected) == expected
    assert parse_challenges([", ".join(render(challenge) for challenge in expected)]) == expected


@given(st.lists(st.text() | st.text(alphabet='aB=", \\\t')))
def test_no_text_is_an_error(headers: list[str]) -> None:
    for found in parse_challenges(headers):
        assert found.scheme
        assert found.scheme == found.scheme.lower()


@pytest.mark.parametrize("pattern", ['a="', "a=", '"', "\\", 'a="\\"', "a ", "a,", "=", ";", 'a="\\'])
def test_a_long_hostile_header_is_read_in_one_go(pattern: str) -> None:
    parse_challenges([pattern * 100_000])
