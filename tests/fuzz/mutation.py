"""Seeded changes of bytes, in the places where parsers disagree."""

from __future__ import annotations

import random

TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"/", b"//", b"..", b"%00", b"%2f", b"%2e%2e", b"%"),
    *(b"\xff", b"\xc0\xaf", b"\xe2\x80\xae", b"{", b"[" * 300, b'"', b"\\u0000", b"\\ud800", b"NaN", b"1e999", b"null"),
    *(b"-1", b"0", b"9" * 30, b"9" * 5000, b"0x10", b"+5", b"1_0", b"sha256:", b"md5:", b"?ns=", b"&n=", b"&last="),
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Host: a\r\nHost: b\r\n",
    b"X: " + b"a" * 9000 + b"\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n",
    b"Location: http://169.254.169.254/\r\n",
    b"Link: </v2/x?n=1>; rel=next\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
]


def mutate(chance: random.Random, content: bytes, *, most: int = 5) -> bytes:
    """Return content after one to ``most`` changes."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, most)):
        _change(chance, changed)
    return bytes(changed)


def _change(chance: random.Random, content: bytearray) -> None:
    start = chance.randrange(len(content) + 1)
    end = min(len(content), start + chance.choice((1, 1, 2, 4, 16, 64)))
    match chance.randrange(7):
        case 0 if start < len(content):
            content[start] ^= 1 << chance.randrange(8)
        case 1:
            content[start:start] = chance.randbytes(chance.choice((1, 2, 8)))
        case 2:
            del content[start:end]
        case 3:
            content[start:start] = content[start:end] * chance.choice((1, 2, 20))
        case 4:
            content[start:end] = chance.choice(TOKENS)
        case 5:
            del content[start:]
        case _:
            content[start:start] = chance.choice(TOKENS)
