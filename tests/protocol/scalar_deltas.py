"""A second decoder of deltas, written from docs/deltas.md alone: scalar, as one in C would be."""

import math
import struct

from backports import zstd

BITS = [32, 16, 16, 8, 8, 32, 16]
FRACTION = [23, 10, 7]
F32, F16, BF16, I8, U8, I32, I16 = range(7)


class Input:
    def __init__(self, content, place=0):
        self.content, self.place = content, place

    def take(self, length):
        self.place += length
        return self.content[self.place - length : self.place]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            part = self.byte()
            value |= (part & 127) << shift
            shift += 7
            if part < 128:
                return value

    def distance(self):
        value = self.varint()
        return -(value + 1) // 2 if value & 1 else value // 2


def frame(content, prefix=b""):
    dictionary = zstd.ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= 8 else None
    return zstd.decompress(b"\x28\xb5\x2f\xfd" + content, zstd_dict=dictionary)


def apply(delta, base):
    source = Input(delta, 4 + 2 + 16)
    _, _, _, packed = (source.varint() for _ in range(4))
    program = Input(frame(source.take(packed)))
    mask, count = program.varint(), program.varint()
    maps = {kind: program.take(64) for kind in range(7) if mask >> kind & 1}
    tables = []
    for _ in range(count):
        kind, row = program.byte(), []
        while len(row) < (256 if BITS[kind] == 8 else 1 + 4 * BITS[kind]):
            frequency = program.varint()
            row += [frequency] * program.varint()
        tables.append([(symbol, f, sum(row[:symbol])) for symbol, f in enumerate(row) if f])
    out = (bytearray(), bytearray(), bytearray())
    cursors = [0, 0]
    for _ in range(program.varint()):
        run_block(program, source, base, out, (cursors, maps, tables))
    return bytes(out[0])


