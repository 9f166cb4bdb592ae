"""Vectors of eight 64-bit words as values in compiled code: 512 items, a bit each, at once.

LLVM makes vectors of a loop over arrays by itself, but not of a loop that has a loop inside, which `_kernel` needs; so
they are spelled out. On processors without such registers LLVM splits them up. The functions below are called from
compiled code only, with arrays of uint64 that have one dimension and steps of one word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array

WORDS = 8
_IR = ir.VectorType(ir.IntType(64), WORDS)

# llvmlite, and numba's way to extend itself, have no types.
Untyped = Any
Generated = tuple[Untyped, Callable[..., Untyped]]
Vector = Any  # what the functions below take and give in compiled code
_array_struct: Untyped = make_array


class _Vector(types.Type):
    pass


_VECTOR: Untyped = _Vector(f"uint64x{WORDS}")
_primitive: Untyped = models.PrimitiveModel
_register: Untyped = register_model(_Vector)
_register(lambda manager, vector: _primitive(manager, vector, _IR))


def _binary(build: Callable[[Untyped, Untyped, Untyped], Untyped]) -> Untyped:
    """A function of two vectors."""

    def typed(context: object, left: object, right: object) -> Generated:
        def generate(context: object, builder: Untyped, signature: object, arguments: Untyped) -> Untyped:
            return build(builder, *arguments)

        return _VECTOR(_VECTOR, _VECTOR), generate

    return intrinsic(typed)


both = _binary(lambda builder, left, right: builder.and_(left, right))
either = _binary(lambda builder, left, right: builder.or_(left, right))
differ = _binary(lambda builder, left, right: builder.xor(left, right))
without = _binary(lambda builder, left, right: builder.and_(left, builder.not_(right)))
plus = _binary(lambda builder, left, right: builder.add(left, right))


def _intrinsic(builder: Untyped, name: str, result: Untyped, argument: Untyped) -> Untyped:
    function = builder.module.declare_intrinsic(f"llvm.{name}.v{WORDS}i64", (), ir.FunctionType(result, [_IR]))
    return builder.call(function, [argument])


def _ones_of(context: object, vector: object) -> Generated:
    """How many bits of each word are 1."""

    def generate(context: object, builder: Untyped, signature: object, arguments: Untyped) -> Untyped:
        return _intrinsic(builder, "ctpop", _IR, arguments[0])

    return _VECTOR(_VECTOR), generate


def _ones_of_word(context: object, word: object) -> Generated:
    """The number of 1 bits in a word, by the processor's own instruction."""

    def generate(context: object, builder: Untyped, signature: object, arguments: Untyped) -> Untyped:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def _total_of(context: object, vector: object) -> Generated:
    """The sum of the words."""

    def generate(context: object, builder: Untyped, signature: object, arguments: Untyped) -> Untyped:
        return _intrinsic(builder, "vector.reduce.add", ir.IntType(64), arguments[0])

    return types.int64(_VECTOR), generate


def _union_of(context: object, vector: object) -> Generated:
    """The words, combined by OR."""

    def generate(context: object, builder: Untyped, signature: object, arguments: Untyped) -> Untyped:
        return _intrinsic(builder, "vector.reduce.or", ir.IntType(64), arguments[0])

    return types.uint64(_VECTOR), generate


def _repeated(context: object, word: object) -> Generated:
    """A vector of equal words."""

    def generate(context: object, builder: Untyped, signature: object, arguments: Untyped) -> Untyped:
        lane = ir.IntType(32)
        first = builder.insert_element(ir.Constant(_IR, ir.Undefined), arguments[0], ir.Constant(lane, 0))
        places = ir.Constant(ir.VectorType(lane, WORDS), [0] * WORDS)
        return builder.shuffle_vector(first, ir.Constant(_IR, ir.Undefined), places)

    return _VECTOR(types.uint64), generate


def _place(context: Untyped, builder: Untyped, signature: Untyped, arguments: Untyped) -> Untyped:
    data = _array_struct(signature.args[0])(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), _IR.as_pointer())


def _loaded(context: object, array: Untyped, index: object) -> Generated:
    """The words of an array from `index` on, unchecked."""

    def generate(context: object, builder: Untyped, signature: Untyped, arguments: Untyped) -> Untyped:
        vector = builder.load(_place(context, builder, signature, arguments))
        vector.align = 8  # NumPy promises no more
        return vector

    return _VECTOR(array, types.intp), generate


def _stored(context: object, array: Untyped, index: object, vector: object) -> Generated:
    """A vector put into an array from `index` on, unchecked."""

    def generate(context: Untyped, builder: Untyped, signature: Untyped, arguments: Untyped) -> Untyped:
        builder.store(arguments[2], _place(context, builder, signature, arguments)).align = 8
        return context.get_dummy_value()

    return types.none(array, types.intp, _VECTOR), generate


def _word_of(context: object, array: Untyped, index: object) -> Generated:
    """Eight bytes of an array of uint8 from `index` on, wherever that is, as a word; unchecked."""

    def generate(context: Untyped, builder: Untyped, signature: Untyped, arguments: Untyped) -> Untyped:
        data = _array_struct(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        word = builder.load(place)
        word.align = 1
        return word

    return types.uint64(array, types.intp), generate


# Called from compiled code, without the context; numba's own type hints describe only the functions above.
ones: Untyped = intrinsic(_ones_of)
ones_of_word: Untyped = intrinsic(_ones_of_word)
total: Untyped = intrinsic(_total_of)
union: Untyped = intrinsic(_union_of)
repeat: Untyped = intrinsic(_repeated)
load: Untyped = intrinsic(_loaded)
store: Untyped = intrinsic(_stored)
word_at: Untyped = intrinsic(_word_of)
