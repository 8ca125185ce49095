"""Ed25519, RFC 8032: checking signatures, in integers of any size.

Nothing here is secret, so that nothing has to take the same time.
"""

from sha512 import SHA512

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
_IDENTITY = (0, 1, 1, 0)


def _add(one, other):
    """Add points in extended coordinates, RFC 8032 5.1.4."""
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _double(one):
    a = one[0] * one[0] % _P
    b = one[1] * one[1] % _P
    h = a + b
    e = h - (one[0] + one[1]) * (one[0] + one[1]) % _P
    g = a - b
    f = 2 * one[2] * one[2] % _P + g
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _decode(content):
    """Return a point, RFC 8032 5.1.3; None: it is none."""
    number = int.from_bytes(content, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return (x, y, 1, x * y % _P)


def _encode(point):
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


_BASE = _decode((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))


def verify(signature, key, message):
    """Say whether a message was signed with a key: both are bytes, as RFC 8032 has them."""
    if len(signature) != 64 or len(key) != 32:
        return False
    point = _decode(key)
    s = int.from_bytes(signature[32:], "little")
    if point is None or s >= _L:
        return False
    k = int.from_bytes(SHA512(signature[:32] + key + message).digest(), "little") % _L
    # [S]B - [k]A, both at once; it has to be R.
    minus = (_P - point[0], point[1], 1, _P - point[3])
    both = _add(_BASE, minus)
    found = _IDENTITY
    for bit in range(252, -1, -1):
        found = _double(found)
        which = (s >> bit & 1) | (k >> bit & 1) << 1
        if which:
            found = _add(found, (_BASE, minus, both)[which - 1])
    return _encode(found) == signature[:32]
