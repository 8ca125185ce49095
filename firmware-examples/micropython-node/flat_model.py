"""The flat int8 model: checked once, then computed, bit for bit as `core/model.c` does.

The format is in docs/firmware-format.md; the server refuses the same files, by the same rules.
"""

import struct

CONVOLUTION, MAXIMUM, AVERAGE, ADDITION, TABLE, SOFTMAX = range(1, 7)
_ELEMENTS_MAX, _ARENA_MAX, _ACCUMULATED_MAX = 1 << 20, 1 << 24, 1 << 15
_BIAS_MAX, _SHIFT_MAX, _ONE = 1 << 30, 62, 1 << 16


class BadModel(Exception):
    """The model breaks a rule of its format."""


def _demand(rule):
    if not rule:
        raise BadModel


def _signed(value):
    return value - 256 if value > 127 else value


class _Tensor:
    def __init__(self, at):
        self.channels, self.height, self.width, self.zero, self.offset, bits = at
        self.elements = self.channels * self.height * self.width
        self.scale = struct.unpack("<f", struct.pack("<I", bits))[0]
        _demand(0 < self.elements <= _ELEMENTS_MAX and -128 <= self.zero <= 127)
        _demand(0 < bits < 0x7F800000)  # no sign, no infinity, no NaN


class _Step:
    def __init__(self, at):
        self.kind, self.lowest, self.highest = at[0], at[1], at[2]
        self.first, self.second, self.output, self.groups = at[4:8]
        self.kernel, self.stride = at[8:10], at[10:12]
        self.dilation, self.padding = at[12:14], at[14:16]
        self.weights, self.biases, self.factors = at[16:19]


class FlatModel:
    """A checked model; `run` computes the output of one input."""

    def __init__(self, file):
        """Check `file`; raise `BadModel`."""
        _demand(len(file) >= 32 and file[:4] == b"EFM1")
        size, tensors, steps, first, last, arena = struct.unpack("<IHHHHI", file[4:20])
        self._tables = 32 + 16 * tensors + 36 * steps
        _demand(size == len(file) and 0 < tensors <= 1024 and 0 < steps <= 1024)
        _demand(first < tensors and last < tensors and arena <= _ARENA_MAX)
        _demand(self._tables <= size)
        self._file, self.arena_bytes = memoryview(file), arena
        self._tensors = [
            _Tensor(struct.unpack("<HHHhII", file[at : at + 16]))
            for at in range(32, 32 + 16 * tensors, 16)
        ]
        for one in self._tensors:
            _demand(one.offset + one.elements <= arena)
        self.input, self.output = self._tensors[first], self._tensors[last]
        self._steps = []
        for at in range(32 + 16 * tensors, self._tables, 36):
            step = _Step(struct.unpack("<BbbBHHHHHHBBBBHHIII", file[at : at + 36]))
            self._check(step)
            self._steps.append(step)

    # ------------------------------------------------------------ checking

    def _constants(self, offset, length):
        _demand(offset >= self._tables and offset % 4 == 0)
        _demand(offset + length <= len(self._file))

    def _factors(self, step, count):
        self._constants(step.factors, 8 * count)
        found = []
        for i in range(count):
            at = step.factors + 8 * i
            multiplier, shift = struct.unpack("<ii", self._file[at : at + 8])
            _demand(multiplier >= 0 and 1 <= shift <= _SHIFT_MAX)
            found.append((multiplier, shift, 1 << (shift - 1)))
        step.factors = found

    def _check(self, step):
        count = len(self._tensors)
        _demand(step.first < count and step.output < count and step.lowest <= step.highest)
        _demand(step.kind != ADDITION or step.second < count)
        _demand(0 not in step.kernel + step.stride + step.dilation)
        first, output = self._tensors[step.first], self._tensors[step.output]
        second = self._tensors[step.second] if step.kind == ADDITION else None
        for read in (first, second):
            if read is not None:
                _demand(
                    read.offset >= output.offset + output.elements
                    or output.offset >= read.offset + read.elements
                )
        step.first, step.second, step.output = first, second, output
        if step.kind == CONVOLUTION:
            self._check_convolution(step, first, output)
        elif step.kind in (MAXIMUM, AVERAGE):
            _demand(first.channels == output.channels)
            _demand(step.kernel[0] * step.kernel[1] <= _ACCUMULATED_MAX)
            if step.kind == AVERAGE:
                self._factors(step, 1)
        elif step.kind == ADDITION:
            _demand(first.elements == second.elements == output.elements)
            self._factors(step, 2)
            _demand(step.factors[0][1] == step.factors[1][1])
        else:
            _demand(step.kind in (TABLE, SOFTMAX) and first.elements == output.elements)
            self._check_table(step)

    def _check_convolution(self, step, first, output):
        _demand(step.groups and not first.channels % step.groups)
        _demand(not output.channels % step.groups)
        taps = first.channels // step.groups * step.kernel[0] * step.kernel[1]
        _demand(taps <= _ACCUMULATED_MAX)
        self._constants(step.weights, taps * output.channels)
        self._constants(step.biases, 4 * output.channels)
        at = step.biases
        step.biases = struct.unpack(
            "<%di" % output.channels, self._file[at : at + 4 * output.channels]
        )
        _demand(all(-_BIAS_MAX <= one <= _BIAS_MAX for one in step.biases))
        self._factors(step, output.channels)

    def _check_table(self, step):
        size = 1024 if step.kind == SOFTMAX else 256
        self._constants(step.weights, size)
        table = self._file[step.weights : step.weights + size]
        step.weights = struct.unpack("<256I" if step.kind == SOFTMAX else "<256b", table)
        if step.kind == SOFTMAX:
            _demand(step.weights[0] == _ONE and max(step.weights) <= _ONE)

    # ------------------------------------------------------------ running

    def run(self, values):
        """Return the output, int8 as bytes; values: the input, the same."""
        assert len(values) == self.input.elements
        arena = bytearray(self.arena_bytes)
        arena[self.input.offset : self.input.offset + len(values)] = values
        for step in self._steps:
            if step.kind == CONVOLUTION:
                _convolution(step, self._file, arena)
            elif step.kind in (MAXIMUM, AVERAGE):
                _pool(step, arena)
            elif step.kind == ADDITION:
                _addition(step, arena)
            elif step.kind == TABLE:
                _table(step, arena)
            else:
                _softmax(step, arena)
        return bytes(arena[self.output.offset : self.output.offset + self.output.elements])


