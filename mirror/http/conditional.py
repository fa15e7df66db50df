"""Conditions of a request, where the entity tag of content is its digest.

A digest is passed as whatever its ``str()`` is the tag's text: HTTP does not know what is in a tag.

Spec: https://www.rfc-editor.org/rfc/rfc9110.html#section-13.1
"""

from __future__ import annotations

import re
from typing import Final

_TAG: Final = re.compile(r'(?:W/)?+(?:"([^"]*+)"|([^\s,"]++))')


def etag_matches(header: str | None, digest: object) -> bool:
    """Tell whether ``If-None-Match`` names this content, so that 304 says enough.

    ``*`` names any content; a digest may be bare, as the distribution registry sends and takes it.
    """
    if header is None:
        return False
    tag = str(digest)
    return header.strip() == "*" or any(tag in match.groups() for match in _TAG.finditer(header))


def if_range_holds(header: str | None, digest: object) -> bool:
    """Tell whether ``Range`` may be obeyed: there is no ``If-Range``, or it names exactly this content.

    A weak tag and a date never do (section 13.1.5).
    """
    return header is None or header.strip() in {str(digest), f'"{digest}"'}
