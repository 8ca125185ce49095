"""SHA-512, FIPS 180-4: MicroPython's hashlib has none."""

_MASK = 0xFFFFFFFFFFFFFFFF


def _root(number, degree):
    """Return the whole part of a root, by bisection."""
    low, high = 0, 1 << 80
    while low < high:
        middle = (low + high + 1) >> 1
        if middle**degree <= number:
            low = middle
        else:
            high = middle - 1
    return low


def _primes(count):
    found = []
    number = 2
    while len(found) < count:
        if all(number % one for one in found):
            found.append(number)
        number += 1
    return found


# FIPS 180-4, 4.2.3 and 5.3.5: the first 64 bits of the fractions of roots of the first primes.
_K = [_root(one << 192, 3) & _MASK for one in _primes(80)]
_BEGIN = [_root(one << 128, 2) & _MASK for one in _primes(8)]


def _compress(state, block):
    w = [int.from_bytes(block[8 * i : 8 * i + 8], "big") for i in range(16)]
    for i in range(16, 80):
        a, b = w[i - 15], w[i - 2]
        a = ((a >> 1 | a << 63) ^ (a >> 8 | a << 56) ^ a >> 7) & _MASK
        b = ((b >> 19 | b << 45) ^ (b >> 61 | b << 3) ^ b >> 6) & _MASK
        w.append((w[i - 16] + a + w[i - 7] + b) & _MASK)
    a, b, c, d, e, f, g, h = state
    for i in range(80):
        s = (e >> 14 | e << 50) ^ (e >> 18 | e << 46) ^ (e >> 41 | e << 23)
        one = h + (s & _MASK) + ((e & f) ^ (~e & _MASK & g)) + _K[i] + w[i]
        s = (a >> 28 | a << 36) ^ (a >> 34 | a << 30) ^ (a >> 39 | a << 25)
        two = (s & _MASK) + ((a & b) ^ (a & c) ^ (b & c))
        a, b, c, d, e, f, g, h = (one + two) & _MASK, a, b, c, (d + one) & _MASK, e, f, g
    return [(x + y) & _MASK for x, y in zip(state, (a, b, c, d, e, f, g, h))]


class SHA512:
    """A message: `update` as often as needed, then `digest` once."""

    def __init__(self, content=b""):
        self._state = _BEGIN
        self._rest = b""
        self._length = 0
        self.update(content)

    def update(self, content):
        """Add bytes."""
        self._length += len(content)
        content = self._rest + content
        whole = len(content) // 128 * 128
        for at in range(0, whole, 128):
            self._state = _compress(self._state, content[at : at + 128])
        self._rest = content[whole:]

    def digest(self):
        """End it."""
        bits = 8 * self._length
        zeros = (111 - self._length) % 128
        self.update(b"\x80" + bytes(zeros) + bits.to_bytes(16, "big"))
        return b"".join(one.to_bytes(8, "big") for one in self._state)
