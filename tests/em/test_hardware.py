"""Names of topologies, and what chips are."""

import importlib.util

import jax
import pytest

from restem_jax.em import hardware

LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason="libtpu is missing: pip install 'restem_jax[tpu]'",
)


@pytest.mark.parametrize('name', ['v5e', 'v5e:4', 'v9:4x4', 'v5e:4X4', ''])
def test_a_name_that_is_no_topology(name):
  with pytest.raises(ValueError, match=r"TOPOLOGY='.*'; write 'local', or a"):
    hardware.target(name)


def test_local():
  target = hardware.target('local')
  assert list(target.devices) == jax.devices()
  assert target.chip is None and 'cpu' in target.name
  assert target.host().devices == jax.local_devices()


def test_without_libtpu(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'restem_jax\[tpu\]'"):
    hardware.target('v5e:4x4')


@LIBTPU
@pytest.mark.parametrize(
  ('name', 'num', 'kind', 'host'),
  [
    ('v4:2x2x2', 8, 'TPU v4', 'v4:2x2x1'),
    ('v5e:4x4', 16, 'TPU v5 lite', 'v5e:2x2'),
    ('v5p:2x2x2', 8, 'TPU v5', 'v5p:2x2x1'),
    ('v6e:4x4', 16, 'TPU v6 lite', 'v6e:2x2'),
  ],
)
def test_chips_count_not_cores(name, num, kind, host):
  target = hardware.target(name)
  assert len(target.devices) == num
  assert target.devices[0].device_kind == kind
  assert target.chip is hardware.CHIPS[name.partition(':')[0]]
  assert target.host().topology == host
  assert len(target.host().devices) == 4


@LIBTPU
def test_a_grid_that_is_no_slice():
  with pytest.raises(ValueError, match=r"TOPOLOGY='v5e:3x3': libtpu says"):
    hardware.target('v5e:3x3')


def test_clocks_are_plausible():
  for chip in hardware.CHIPS.values():
    assert chip.clock is None or 0.9e9 < chip.clock < 2e9
