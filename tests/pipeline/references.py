"""What each processing step means, in NumPy and Pillow: arrays in, arrays out, batch first."""

from fractions import Fraction

import numpy as np
from PIL import Image


def resize(array, axes, height, width, *, mode, antialias):
    """Pictures one channel at a time, in the order of `axes`."""
    order = [axes.index(letter) for letter in "NHW"] + ([axes.index("C")] if "C" in axes else [])
    moved = array.transpose(order)
    flat = moved.reshape(*moved.shape[:3], -1)
    channels = flat.transpose(0, 3, 1, 2)
    planes = [[_plane(one, height, width, mode, antialias) for one in row] for row in channels]
    planes = np.stack([np.stack(row, -1) for row in planes])
    made = planes.reshape(moved.shape[0], height, width, *moved.shape[3:])
    return made.transpose(np.argsort(order))


def _plane(plane, height, width, mode, antialias):
    if mode == "nearest":
        return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.NEAREST))
    plane = plane.astype(np.float32)
    if antialias:
        made = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(made)
    return _interpolated(_interpolated(plane, height).T, width).T


def _interpolated(rows, wanted):
    """Linear between the two rows whose centres are nearest; the edge goes on."""
    size = rows.shape[0]
    at = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    share = (at - low)[:, None]
    return rows[low] * (1 - share) + rows[np.minimum(low + 1, size - 1)] * share


def nearest(array, axes, height, width):
    """The pixel in which each new centre lies; Pillow's sums of FP64 err on exact borders."""
    for letter, wanted in (("H", height), ("W", width)):
        axis = axes.index(letter)
        ratio = Fraction(array.shape[axis], wanted)
        array = np.take(array, [int((at + Fraction(1, 2)) * ratio) for at in range(wanted)], axis)
    return array


def crop(array, axes, height, width):
    for letter, wanted in (("H", height), ("W", width)):
        axis = axes.index(letter)
        begin = (array.shape[axis] - wanted) // 2
        array = np.take(array, range(begin, begin + wanted), axis)
    return array


def normalize(array, axes, mean, std):
    letter = "C" if "C" in axes else "F"
    shape = [-1 if axis == letter else 1 for axis in axes]

    def along(numbers):
        numbers = np.asarray(numbers, np.float32)
        return numbers.reshape(shape) if numbers.ndim else numbers

    return (array.astype(np.float32) - along(mean)) / along(std)


def windows(array, axes, length, hop):
    """The windows of each stream, as samples of one batch."""
    axis = axes.index("T")
    rows = []
    for stream in array:
        begins = range(0, stream.shape[axis - 1] - length + 1, hop)
        rows += [np.take(stream, range(at, at + length), axis - 1) for at in begins]
    return np.stack(rows)


def log_mel(sound, *, rate, frame, hop, bands, low_hz, high_hz, floor):
    """Frame by frame with the FFT; triangles drawn by interpolation between their corners."""
    mels = [2595 * np.log10(1 + f / 700) for f in (low_hz, high_hz)]
    corners = 700 * (10 ** (np.linspace(*mels, bands + 2) / 2595) - 1)
    bins = np.arange(frame // 2 + 1) * rate / frame
    bank = np.stack(
        [np.interp(bins, corners[at : at + 3], [0, 1, 0], left=0, right=0) for at in range(bands)]
    )
    hann = np.hanning(frame + 1)[:-1]
    rows = []
    for stream in sound.astype(np.float64):
        begins = range(0, len(stream) - frame + 1, hop)
        power = [np.abs(np.fft.rfft(stream[at : at + frame] * hann)) ** 2 for at in begins]
        rows.append(np.log(np.stack(power) @ bank.T + floor))
    return np.stack(rows)


def softmax(array, axis):
    lifted = np.exp(array - array.max(axis, keepdims=True))
    return lifted / lifted.sum(axis, keepdims=True)


def threshold(array, minimum, axis):
    found = array.argmax(axis)
    wanted = np.asarray(minimum, np.float32)
    wanted = wanted[found] if wanted.ndim else wanted
    return np.where(array.max(axis) >= wanted, found, -1)
