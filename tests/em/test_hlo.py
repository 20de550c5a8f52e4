"""Costs from a program's text: by hand, and against XLA's own count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restem_jax.em import hlo

N = 16
MATMUL = 2 * N**3
SQUARE = jax.ShapeDtypeStruct((N, N), jnp.float32)


def flops(fn, *args):
  cost = hlo.cost(jax.jit(fn).lower(*args).as_text('hlo'))
  assert cost.unknown_loops == 0
  return cost.flops


def scanned(x, times):
  return jax.lax.scan(lambda x, _: (x @ x, None), x, length=times)[0]


def test_a_scanned_body_counts_as_often_as_it_runs():
  lowered = jax.jit(lambda x: scanned(x, 8)).lower(SQUARE)
  assert hlo.cost(lowered.as_text('hlo')).flops == 8 * MATMUL
  # What this module is for: XLA's own count has the body once.
  counted = lowered.compile().cost_analysis()
  assert counted['flops'] < 2 * MATMUL


def test_scans_in_scans():
  def twice(x, _):
    return scanned(x @ x, 5), None

  outer = lambda x: jax.lax.scan(twice, x, length=3)[0]
  assert flops(outer, SQUARE) == 3 * 6 * MATMUL


def test_a_loop_that_may_end_early_counts_in_full():
  def loop(x):
    return jax.lax.while_loop(
      lambda c: (c[0] < 7) & (c[1] > 0).any(),
      lambda c: (c[0] + 1, c[1] @ c[1]),
      (0, x),
    )

  assert flops(loop, SQUARE) == 7 * MATMUL


def test_a_loop_without_a_bound_is_told():
  loop = lambda x: jax.lax.while_loop(
    lambda x: (x > 0).any(), lambda x: x @ x, x
  )
  cost = hlo.cost(jax.jit(loop).lower(SQUARE).as_text('hlo'))
  assert (cost.unknown_loops, cost.flops) == (1, MATMUL)


def test_a_conditional_counts_as_its_dearest_branch():
  def either(flag, x):
    return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, x)

  flag = jax.ShapeDtypeStruct((), jnp.bool_)
  assert flops(either, flag, SQUARE) == 2 * MATMUL


def test_batched_matmuls():
  a = jax.ShapeDtypeStruct((3, 5, 7), jnp.float32)
  b = jax.ShapeDtypeStruct((3, 7, 11), jnp.float32)
  assert flops(jnp.matmul, a, b) == 2 * 3 * 5 * 7 * 11


@pytest.mark.parametrize(
  'options',
  [
    {'window_strides': (1, 1), 'padding': 'VALID'},
    {'window_strides': (2, 1), 'padding': 'SAME'},
    {'window_strides': (1, 1), 'padding': ((7, 7), (0, 0))},
    {
      'window_strides': (1, 1),
      'padding': ((2, 1), (0, 3)),
      'lhs_dilation': (3, 2),
    },
    {'window_strides': (1, 2), 'padding': 'VALID', 'rhs_dilation': (2, 1)},
  ],
)
def test_convolutions_as_xla_counts_them(options):
  """On TPUs every matmul is one, with windows of all these kinds."""
  image = jax.ShapeDtypeStruct((2, 4, 9, 8), jnp.float32)
  kernel = jax.ShapeDtypeStruct((6, 4, 3, 2), jnp.float32)
  fn = lambda x, k: jax.lax.conv_general_dilated(x, k, **options)
  lowered = jax.jit(fn).lower(image, kernel)
  counted = lowered.cost_analysis()['flops']
  np.testing.assert_allclose(hlo.cost(lowered.as_text('hlo')).flops, counted)


# As the TPU's compiler writes it: tiled layouts, S(1) for the memory on the
# chip, cycles per operation, a ring unrolled twice (its counter goes by 2).
TPU = """\
HloModule jit_step, is_scheduled=true

%fused (param_0.1: bf16[8,64,64], param_1.1: s32[]) -> bf16[64,64] {
  %param_0.1 = bf16[8,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_0.1, %param_1.1, %zero, /*index=3*/%zero), dynamic_slice_sizes={1,64,64}
  ROOT %bitcast.1 = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} bitcast(%slice)
}

%body (p: (s32[], bf16[8,64,64], bf16[64,64])) -> (s32[], bf16[8,64,64], bf16[64,64]) {
  %p = (s32[]{:T(128)}, bf16[8,64,64]{2,1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %w = bf16[8,64,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %x = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=2
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %layer = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"100"}}
  %sent = (bf16[64,64]{1,0:T(8,128)(2,1)S(1)}, bf16[64,64]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%layer), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %y = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} convolution(%x, %layer), dim_labels=bf_io->bf, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %got = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} collective-permute-done(%sent)
  ROOT %out = (s32[]{:T(128)}, bf16[8,64,64]{2,1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)S(1)}) tuple(%next, %w, %y)
}

