"""The codec that knows tensors.

The target is cut into pieces, in its order: tensors that are unchanged and bytes between tensors
that follow in the base as well are copied; changed tensors are predicted; the rest, the graph of a
changed file, is collected, compressed against the base, and held by the device until its place
comes. Held as well are scales from which other tensors are predicted::

    int8 codes     base's code times (base's scale / target's scale)
    int32 biases   the same, with their own scales
    bias scales    weights' scales times the input's scale, exactly
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from edgectl_delta.elements import correction, multiplier_of, predict, residuals, row_numbers
from edgectl_delta.frames import pack
from edgectl_protocol.deltas import (
    BLOCK_ELEMENTS_MAX,
    DICTIONARY_BYTES_MAX,
    HELD_BYTES_MAX,
    INSTRUCTIONS_MAX,
    ITEM_BYTES,
    Block,
    Copy,
    Destination,
    Elements,
    Frame,
    Held,
    Kind,
    Predictor,
    Tables,
)
from edgectl_server.deltas.blocks import Draft, Span, count_symbols
from edgectl_server.deltas.clustering import make_tables
from edgectl_server.deltas.factors import Factors
from edgectl_server.deltas.matching import match_tensors, values
from edgectl_server.deltas.onnx_tensors import onnx_tensors
from edgectl_server.deltas.prediction import Effort, Plan, plan_product, plan_tensor, shifts_for
from edgectl_server.deltas.tensors import Tensor
from edgectl_server.deltas.tflite_tensors import SCALE_SUFFIX, tflite_tensors

__all__ = ["encode_tensors"]

_ELEMENTS_MIN = 8
"""A tensor of fewer is left to the rest."""
_SCALE_NAMES = (("", "_scale"), ("_quantized", "_scale"), ("_int8", "_scale"), ("", SCALE_SUFFIX))
"""How the scale of a quantized tensor is called: this suffix replaced by that."""
_HELD_ELEMENTS_MIN = 8
_PRODUCTS_TRIED_MAX = 64
_NO_MULTIPLIERS = np.zeros(0, np.int16)


class _Change:
    """A tensor that is predicted."""

    def __init__(self, before: Tensor, after: Tensor) -> None:
        self.before, self.after = before, after
        self.scale: _Change | None = None
        self.product: tuple[_Change, int] | None = None
        self.plan: Plan | None = None
        self.factors_held = 0
        """Where the factors of its low rank are held, if it has some."""
        self.held: int | None = None
        """Where it is held, if it is."""


def find_tensors(content: bytes) -> list[Tensor]:
    """Return the tensors of a model file, by offset; none if it is of no known format."""
    return tflite_tensors(content) or onnx_tensors(memoryview(content))


def encode_tensors(
    base: bytes, target: bytes, effort: Effort = Effort.ALL
) -> tuple[Tables, list[tuple[Block, bytes]]] | None:
    """Return tables and blocks; None if there are no tensors in both, or it does not fit."""
    befores, afters = find_tensors(base), find_tensors(target)
    if not befores or not afters:
        return None
    coder = _Coder(base, target)
    coder.match(befores, afters)
    coder.plan(effort)
    return coder.blocks()


class _Coder:
    """One pair of files on its way to blocks."""

    def __init__(self, base: bytes, target: bytes) -> None:
        self._base, self._target = memoryview(base), memoryview(target)
        self._pairs: list[tuple[Tensor, Tensor]] = []
        """Tensors of the base and of the target, by offset in the target."""
        self._changes: dict[int, _Change] = {}
        """By offset in the target."""

    def match(self, befores: list[Tensor], afters: list[Tensor]) -> None:
        """Find out which tensors were which, and which have changed."""
        found = match_tensors(self._base, befores, self._target, afters)
        for before, after in zip(found, afters, strict=True):
            if before is None:
                continue
            same = self._before(before) == self._after(after)
            if same or after.size >= _ELEMENTS_MIN:
                self._pairs.append((before, after))
            if not same and after.size >= _ELEMENTS_MIN:
                self._changes[after.offset] = _Change(before, after)

    def plan(self, effort: Effort) -> None:
        """Choose how each changed tensor is predicted."""
        named = {change.after.name: change for change in self._changes.values()}
        self._find_products()
        for change in self._changes.values():
            change.scale = _scale_of(change.after, named)
            ratio = None
            if change.scale is not None:
                scale = change.scale
                ratio = (
                    scale.before,
                    values(self._base, scale.before),
                    values(self._target, scale.after),
                )
            change.plan = plan_tensor(
                self._base, change.before, self._target, change.after, ratio=ratio, effort=effort
            )

    def blocks(self) -> tuple[Tables, list[tuple[Block, bytes]]] | None:
        """Return tables and blocks with their payloads; None if too much would be held."""
        pieces, rest = self._pieces()
        held = self._hold(len(rest))
        if held is None:
            return None
        drafts = self._rest_drafts(rest) + held + list(self._target_drafts(pieces))
        tables = make_tables(count_symbols(drafts))
        return tables, [draft.finish(tables) for draft in drafts]

    def _before(self, tensor: Tensor) -> memoryview:
        return self._base[tensor.offset : tensor.offset + tensor.length]

    def _after(self, tensor: Tensor) -> memoryview:
        return self._target[tensor.offset : tensor.offset + tensor.length]

    def _find_products(self) -> None:
        """Find float vectors that are others times a constant."""
        vectors = [
            change
            for change in self._changes.values()
            if change.after.kind is Kind.F32 and len(change.after.dims) == 1
        ]
        for change in vectors:
            wanted = values(self._target, change.after)
            same = [one for one in vectors if one.after.size == change.after.size]
            for one in same[:_PRODUCTS_TRIED_MAX]:
                if one is change or one.product is not None:
                    continue
                factor = plan_product(values(self._target, one.after), wanted)
                if factor is not None:
                    change.product = (one, factor)
                    break

    def _pieces(self) -> tuple[list[Copy | Held | _Change], bytes]:
        """Return the target as pieces, and the rest, which `Held` pieces refer to."""
        pieces: list[Copy | Held | _Change] = []
        rest = bytearray()
        at = cursor = 0
        end = Tensor("", Kind.U8, len(self._target), 0, ())
        for before, after in [*self._pairs, (None, end)]:
            gap = self._target[at : after.offset]
            if len(gap):
                if self._base[cursor : cursor + len(gap)] == gap:
                    _add_copy(pieces, cursor, len(gap))
                else:
                    pieces.append(Held(len(rest), len(gap)))
                    rest += gap
            if before is None:
                break
            if after.offset in self._changes:
                pieces.append(self._changes[after.offset])
            else:
                _add_copy(pieces, before.offset, before.length)
            cursor = before.offset + before.length
            at = after.offset + after.length
        return pieces, bytes(rest)

    def _rest_drafts(self, rest: bytes) -> list[Draft]:
        """Return the blocks that hold the rest."""
        if not rest:
            return []
        offset, length = 0, len(self._base)
        own = length > DICTIONARY_BYTES_MAX
        drafts: list[Draft] = []
        dictionary = bytes(self._base) if not own else self._gaps(drafts)
        frame = pack(rest, dictionary)
        draft = Draft(Destination.HELD, frames=[frame])
        draft.instructions.append(Frame(offset, 0 if own else length, own, len(frame), len(rest)))
        return [*drafts, draft]

    def _gaps(self, drafts: list[Draft]) -> bytes:
        """Return what lies between the base's tensors, and add the block that makes it."""
        draft = Draft(Destination.DICTIONARY)
        out = bytearray()
        at = 0
        for before in sorted({before for before, _ in self._pairs}, key=lambda one: one.offset):
            length = before.offset - at
            fits = len(out) + length <= DICTIONARY_BYTES_MAX
            if length > 0 and fits and len(draft.instructions) < INSTRUCTIONS_MAX:
                draft.instructions.append(Copy(at, length))
                out += self._base[at : before.offset]
            at = max(at, before.offset + before.length)
        drafts.append(draft)
        return bytes(out)

    def _hold(self, used: int) -> list[Draft] | None:
        """Return the blocks that hold factors and scales; None if it is too much.

        Scales that are made of others come last.
        """
        drafts: list[Draft] = []
        draft = Draft(Destination.HELD)
        for change in self._changes.values():
            assert change.plan is not None
            if change.plan.factors is not None and change.product is None:
                change.factors_held = used
                used += len(change.plan.factors.held())
                draft = _fill(drafts, draft, _factor_spans(change.plan.factors))
        drafts.append(draft)
        wanted = self._wanted()
        for made in (False, True):
            draft = Draft(Destination.HELD)
            for change in wanted:
                if (change.product is not None) is made:
                    change.held = used
                    used += change.after.length
                    draft = _fill(drafts, draft, self._spans(change))
            drafts.append(draft)
        if used > HELD_BYTES_MAX:
            return None
        return [draft for draft in drafts if draft.instructions]

    def _wanted(self) -> list[_Change]:
        """Return the scales from which something else is predicted."""
        wanted: list[_Change] = []

        def want(change: _Change) -> None:
            if change.product is not None:
                want(change.product[0])
            if change not in wanted:
                wanted.append(change)

        for change in self._changes.values():
            assert change.plan is not None
            if change.product is not None:
                want(change.product[0])
            if change.plan.one.predictor is Predictor.RATIO and change.scale is not None:
                want(change.scale)
        return wanted

    def _target_drafts(self, pieces: list[Copy | Held | _Change]) -> Iterator[Draft]:
        draft = Draft()
        for piece in pieces:
            if isinstance(piece, _Change) and piece.held is None:
                for span in self._spans(piece):
                    if not draft.has_room(span.one.size, span.one.rows):
                        yield draft
                        draft = Draft()
                    draft.add(span)
                continue
            if not draft.has_room(0, 0):
                yield draft
                draft = Draft()
            if isinstance(piece, _Change):
                assert piece.held is not None
                draft.instructions.append(Held(piece.held, piece.after.length))
            else:
                draft.instructions.append(piece)
        if draft.instructions:
            yield draft

    def _spans(self, change: _Change) -> Iterator[Span]:
        """Yield the elements of a tensor, in parts that fit into blocks and end with a row."""
        assert change.plan is not None
        one, parameters, _, factors, steps = change.plan
        before = bytes(self._before(change.before))
        multiplier = None
        if change.product is not None:
            source, factor = change.product
            one = Elements(
                one.kind, Predictor.PRODUCT, one.size, inner=one.size, held=source.held or 0,
                factor=factor,
            )  # fmt: skip
            parameters = _NO_MULTIPLIERS
            before = bytes(self._after(source.after))
        elif one.predictor is Predictor.ROWS:
            multiplier = multiplier_of(parameters)
        elif one.predictor is Predictor.RATIO:
            assert change.scale is not None
            assert change.scale.held is not None
            one = one._replace(held=change.scale.held)
            old = values(self._base, change.scale.before).astype(np.float64)
            with np.errstate(all="ignore"):
                multiplier = old / values(self._target, change.scale.after).astype(np.float64)
        added = None
        if factors is not None and one.low_rank is not None:
            added = correction(one, factors.held())
            one = one._replace(low_rank=one.low_rank._replace(held=change.factors_held))
        size = ITEM_BYTES[one.kind]
        actual = np.frombuffer(self._after(change.after), f"<u{size}") if steps is None else steps
        spread = None if multiplier is None else multiplier[row_numbers(one)]
        expected, _ = predict(one, before, spread, added)
        shifts = shifts_for(one, expected, residuals(one.coded, expected, actual))
        for part, first, count, rows in _parts(one):
            chosen = slice(rows.start, rows.stop)
            yield Span.of(
                one=part,
                before=before[size * first : size * (first + count)],
                actual=actual[first : first + count],
                multiplier=None if multiplier is None else multiplier[chosen],
                parameters=parameters[chosen],
                shifts=shifts[chosen],
                added=None if added is None else added[first : first + count],
            )