def _limited(step, value):
    if value < step.lowest:
        value = step.lowest
    elif value > step.highest:
        value = step.highest
    return value & 255


def _spans(step, axis, places, size):
    """Return for each place of the output where tap 0 lies, its first tap inside, and the end."""
    found = []
    dilation, kernel = step.dilation[axis], step.kernel[axis]
    for place in range(places):
        origin = place * step.stride[axis] - step.padding[axis]
        first = (-origin + dilation - 1) // dilation if origin < 0 else 0
        inside = size - origin
        end = min(kernel, (inside + dilation - 1) // dilation) if inside > 0 else 0
        found.append((origin, first, end))
    return found


def _convolution(step, file, arena):
    first, output = step.first, step.output
    inside, outside = first.channels // step.groups, output.channels // step.groups
    area = step.kernel[0] * step.kernel[1]
    size, width, zero = first.height * first.width, first.width, first.zero
    rows = _spans(step, 0, output.height, first.height)
    columns = _spans(step, 1, output.width, first.width)
    down, right, across = step.dilation[0] * width, step.dilation[1], step.kernel[1]
    # Signed once: a value less its zero point.
    values = [_signed(one) - zero for one in arena[first.offset : first.offset + first.elements]]
    target = output.offset
    for channel in range(output.channels):
        begin = channel // outside * inside * size
        at = step.weights + channel * inside * area
        weights = [_signed(one) for one in bytes(file[at : at + inside * area])]
        bias, (multiplier, shift, half) = step.biases[channel], step.factors[channel]
        for top, row_first, row_end in rows:
            for left, column_first, column_end in columns:
                total = bias
                for i in range(inside):
                    channel_at = begin + i * size + left
                    weights_at = i * area
                    for row in range(row_first, row_end):
                        place = channel_at + top * width + row * down
                        weight = weights_at + row * across
                        for column in range(column_first, column_end):
                            total += values[place + column * right] * weights[weight + column]
                value = (total * multiplier + half >> shift) + output.zero
                arena[target] = _limited(step, value)
                target += 1


def _pool(step, arena):
    first, output = step.first, step.output
    size, width, zero = first.height * first.width, first.width, first.zero
    rows = _spans(step, 0, output.height, first.height)
    columns = _spans(step, 1, output.width, first.width)
    maximum, target = step.kind == MAXIMUM, output.offset
    for channel in range(output.channels):
        begin = first.offset + channel * size
        for top, row_first, row_end in rows:
            for left, column_first, column_end in columns:
                found = -128 if maximum else 0
                for row in range(row_first, row_end):
                    place = begin + (top + row * step.dilation[0]) * width + left
                    for column in range(column_first, column_end):
                        value = _signed(arena[place + column * step.dilation[1]])
                        if not maximum:
                            found += value - zero
                        elif value > found:
                            found = value
                if not maximum:
                    multiplier, shift, half = step.factors[0]
                    found = (found * multiplier + half >> shift) + output.zero
                arena[target] = _limited(step, found)
                target += 1


def _addition(step, arena):
    (one, shift, half), (other, _, _) = step.factors
    a, b, target = step.first, step.second, step.output
    for i in range(target.elements):
        total = (_signed(arena[a.offset + i]) - a.zero) * one
        total += (_signed(arena[b.offset + i]) - b.zero) * other
        arena[target.offset + i] = _limited(step, (total + half >> shift) + target.zero)


def _table(step, arena):
    first, output = step.first, step.output
    for i in range(output.elements):
        arena[output.offset + i] = step.weights[_signed(arena[first.offset + i]) + 128] & 255


def _softmax(step, arena):
    first, output = step.first, step.output
    values = [_signed(one) for one in arena[first.offset : first.offset + first.elements]]
    largest = max(values)
    powers = [step.weights[largest - one] for one in values]
    total = sum(powers)
    for i, power in enumerate(powers):
        arena[output.offset + i] = _limited(step, (512 * power + total) // (2 * total) - 128)