%condition (q: (s32[], bf16[8,64,64], bf16[64,64])) -> pred[] {
  %q = (s32[]{:T(128)}, bf16[8,64,64]{2,1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%q), index=0
  %end = s32[]{:T(128)} constant(8)
  ROOT %lt = pred[]{:T(512)} compare(%at, %end), direction=LT
}

ENTRY %main (a: bf16[8,64,64], b: bf16[64,64]) -> bf16[64,64] {
  %a = bf16[8,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %in = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} copy(%b)
  %all = bf16[64,64]{1,0:T(8,128)(2,1)} all-reduce(%b), channel_id=2, to_apply=%add
  %t = (s32[]{:T(128)}, bf16[8,64,64]{2,1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)S(1)}) tuple(%start, %a, %in)
  %w2 = (s32[]{:T(128)}, bf16[8,64,64]{2,1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)S(1)}) while(%t), condition=%condition, body=%body
  ROOT %r = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%w2), index=2
}
"""  # fmt: skip


def test_a_scheduled_program_of_the_tpu():
  cost = hlo.cost(TPU)
  matrix, trips = 2 * 64 * 64, 4
  assert cost.flops == trips * 2 * 64**3
  assert cost.cycles == trips * 1100
  # A permute per trip runs beside the matmul; the sum over all is waited for.
  assert cost.async_wire_bytes == trips * matrix
  assert cost.sync_wire_bytes == 2 * matrix
  # Of the stacked weights a trip reads one layer; the rest is on the chip.
  # The copy reads main memory and writes the chip's.
  assert cost.uncosted_bytes - matrix < 4 * trips * 8  # counters
  np.testing.assert_allclose(cost.bytes, (trips + 1) * matrix, atol=trips * 48)


SCATTER = """HloModule gradients, is_scheduled=true

%all-reduce-scatter.clone.1 (input.2: bf16[64,64]) -> bf16[4,64] {
  %input.2 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.5 = bf16[64,64]{1,0:T(8,128)(2,1)} all-reduce(%input.2), channel_id=3, replica_groups={{0,1}}, to_apply=%add
  %at = u32[] constant(0)
  ROOT %slice = bf16[4,64]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.5, %at, %at), dynamic_slice_sizes={4,64}
}

ENTRY %main (g: bf16[64,64]) -> bf16[4,64] {
  %g = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %fusion.32 = bf16[4,64]{1,0:T(8,128)(2,1)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.clone.1
}
"""  # fmt: skip


def test_a_fused_reduce_scatter_is_waited_for():
  """It was no wire at all: a program that had it looked free of it."""
  cost = hlo.cost(SCATTER)
  # Each device sends all but the slice that it keeps, not twice all.
  assert cost.sync_wire_bytes == 2 * (64 - 4) * 64
  assert cost.async_wire_bytes == 0


KERNELS = """HloModule attention

ENTRY %main (n: s32[6,2,2], q: bf16[6,1024,128], k: bf16[2,1024,128], mask: s32[4,512,512]) -> bf16[6,1024,128] {
  %n = s32[6,2,2]{2,1,0} parameter(0)
  %q = bf16[6,1024,128]{2,1,0} parameter(1)
  %k = bf16[2,1024,128]{2,1,0} parameter(2)
  %mask = s32[4,512,512]{2,1,0} parameter(3)
  %other = bf16[6,1024,128]{2,1,0} custom-call(%q), custom_call_target="tpu_custom_call"
  %splash_mha_fwd_residuals.1 = (f32[512,128]{1,0}, bf16[6,1024,128]{2,1,0}) custom-call(%n, %n, %n, %q, %k, /*index=5*/%k, %mask), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={

}}, metadata={op_name="jit(f)/pallas_call"}, backend_config={"window_config":{"estimated_cycles":"2200"}}
  %out = bf16[6,1024,128]{2,1,0} get-tuple-element(%splash_mha_fwd_residuals.1), index=1
  ROOT %splash_mha_dkv_no_residuals.2 = bf16[6,1024,128]{2,1,0} custom-call(%n, %n, %n, %q, %k, /*index=5*/%k, %mask), custom_call_target="tpu_custom_call"
}
"""  # fmt: skip


def test_attention_kernels_count_the_blocks_below_the_diagonal():
  cost = hlo.cost(KERNELS, {128: {'fwd': 0.5, 'dkv': 0.25}})
  # Of 2 x 2 blocks, 3; two matmuls forward, four for keys and values.
  matmul = 2 * 6 * 1024**2 * 3 / 4 * 128
  assert cost.flops == 6 * matmul
  assert cost.kernel_flops == 2 * matmul / 0.5 + 4 * matmul / 0.25
  assert cost.cycles == 0  # what the text says of kernels is of their copies


@pytest.mark.parametrize(
  ('head_dim', 'share'), [(64, 0.2), (80, 0.25), (128, 0.4), (512, 0.4)]
)
def test_a_kernel_takes_as_long_for_small_heads(head_dim, share):
  """A matrix unit has 128 rows and columns; a half of them does nothing."""
  measured = {64: {'fwd': 0.2, 'dkv': 0.2}, 128: {'fwd': 0.4, 'dkv': 0.4}}
  cost = hlo.cost(KERNELS.replace('128]', f'{head_dim}]'), measured)
  assert cost.kernel_flops == pytest.approx(cost.flops / share)


def test_what_is_no_program_is_refused():
  with pytest.raises(AssertionError, match='no HLO module'):
    hlo.cost('module @jit_step {}')
