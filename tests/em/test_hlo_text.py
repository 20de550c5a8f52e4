"""Types, operations and loops, as they are written."""

from restem_jax.em import hlo_text


def test_types():
  kind = '(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, f32[], /*index=2*/pred[5]{0})'
  assert list(hlo_text.arrays(kind)) == [
    (12, (2, 3), False),
    (4, (), True),
    (5, (5,), True),
  ]
  assert hlo_text.size_of(kind) == 21
  assert hlo_text.size_of(kind, memory_only=True) == 9
  assert hlo_text.size_of('s4[6]{0}') == 3


MODULE = """\
HloModule jit_f

%inner (x: s32[]) -> s32[] {
  %x = s32[] parameter(0)
  %three = s32[] constant(3)
  ROOT %sum = s32[] add(%x, %three)
}

%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %p = (s32[], f32[2]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %v = f32[2]{0} get-tuple-element(%p), index=1
  %j = s32[] fusion(%i), kind=kLoop, calls=%inner
  ROOT %t = (s32[], f32[2]{0}) tuple(%j, /*index=1*/%v)
}

%condition (q: (s32[], f32[2])) -> pred[] {
  %q = (s32[], f32[2]{0}) parameter(0)
  %k = s32[] get-tuple-element(%q), index=0
  %end = s32[] constant(10)
  ROOT %less = pred[] compare(%k, %end), direction=LT
}

ENTRY %main (a: (s32[], f32[2])) -> (s32[], f32[2]) {
  %a = (s32[], f32[2]{0}) parameter(0)
  ROOT %w = (s32[], f32[2]{0}) while(%a), condition=%condition, body=%body
}
"""


def test_a_counter_that_a_fusion_moves():
  module = hlo_text.Module(MODULE)
  assert list(module.computations) == ['inner', 'body', 'condition', 'main']
  loop = module.computations['main']['w']
  assert (loop.code, loop.operands) == ('while', ('a',))
  assert (loop.called('body'), loop.called('to_apply')) == ('body', None)
  assert module.trips(loop) == 4  # 0, 3, 6, 9
  assert module.computations['body']['t'].operands == ('j', 'v')


def test_what_the_compiler_knows_wins():
  known = ', backend_config={"known_trip_count":{"n":"7"}}'
  text = MODULE.replace('body=%body', f'body=%body{known}')
  module = hlo_text.Module(text)
  assert module.trips(module.computations['main']['w']) == 7
