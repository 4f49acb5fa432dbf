"""A vector of sixteen numbers, one of each image pair, as a type that Numba's functions compute with.

Numba leaves it to LLVM to find what can be vectorised, and LLVM gives up where arrays may overlap or a loop is short.
With the vector as a type nothing is left to chance: operators and the functions below each become one instruction (two
where the machine's registers hold half as much), in the order in which they are written, and give the same bits
wherever they are used. That matters: a pair of equal images must have exactly the covariance that is the image's
variance, though the two are computed at different times.

Compiled functions see a `Buffer` as a pointer to its first element: to vectors, if it is (n, 16), or to numbers, each
of which stands for all sixteen pairs of a vector. `at` reads both. Python holds the buffers while they run. Arrays as
Numba has them would be counted, reference by reference, in the innermost loops.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import NativeValue, lower_builtin, register_model, typeof_impl, unbox
from numba.np.numpy_support import from_dtype

from kip.kernels.fused.layout import LANES, Buffer


def intrinsic(function: Callable[..., Any]) -> Any:
    """Make Numba call a function for the signature of an operation, and for what writes its instructions."""
    return extending.intrinsic(function)  # Any, because a call in compiled code has one argument less


class LanesType(types.Type):
    """The type of a vector; `element` is the type of its numbers."""

    def __init__(self, element: Any):
        self.element = element
        super().__init__(name=f"Lanes({element})")


class PointerType(types.Type):
    """The type of a pointer to numbers of type `element`, or to vectors of them."""

    def __init__(self, element: Any, vectors: bool):
        self.element, self.vectors = element, vectors
        super().__init__(name=f"Pointer({element}, {vectors})")


@register_model(PointerType)
class _PointerModel(PrimitiveModel):
    def __init__(self, manager: Any, pointer: PointerType):
        super().__init__(manager, pointer, _number(pointer.element).as_pointer())


@typeof_impl.register(Buffer)
def _type_of_buffer(buffer: Buffer, context: Any) -> PointerType:
    return PointerType(from_dtype(buffer.array.dtype), buffer.array.ndim == 2)


@unbox(PointerType)
def _address_of_buffer(kind: PointerType, buffer: Any, c: Any) -> NativeValue:
    address = c.pyapi.object_getattr_string(buffer, "address")
    value = c.builder.inttoptr(c.pyapi.long_as_longlong(address), c.context.get_value_type(kind))
    c.pyapi.decref(address)
    return NativeValue(value)


def _number(element: Any) -> Any:
    return ir.FloatType() if element == types.float32 else ir.DoubleType()


@register_model(LanesType)
class _LanesModel(PrimitiveModel):
    def __init__(self, manager: Any, lanes: LanesType):
        super().__init__(manager, lanes, ir.VectorType(_number(lanes.element), LANES))


def _signature(result: Any, *arguments: Any) -> Any:
    """Return the signature of an operation on vectors: numbers among its arguments take the type of the elements."""
    lanes = next(a for a in arguments if isinstance(a, LanesType))
    return (result or lanes)(*(a if isinstance(a, LanesType) else lanes.element for a in arguments))


def _splat(builder: Any, number: Any) -> Any:
    vector = ir.VectorType(number.type, LANES)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _vectors(builder: Any, signature: Any, values: Any) -> list[Any]:
    return [
        value if isinstance(kind, LanesType) else _splat(builder, value)
        for kind, value in zip(signature.args, values, strict=True)
    ]


def _address(builder: Any, signature: Any, values: Any) -> Any:
    """Return the address of element `values[1]` of the pointer `values[0]`."""
    index = values[1]
    if not signature.args[0].vectors:
        return builder.gep(values[0], [index])
    vector = ir.VectorType(_number(signature.args[0].element), LANES).as_pointer()
    return builder.bitcast(builder.gep(values[0], [builder.mul(index, index.type(LANES))]), vector)


@intrinsic
def at(typing: Any, array: Any, index: Any) -> Any:
    """Return vector `index`, or number `index` in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = builder.load(_address(builder, signature, values), align=array.element.bitwidth // 8)
        return value if array.vectors else _splat(builder, value)

    return LanesType(array.element)(array, types.intp), generate


@intrinsic
def put(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write vector (or number) `index`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _address(builder, signature, values), align=array.element.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, LanesType(array.element) if array.vectors else array.element), generate


@intrinsic
def zeros(typing: Any, array: Any) -> Any:
    """Return a vector of zeros, of the type of what a pointer points to."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(context.get_value_type(signature.return_type), None)

    return LanesType(array.element)(array), generate


def _operator(symbol: Any, instruction: str) -> None:
    """Define an operator of vectors, or of a vector and a number, as an instruction."""
    register: Any = infer_global(symbol)

    @register
    class Operator(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return _signature(None, *args) if any(isinstance(a, LanesType) for a in args) else None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return getattr(builder, instruction)(*_vectors(builder, signature, values))

    kinds = (LanesType, types.Float)
    for pair in ((LanesType,),) if symbol is operator.neg else ((a, b) for a in kinds for b in kinds):
        if LanesType in pair:
            lower_builtin(symbol, *pair)(lower)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
    (operator.neg, "fneg"),
):
    _operator(_symbol, _instruction)


def _call(builder: Any, name: str, values: list[Any]) -> Any:
    """Call an LLVM function on vectors, such as llvm.sqrt.v8f32."""
    vector = values[0].type
    width = 32 if vector.element == ir.FloatType() else 64
    kind = ir.FunctionType(vector, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f{width}"), values)


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once on machines that have the instruction."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _call(builder, "fmuladd", _vectors(builder, signature, values))

    return _signature(None, a, b, c), generate


@intrinsic
def sqrt(typing: Any, a: Any) -> Any:
    """Return the square root."""
    return a(a), lambda context, builder, signature, values: _call(builder, "sqrt", list(values))


@intrinsic
def below(typing: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """Return `yes` where a < b, else `no`; also where a or b is NaN."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, b, yes, no = _vectors(builder, signature, values)
        return builder.select(builder.fcmp_ordered("<", a, b), yes, no)

    return _signature(None, a, b, yes, no), generate


@intrinsic
def lane(typing: Any, vector: Any, index: Any) -> Any:
    """Return one number of a vector."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.extract_element(values[0], builder.trunc(values[1], ir.IntType(32)))

    return vector.element(vector, types.intp), generate


@intrinsic
def with_lane(typing: Any, vector: Any, index: Any, number: Any) -> Any:
    """Return a vector with one of its numbers replaced."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.insert_element(values[0], values[2], builder.trunc(values[1], ir.IntType(32)))

    return vector(vector, types.intp, vector.element), generate
