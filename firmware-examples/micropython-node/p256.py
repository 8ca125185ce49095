"""ECDSA with P-256 and SHA-256: signing, FIPS 186-5; the nonce of RFC 6979 needs no randomness.

Not in constant time: who can measure how long each signature takes may learn of the key.
"""

import hashlib

_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def _sha256(content):
    return hashlib.sha256(content).digest()


def _hmac(key, content):
    key = key + bytes(64 - len(key))
    inner = _sha256(bytes(one ^ 0x36 for one in key) + content)
    return _sha256(bytes(one ^ 0x5C for one in key) + inner)


def _double(point):
    """Double in Jacobian coordinates; a = -3 (dbl-2001-b)."""
    x, y, z = point
    delta, gamma = z * z % _P, y * y % _P
    beta = x * gamma % _P
    alpha = 3 * (x - delta) * (x + delta) % _P
    new = (alpha * alpha - 8 * beta) % _P
    return (
        new,
        (alpha * (4 * beta - new) - 8 * gamma * gamma) % _P,
        ((y + z) * (y + z) - gamma - delta) % _P,
    )


def _add_base(point):
    """Add G; the point is none of G, -G and infinity (madd-2004-hmv)."""
    x, y, z = point
    square = z * z % _P
    h = (_G[0] * square - x) % _P
    r = (_G[1] * square * z - y) % _P
    h2 = h * h % _P
    h3 = h * h2 % _P
    v = x * h2 % _P
    new = (r * r - h3 - 2 * v) % _P
    return (new, (r * (v - new) - y * h3) % _P, z * h % _P)


def _times_base(number):
    """Return the first coordinate of number times G; number: 1 to N - 1."""
    bits = 0
    while number >> bits:
        bits += 1
    point = (_G[0], _G[1], 1)
    for bit in range(bits - 2, -1, -1):
        point = _double(point)
        if number >> bit & 1:
            point = _add_base(point)
    inverse = pow(point[2], _P - 2, _P)
    return point[0] * inverse * inverse % _P


def _nonces(key, digest):
    """Yield nonces, RFC 6979 3.2."""
    seed = key.to_bytes(32, "big") + (int.from_bytes(digest, "big") % _N).to_bytes(32, "big")
    v, k = b"\x01" * 32, bytes(32)
    for mark in (b"\x00", b"\x01"):
        k = _hmac(k, v + mark + seed)
        v = _hmac(k, v)
    while True:
        v = _hmac(k, v)
        nonce = int.from_bytes(v, "big")
        if 0 < nonce < _N:
            yield nonce
        k = _hmac(k, v + b"\x00")
        v = _hmac(k, v)


def _der(number):
    content = number.to_bytes(32, "big")
    while content[0] == 0 and len(content) > 1:
        content = content[1:]
    if content[0] & 0x80:
        content = b"\x00" + content
    return b"\x02" + bytes([len(content)]) + content


def sign(key, message):
    """Return the signature of a message, in DER; key: the secret number."""
    digest = _sha256(message)
    for nonce in _nonces(key, digest):
        r = _times_base(nonce) % _N
        s = pow(nonce, _N - 2, _N) * (int.from_bytes(digest, "big") + r * key) % _N
        if r and s:
            both = _der(r) + _der(s)
            return b"\x30" + bytes([len(both)]) + both