def _parts(one: Elements) -> Iterator[tuple[Elements, int, int, range]]:
    """Yield parts of at most a block: the elements, the first of them, how many, their rows."""
    if one.size <= BLOCK_ELEMENTS_MAX:
        yield one, 0, one.size, range(one.rows)
        return
    size = ITEM_BYTES[one.kind]
    whole = one.inner * one.rows
    if one.inner >= BLOCK_ELEMENTS_MAX or (whole < one.size and whole > BLOCK_ELEMENTS_MAX):
        step, cut_rows = BLOCK_ELEMENTS_MAX, False
    elif whole == one.size:
        step, cut_rows = BLOCK_ELEMENTS_MAX // one.inner * one.inner, True
    else:
        step, cut_rows = BLOCK_ELEMENTS_MAX // whole * whole, False
    for first in range(0, one.size, step):
        count = min(step, one.size - first)
        rows = range(one.rows)
        part = one._replace(
            size=count,
            offset=one.offset + size * first,
            held=one.held + (size * first if one.predictor is Predictor.PRODUCT else 0),
        )
        if cut_rows:
            rows = range(first // one.inner, (first + count) // one.inner)
            moved = 4 * rows.start if one.predictor is Predictor.RATIO else 0
            part = part._replace(rows=len(rows), scale=part.scale + moved, held=part.held + moved)
            if part.low_rank is not None:
                part = part._replace(low_rank=part.low_rank._replace(first=rows.start))
        elif one.inner * one.rows == one.size or one.rows == 1:
            part = part._replace(inner=count)
        yield part, first, count, rows


def _fill(drafts: list[Draft], draft: Draft, spans: Iterable[Span]) -> Draft:
    """Add spans to a held block, and begin another when it is full; return the last."""
    for span in spans:
        if not draft.has_room(span.one.size, span.one.rows):
            drafts.append(draft)
            draft = Draft(Destination.HELD)
        draft.add(span)
    return draft


def _factor_spans(factors: Factors) -> Iterator[Span]:
    """Yield the integers of a low rank as elements that nothing predicts, in the order held."""
    for numbers in (factors.exponents[None], factors.by_row, factors.by_column):
        rank, count = numbers.shape
        one = Elements(Kind.I16, Predictor.ZERO, numbers.size, inner=count, rows=rank)
        actual = numbers.astype("<i2").view("<u2").ravel()
        found = numbers.astype(np.int64).ravel()
        shifts = shifts_for(one, np.zeros(numbers.size, "<u2"), found)
        for part, first, size, rows in _parts(one):
            chosen = slice(rows.start, rows.stop)
            yield Span.of(
                one=part,
                before=b"",
                actual=actual[first : first + size],
                multiplier=None,
                parameters=_NO_MULTIPLIERS,
                shifts=shifts[chosen],
            )


def _scale_of(tensor: Tensor, named: dict[str, _Change]) -> _Change | None:
    """Return the change of a quantized tensor's scales, if they are several."""
    if tensor.kind not in (Kind.I8, Kind.U8, Kind.I32):
        return None
    for ending, suffix in _SCALE_NAMES:
        if tensor.name.endswith(ending):
            change = named.get(tensor.name.removesuffix(ending) + suffix)
            if change is not None and _may_be_scales(change.after):
                return change
    return None


def _may_be_scales(tensor: Tensor) -> bool:
    return tensor.kind is Kind.F32 and tensor.size >= _HELD_ELEMENTS_MIN


def _add_copy(pieces: list[Copy | Held | _Change], offset: int, length: int) -> None:
    """Add bytes of the base, to the last piece if they follow it there."""
    if pieces:
        last = pieces[-1]
        if isinstance(last, Copy) and last.offset + last.length == offset:
            pieces[-1] = Copy(last.offset, last.length + length)
            return
    pieces.append(Copy(offset, length))
