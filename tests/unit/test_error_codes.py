from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.error_codes import ErrorCode, error_body

SPECIFIED = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}


def test_the_codes_are_those_of_the_specification_and_one_for_a_failing_upstream() -> None:
    # https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes
    assert {*ErrorCode} == SPECIFIED | {"UNAVAILABLE"}


@given(st.sampled_from(ErrorCode), st.text(alphabet=st.characters(exclude_categories=())))
def test_any_message_survives_the_body(code: ErrorCode, message: str) -> None:
    assert json.loads(error_body(code, message)) == {"errors": [{"code": code.value, "message": message}]}


def test_a_detail_is_sent_where_there_is_one() -> None:
    body = json.loads(error_body(ErrorCode.MANIFEST_UNKNOWN, "no such tag", {"tag": "latest"}))
    assert body["errors"][0]["detail"] == {"tag": "latest"}