def run_block(program, source, base, out, state):
    cursors, maps, tables = state
    to = program.byte()
    lanes, words, raw, parameters, count = (program.varint() for _ in range(5))
    held, dictionary = bytes(out[1]), bytes(out[2])
    steps = [read_instruction(program, base, held, cursors) for _ in range(count)]
    spans = [step for step in steps if step["what"] >= 3]
    rows = sum(span["rows"] for span in spans)
    scaled = sum(span["rows"] for span in spans if span["what"] in (4, 8))
    stored = source.take(parameters)
    if parameters != 2 * (rows + scaled):
        stored = frame(stored)
    shifts = int16s(stored[: 2 * rows])
    multipliers = int16s(stored[2 * rows :])
    states = list(struct.unpack(f"<{lanes}I", source.take(4 * lanes)))
    left = list(struct.unpack(f"<{words}H", source.take(2 * words)))[::-1]
    bits = int.from_bytes(source.take(raw), "little")
    elements = []
    for span in spans:
        prepare(span, base, held, shifts, multipliers)
        for number in range(span["size"]):
            expected, quarter = expect(span, number)
            key = key_of(span, number, expected, quarter)
            elements.append((span, number, expected, tables[maps[coded(span)][key]]))
    symbols = [rans(states, number % lanes, left, one[3]) for number, one in enumerate(elements)]
    assert not left
    assert all(state == 1 << 16 for state in states)
    made = []
    for (span, number, expected, _), symbol in zip(elements, symbols, strict=True):
        kind = coded(span)
        if BITS[kind] == 8:
            difference = -(symbol + 1) // 2 if symbol & 1 else symbol // 2
        else:
            difference, bits = elias(symbol, bits)
        found = correct(kind, expected, difference)
        if span["what"] == 8:
            kind, found = span["kind"], walk(span, number, found)
        made.append(found.to_bytes(BITS[kind] // 8, "little"))
    at = 0
    for step in steps:
        if step["what"] == 0:
            out[to].extend(base[step["offset"] :][: step["size"]])
        elif step["what"] == 1:
            out[to].extend(held[step["offset"] :][: step["size"]])
        elif step["what"] == 2:
            own = dictionary if step["own"] else base[step["offset"] :][: step["range"]]
            out[to].extend(frame(source.take(step["packed"]), own))
        else:
            out[to].extend(b"".join(made[at : at + step["size"]]))
            at += step["size"]


def read_instruction(program, base, held, cursors):
    first = program.byte()
    step = {"what": first >> 4, "kind": first & 15}
    if step["what"] in (0, 1):
        which = step["what"]
        step["offset"] = cursors[which] + program.distance()
        step["size"] = program.varint()
        cursors[which] = step["offset"] + step["size"]
    elif step["what"] == 2:
        step["own"] = bool(first & 1)
        if not step["own"]:
            step["offset"], step["range"] = cursors[0] + program.distance(), program.varint()
            cursors[0] = step["offset"] + step["range"]
        step["packed"], step["size"] = program.varint(), program.varint()
    else:
        step["size"] = program.varint()
        size = BITS[step["kind"]] // 8
        if step["what"] == 6:
            step["inner"], step["rows"] = step["size"], 1
            start = program.varint()
            step["before"] = held[start : start + size * step["size"]]
            step["constant"] = struct.unpack("<f", program.take(4))[0]
            return step
        if step["what"] != 7:
            start = cursors[0] + program.distance()
            cursors[0] = start + size * step["size"]
            step["before"] = base[start : cursors[0]]
        step["inner"], step["rows"] = max(program.varint(), 1), max(program.varint(), 1)
        if step["what"] == 5:
            step["scale"], step["held"] = program.varint(), program.varint()
        step["rank"] = program.varint() if step["what"] in (4, 8) else 0
        if step["rank"]:
            step["held"], step["first"], step["all"] = (program.varint() for _ in range(3))
            step["exponent"] = program.distance()
            step["powers"] = program.take(step["rank"])
    return step


def prepare(span, base, held, shifts, multipliers):
    """Take the span's parameters, and all that its elements need."""
    span["shifts"] = [shifts.pop(0) for _ in range(span["rows"])]
    if span["what"] in (4, 8):
        own = [multipliers.pop(0) for _ in range(span["rows"])]
        span["m"], span["p"] = [1 + one / 16384 for one in own], own
        if span["rank"]:
            length = span["all"] + span["rank"] * (span["all"] + span["inner"])
            span["factors"] = struct.unpack_from(f"<{length}h", held, span["held"])
    if span["what"] == 5:
        old = struct.unpack_from(f"<{span['rows']}f", base, span["scale"])
        new = struct.unpack_from(f"<{span['rows']}f", held, span["held"])
        span["m"] = [a / b if b else math.nan for a, b in zip(old, new, strict=True)]
    if span["what"] == 6:
        span["m"] = [span["constant"]]


def int16s(planes):
    half = len(planes) // 2
    return [struct.unpack("<h", bytes(pair))[0]
            for pair in zip(planes[:half], planes[half:], strict=True)]  # fmt: skip


def coded(span):
    return I8 if span["what"] == 8 else span["kind"]


def base_of(span, number):
    size = BITS[span["kind"]] // 8
    return int.from_bytes(span["before"][size * number : size * (number + 1)], "little")


def walk(span, number, steps):
    """Return the bits of the element that is so many steps from its base."""
    kind, bits = span["kind"], base_of(span, number)
    p = max(-256, min(58, span["p"][row_of(span, number)]))
    moved = (steps - 256 if steps > 127 else steps) * math.ldexp(2 + p % 2, p // 2)
    if kind > BF16:
        return (bits + math.floor(moved)) % (1 << BITS[kind])
    made = from_float(kind, to_float(kind, bits) + moved)
    return bits if infinite(kind, bits) or infinite(kind, made) else made


def row_of(span, number):
    return number // span["inner"] % span["rows"]


def low_rank(span, number):
    if not span.get("rank"):
        return 0.0
    row, column = span["first"] + number // span["inner"], number % span["inner"]
    factors, rank, rows = span["factors"], span["rank"], span["all"]
    total = sum(
        factors[rows + k * rows + row] * factors[rows * (1 + rank) + k * span["inner"] + column]
        << span["powers"][k]
        for k in range(rank)
    )
    return math.ldexp(total, max(-256, min(256, factors[row])) + span["exponent"])


def expect(span, number):
    """Return the expected bits and the quarter."""
    kind, what = coded(span), span["what"]
    if what == 7:
        return 0, 2
    bits = 0 if what == 8 else base_of(span, number)
    if what == 3:
        return bits, 2
    m, added = 1.0 if what == 8 else span["m"][row_of(span, number)], low_rank(span, number)
    if kind <= BF16:
        exact = to_float(kind, bits) * m + added
        made = from_float(kind, exact)
        return (bits if infinite(kind, bits) or infinite(kind, made) else made), 2
    if not abs(m) <= 65536:
        m = 1.0
    if not abs(added) <= 2.0**40:
        added = 0.0
    signed = bits - (1 << BITS[kind]) if kind != U8 and bits >> (BITS[kind] - 1) else bits
    exact = (signed * m + added) + 0.5
    whole = math.floor(exact)
    return whole % (1 << BITS[kind]), math.floor(4 * (exact - whole))


def to_float(kind, bits):
    if kind == F16:
        return struct.unpack("<e", bits.to_bytes(2, "little"))[0]
    return struct.unpack("<f", (bits << (16 if kind == BF16 else 0)).to_bytes(4, "little"))[0]


def from_float(kind, value):
    try:
        content = struct.pack("<e" if kind == F16 else "<f", value)
    except OverflowError:
        content = struct.pack("<e" if kind == F16 else "<f", math.inf)
    bits = int.from_bytes(content, "little")
    return bits >> 16 if kind == BF16 else bits


def infinite(kind, bits):
    exponents = ((1 << (BITS[kind] - 1 - FRACTION[kind])) - 1) << FRACTION[kind]
    return bits & exponents == exponents


def key_of(span, number, expected, quarter):
    kind = coded(span)
    shift = span["shifts"][row_of(span, number)]
    if kind <= BF16:
        size = (expected & ((1 << (BITS[kind] - 1)) - 1)) >> (FRACTION[kind] - 1)
    elif BITS[kind] == 8:
        return 4 * (shift % 16) + quarter
    else:
        negative = expected >> (BITS[kind] - 1)
        size = (((1 << BITS[kind]) - expected) if negative else expected).bit_length()
    return max(0, min(63, size - shift))


def rans(states, lane, left, table):
    slot = states[lane] & 4095
    symbol, frequency, start = next(row for row in table if row[2] <= slot < row[2] + row[1])
    state = frequency * (states[lane] >> 12) + slot - start
    if state < 1 << 16:
        state = state << 16 | left.pop()
    states[lane] = state
    return symbol


def elias(symbol, bits):
    """Return the difference, and the raw bits that are left."""
    if symbol == 0:
        return 0, bits
    sign, top, length = (symbol - 1) % 2, (symbol - 1) // 2 % 2, (symbol - 1) // 4 + 1
    if length == 1:
        return (-1 if sign else 1), bits
    size = (2 + top) << (length - 2) | bits & ((1 << (length - 2)) - 1)
    return (-size if sign else size), bits >> (length - 2)


def correct(kind, expected, difference):
    modulus, sign = 1 << BITS[kind], 1 << (BITS[kind] - 1)
    if kind > BF16:
        return (expected + difference) % modulus
    negative = bool(expected & sign)
    before = expected ^ (modulus - 1) if negative else expected | sign
    after = (before + (-difference if negative else difference)) % modulus
    return after ^ sign if after & sign else after ^ (modulus - 1)
