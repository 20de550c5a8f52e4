"""One training step: loss, gradient, update.

In: `State` and a batch. Out: the new state and metrics. The step is a pure
function of pytrees, jitted once. What is *not* here: the loop, checkpoints.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int
import optax

from restem_jax import partitioning
from restem_jax.models.transformer import Model, Params
from restem_jax.training import losses
from restem_jax.training.lora import Lora


class State(NamedTuple):
  """What training changes. Parameters are f32 master weights."""

  step: Int[Array, '']
  params: Params  # with LoRA its adapters only
  opt_state: Any
  # With LoRA the base weights, in any dtype: they pass through a step, as
  # donated buffers, unchanged.
  frozen: Params | None = None


TrainStep = Callable[
  [State, Mapping[str, Array]], tuple[State, dict[str, Array]]
]


def init_state(
  model: Model,
  optimizer: optax.GradientTransformation,
  params: Params,
  mesh: Mesh | None = None,
  lora: Lora | None = None,
  frozen: Params | None = None,
) -> State:
  """A fresh state; the optimizer's state is born with its params' shardings.

  `params` and `frozen` are not copied: donate or drop them. With `lora`,
  `params` are its adapters and `frozen` the base weights.
  """
  assert (lora is None) == (frozen is None)
  if mesh is None:
    opt_state = jax.jit(optimizer.init)(params)
    return State(jnp.zeros((), jnp.int32), params, opt_state, frozen)
  shardings = state_shardings(model, optimizer, mesh, lora)
  opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
  # Not device_put, which makes sure that all hosts give the same value.
  zero = jax.jit(lambda: jnp.int32(0), out_shardings=shardings.step)
  return State(zero(), params, opt_state, frozen)


def state_shardings(
  model: Model,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  lora: Lora | None = None,
) -> State:
  """The sharding of every leaf of the state, by the logical axis rules."""
  params = partitioning.shardings(mesh, model.logical_axes())
  trained, frozen = model.abstract_params(), None
  if lora is not None:
    frozen, trained = params, lora.abstract(model)
    params = partitioning.shardings(mesh, lora.logical_axes(model))
  replicated = NamedSharding(mesh, PartitionSpec())
  abstract = jax.eval_shape(optimizer.init, trained)

  def like(leaf, param, sharding):
    if leaf.shape == param.shape:
      return sharding
    # A factored second moment (adafactor) is a mean over one dimension. Of two
    # of the same size either may be taken: their mesh axes divide both.
    for dim in range(len(param.shape)):
      if leaf.shape == param.shape[:dim] + param.shape[dim + 1 :]:
        spec = (*sharding.spec[:dim], *sharding.spec[dim + 1 :])
        return NamedSharding(mesh, PartitionSpec(*spec))
    return replicated  # one number that stands for none

  opt_state = optax.tree_utils.tree_map_params(
    optimizer,
    like,
    abstract,
    trained,
    params,
    transform_non_params=lambda _: replicated,
  )
  return State(replicated, params, opt_state, frozen)  # pyright: ignore


def make_train_step(
  model: Model,
  optimizer: optax.GradientTransformation,
  *,
  num_microbatches: int = 1,
  remat: str = 'none',
  implementation: str = 'xla',
  loss_chunk: int = 256,
  scan_layers: bool = True,
  mesh: Mesh | None = None,
  lora: Lora | None = None,
  compiler_options: Mapping[str, str] | None = None,
) -> TrainStep:
  """Builds the jitted step; the state is donated.

  With a mesh, activations are constrained by the rules, and the new state
  lies where the old one did, so that the step compiles once.

  The gradient is that of the weighted mean over the *whole* batch, whatever
  the number of microbatches: sums of loss and weight are accumulated in f32
  by a scan and divided once.

  With `lora` only its adapters have gradients and optimizer state.

  Metrics, all f32 scalars: `loss` (weighted mean, nats), `weight` (sum of
  token weights), `grad_norm` (before clipping).
  """

  def loss_fn(params, frozen, batch):
    if lora is not None:
      params = lora.attached(frozen, params)
    return losses.weighted_nll(
      model,
      params,
      batch,
      remat=remat,
      implementation=implementation,
      scan_layers=scan_layers,
      chunk_size=loss_chunk,
    )

  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def accumulate(params, frozen, batch):
    if num_microbatches == 1:
      return grad_fn(params, frozen, batch)

    def split(x):
      # Row i goes to microbatch i % num_microbatches: on a mesh, each device
      # then splits its own rows.
      x = x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1)
      return partitioning.constrain(x, (None, 'batch', 'length'))

    micro = jax.tree.map(split, batch)
    zeros = jax.tree.map(jnp.zeros_like, params)
    init = ((jnp.float32(0), jnp.float32(0)), zeros)

    def add(total, batch):
      new = grad_fn(params, frozen, batch)
      return jax.tree.map(jnp.add, total, new), None

    return jax.lax.scan(add, init, micro)[0]

  def step(state: State, batch):
    (total, weight), grads = accumulate(state.params, state.frozen, batch)
    weight_or_one = jnp.where(weight > 0, weight, 1.0)
    grads = jax.tree.map(lambda g: g / weight_or_one, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {
      'loss': total / weight_or_one,
      'weight': weight,
      'grad_norm': optax.tree.norm(grads),
    }
    params = optax.apply_updates(state.params, updates)
    state = State(state.step + 1, params, opt_state, state.frozen)
    return state, metrics

  if mesh is None:
    return jax.jit(
      step, donate_argnums=0, compiler_options=_options(compiler_options)
    )
  shardings = state_shardings(model, optimizer, mesh, lora)
  jitted = jax.jit(
    step,
    donate_argnums=0,
    compiler_options=_options(compiler_options),
    out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
  )
  return _OnMesh(jitted, mesh)


class _OnMesh(NamedTuple):
  """A jitted function whose context is a mesh."""

  jitted: Any
  mesh: Mesh

  def __call__(self, *args: Any) -> Any:
    with jax.set_mesh(self.mesh):
      return self.jitted(*args)

  def lower(self, *args: Any) -> jax.stages.Lowered:
    with jax.set_mesh(self.mesh):
      return self.jitted.lower(*args)


def _options(options: Mapping[str, str] | None) -> dict[str, Any] | None:
  return dict(options) if options else None
