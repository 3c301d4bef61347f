"""What the kernels of ``winograd_kernels.py`` do with sixteen channels at a time, as instructions for LLVM.

Loops over channels did not become vector instructions reliably: the compiler cannot see that what is written does not
lie where the next is read. Arrays are contiguous float32, and places in them are counted in floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Channels that are worked on together."""
# Rows of a product that are made together: as many sums of sixteen channels as the registers hold.
ROWS = 12 if binding.get_host_cpu_features().get("avx512f") else 6

_Matrix = tuple[tuple[int, ...], ...]
_AT: _Matrix = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_A: _Matrix = tuple(zip(*_AT, strict=True))
_BT: _Matrix = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)


def _instructions(function: Callable[..., Any]) -> Any:
    """A function that compiled code calls without its first argument: it says by which instructions."""
    return intrinsic(function)


_VECTOR = ir.VectorType(ir.FloatType(), LANES)
# Contraction to fused multiply-add depends neither on timing nor on threads.
_CONTRACT = ("contract",)


def _place(context: Any, builder: Any, kind: Any, array: Any, start: Any) -> Any:
    """Pointer to sixteen floats of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer())


def _prefetch(builder: Any, pointer: Any) -> None:
    """Have what is there, or nothing where there is no memory, brought to the second level of the cache."""
    byte, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
    function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
    to_read, second_level, data = whole(0), whole(2), whole(1)
    builder.call(function, [builder.bitcast(pointer, byte), to_read, second_level, data])


def _multiplication(matrix: _Matrix) -> Any:
    """A function that multiplies vectors by a matrix: ``(source, start, step, to, start, step)``.

    It reads 16 floats at ``start``, at ``start + step`` and so on from one array and writes as many for every row of
    the matrix to the other.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        source, start, step, to, first, stride = arguments

        def offset(begin: Any, width: Any, number: int) -> Any:
            return builder.add(begin, builder.mul(width, ir.Constant(width.type, number)))

        places = [_place(context, builder, kinds[0], source, offset(start, step, i)) for i in range(len(matrix[0]))]
        values = [builder.load(place, align=4) for place in places]
        for number, row in enumerate(matrix):
            total = None
            for factor, value in zip(row, values, strict=True):
                if factor:
                    term = builder.fmul(value, ir.Constant(_VECTOR, [float(factor)] * LANES), flags=_CONTRACT)
                    total = term if total is None else builder.fadd(total, term, flags=_CONTRACT)
            builder.store(total, _place(context, builder, kinds[3], to, offset(first, stride, number)), align=4)
        return context.get_dummy_value()

    @_instructions
    def multiply(_: Any, source: Any, _start: Any, _step: Any, to: Any, _first: Any, _stride: Any) -> Any:
        return types.void(source, types.int64, types.int64, to, types.int64, types.int64), generate

    return multiply


@_instructions
def activate(_: Any, values: Any, _start: Any, bias: Any, slope: Any, _channel: Any) -> Any:
    """Sixteen values at ``start``, in place: the bias is added, then what is negative is multiplied by the slope."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        place = _place(context, builder, kinds[0], arguments[0], arguments[1])
        biases, slopes = (
            builder.load(_place(context, builder, kinds[i], arguments[i], arguments[4]), align=4) for i in (2, 3)
        )
        value = builder.fadd(builder.load(place, align=4), biases)
        positive = builder.fcmp_ordered(">", value, ir.Constant(_VECTOR, [0.0] * LANES))
        builder.store(builder.select(positive, value, builder.fmul(value, slopes)), place, align=4)
        return context.get_dummy_value()

    return types.void(values, types.int64, bias, slope, types.int64), generate


def _product(*, onto: bool) -> Any:
    """A function for ``ROWS`` x 16 of a product: ``(a, start, row, step, depth, b, first, width, c, to, line)``.

    Element (i, k) of the left matrix is ``a[start + i * row + k * step]``; the sixteen of row k of the right one begin
    at ``b[first + k * width]``, those of row i of the result at ``c[to + i * line]``. The sums stay in registers.

    Args:
        onto: the sums go on from what is in the result already.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        a, start, row, step, depth, b, first, width, c, to, line = arguments
        left = context.make_array(kinds[0])(context, builder, a).data
        nothing, zeros = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
        results = [
            _place(context, builder, kinds[8], c, builder.add(to, builder.mul(line, ir.Constant(line.type, i))))
            for i in range(ROWS)
        ]
        begin = [builder.load(each, align=4) if onto else ir.Constant(_VECTOR, [0.0] * LANES) for each in results]
        sums = [cgutils.alloca_once_value(builder, value) for value in begin]  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, depth) as loop:
            place = _place(context, builder, kinds[5], b, builder.add(first, builder.mul(loop.index, width)))
            right = builder.load(place, align=4)
            column = builder.add(start, builder.mul(loop.index, step))
            if not onto:  # the next rows, which wide pictures have in a farther cache: 10 % faster there
                ahead = builder.add(start, builder.mul(builder.add(row, loop.index), ir.Constant(row.type, ROWS)))
                _prefetch(builder, builder.gep(left, [ahead]))
            for i, total in enumerate(sums):
                offset = builder.add(column, builder.mul(row, ir.Constant(row.type, i)))
                value = builder.load(builder.gep(left, [offset]))
                value = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
                term = builder.fmul(builder.shuffle_vector(value, nothing, zeros), right, flags=_CONTRACT)
                builder.store(builder.fadd(builder.load(total), term, flags=_CONTRACT), total)
        for total, result in zip(sums, results, strict=True):
            builder.store(builder.load(total), result, align=4)
        return context.get_dummy_value()

    @_instructions
    def multiply(
        _: Any,
        a: Any,
        _start: Any,
        _row: Any,
        _step: Any,
        _depth: Any,
        b: Any,
        _first: Any,
        _width: Any,
        c: Any,
        _to: Any,
        _line: Any,
    ) -> Any:
        whole = types.int64
        return types.void(a, whole, whole, whole, whole, b, whole, whole, c, whole, whole), generate

    return multiply


@_instructions
def add(_: Any, values: Any, _start: Any, _factor: Any, base: Any, _first: Any) -> Any:
    """Sixteen values at ``start``, in place: multiplied by the factor and added to those of ``base``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        place = _place(context, builder, kinds[0], arguments[0], arguments[1])
        before = builder.load(_place(context, builder, kinds[3], arguments[3], arguments[4]), align=4)
        factors = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(LANES):
            factors = builder.insert_element(factors, arguments[2], ir.Constant(ir.IntType(32), lane))
        term = builder.fmul(builder.load(place, align=4), factors, flags=_CONTRACT)
        builder.store(builder.fadd(before, term, flags=_CONTRACT), place, align=4)
        return context.get_dummy_value()

    return types.void(values, types.int64, types.float32, base, types.int64), generate


to_inputs = _multiplication(_BT)
to_results = _multiplication(_AT)
to_gradients = _multiplication(_A)
copy = _multiplication(((1,),))
multiply = _product(onto=False)
multiply_onto = _product(onto=True)
