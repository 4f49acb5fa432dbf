"""Bytes that compiled programs move: of plain ones by hand, and of loops as often as they turn."""

import jax
import jax.numpy as jnp
import pytest

from helpers.kinds import some
from kip.bench import hlo

COUNT = 1 << 16
BYTES = 4 * COUNT


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return some(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_sum_reads_both_arrays_and_writes_one():
    assert hlo.bytes_moved(compiled(lambda x, y: x + y, (COUNT,), (COUNT,))) == pytest.approx(3 * BYTES, rel=0.01)


def test_a_loop_counts_as_often_as_it_turns():
    def repeated(turns):
        return lambda x: jax.lax.fori_loop(0, turns, lambda _, y: jnp.sin(y), x)

    few, many = (some(hlo.bytes_moved(compiled(repeated(turns), (COUNT,)))) for turns in (10, 110))
    assert many - few == pytest.approx(100 * 2 * BYTES, rel=0.01)


def test_a_loop_that_takes_slices_reads_the_slices_and_not_the_whole():
    def rows(x):
        return jax.lax.map(lambda row: jnp.cumsum(jnp.sin(row)), x)

    moved = some(hlo.bytes_moved(compiled(rows, (64, COUNT // 64))))
    assert 2 * BYTES <= moved <= 8 * BYTES


def test_a_loop_that_ends_by_its_values_has_no_count():
    def halved(x):
        return jax.lax.while_loop(lambda y: y.sum() > 1, lambda y: y / 2, x)

    assert hlo.bytes_moved(compiled(halved, (COUNT,))) is None


def test_a_written_program_of_an_accelerator_is_counted_by_hand():
    """Ten turns, each reading and writing 4 KiB; then an update of 1 KiB of 4, read and written, in place."""
    text = """HloModule jit_f, is_scheduled=true

%fused (p: f32[1024]) -> f32[1024] {
  %p = f32[1024]{0} parameter(0)
  ROOT %sine.1 = f32[1024]{0} sine(%p)
}

%body (s: (s32[], f32[1024])) -> (s32[], f32[1024]) {
  %s = (s32[], f32[1024]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[1024]{0} get-tuple-element(%s), index=1
  %fusion.1 = f32[1024]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %out = (s32[], f32[1024]{0}) tuple(%i, %fusion.1)
}

%condition (s: (s32[], f32[1024])) -> pred[] {
  %s = (s32[], f32[1024]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %most = s32[] constant(10)
  ROOT %less = pred[] compare(%i, %most), direction=LT
}

%in_place (whole: f32[1024], part: f32[256], at: s32[]) -> f32[1024] {
  %whole = f32[1024]{0} parameter(0)
  %part = f32[256]{0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %dus = f32[1024]{0} dynamic-update-slice(%whole, %part, %at)
}

ENTRY %main (a: (s32[], f32[1024]), b: f32[256], at: s32[]) -> f32[1024] {
  %a = (s32[], f32[1024]{0}) parameter(0)
  %b = f32[256]{0} parameter(1)
  %at = s32[] parameter(2)
  %loop = (s32[], f32[1024]{0}) while(%a), condition=%condition, body=%body NOTE
  %x = f32[1024]{0} get-tuple-element(%loop), index=1
  ROOT %fusion.2 = f32[1024]{0} fusion(%x, %b, %at), kind=kLoop, calls=%in_place
}
"""
    noted = text.replace(" NOTE", ', backend_config={"known_trip_count":{"n":"10"}}')
    expected = 10 * (4096 + 4096) + 1024 + 4 + 1024
    assert hlo.bytes_moved(noted) == expected
    assert hlo.bytes_moved(text.replace(" NOTE", "")) == expected
