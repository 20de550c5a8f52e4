import io
import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
import rich
from tensorboardX.proto import event_pb2

from restem_jax import environment, metrics


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_appended(tmp_path):
  folder = tmp_path / 'metrics'
  writer = metrics.Writer(folder, 'improve_01')
  writer.write(1, {'loss': 1.5, 'grad_norm': jnp.float32(0.25)})
  file = folder / 'improve_01.jsonl'
  # At once: a killed run has lost nothing.
  assert [row['step'] for row in rows(file)] == [1]
  writer.write(2, {'loss': np.float32(0.5)})
  writer.close()
  again = metrics.Writer(folder, 'improve_01')
  again.write(2, {'loss': 0.75})
  again.close()
  found = rows(file)
  times = [row.pop('time') for row in found]
  assert times == sorted(times) and times[0] > 1.7e9
  assert found == [
    {'step': 1, 'loss': 1.5, 'grad_norm': 0.25},
    {'step': 2, 'loss': 0.5},
    {'step': 2, 'loss': 0.75},
  ]


def test_a_writer_that_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  writer = metrics.NoWriter()
  writer.write(1, {'loss': 1.5})
  writer.close()
  assert not list(tmp_path.iterdir())


def events(folder):
  """(step, name, value) of the events that TensorBoard would read."""
  for file in sorted(folder.glob('events.out.tfevents.*')):
    data = file.read_bytes()
    while data:
      # u64 length, its checksum, the event, its checksum: tfrecord.
      size = int.from_bytes(data[:8], 'little')
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      for value in event.summary.value:
        yield event.step, value.tag, value.simple_value


def test_tensorboard_gets_the_same(tmp_path):
  writer = metrics.Writer(tmp_path, 'improve_01')
  writer.write(3, {'loss': 1.5, 'validation_reward': 0.25})
  writer.close()
  assert list(events(tmp_path / 'improve_01')) == [
    (3, 'loss', 1.5),
    (3, 'validation_reward', 0.25),
  ]


class Terminal(io.StringIO):
  def isatty(self):
    return True


def terminal(monkeypatch):
  # Not a fixture: pytest sets stderr anew before the test itself.
  err = Terminal()
  monkeypatch.setattr('sys.stderr', err)
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '120')
  # rich's console is global: whoever configured it last must not matter.
  monkeypatch.setattr(rich, '_console', None)
  return err


def test_quiet_without_a_terminal(capfd):
  with metrics.progress('generate', 10) as bar:
    bar.advance(3, note='loss 1.0')
  assert capfd.readouterr() == ('', '')


def test_a_bar_on_a_terminal(monkeypatch):
  err = terminal(monkeypatch)
  out = io.StringIO()
  monkeypatch.setattr('sys.stdout', out)
  with metrics.progress('iteration 1: generate', 10, done=4) as bar:
    bar.advance(3)
    bar.advance(note='loss 1.234')
  shown = err.getvalue()
  assert 'iteration 1: generate' in shown
  assert '8/10' in shown and 'loss 1.234' in shown
  assert out.getvalue() == ''


def test_log_lines_stand_above_the_bar(monkeypatch):
  """Bar and log share a console, so a line does not cut the bar in two."""
  err = terminal(monkeypatch)
  with environment.logging_to_stderr():
    console = rich.get_console()
    with metrics.progress('generate', 2) as bar:
      logging.getLogger('restem_jax').info('a line')
      bar.advance(2)
      # While the bar is shown, its console knows of it.
      assert console._live_stack
  shown = err.getvalue()
  assert 'a line' in shown and '2/2' in shown
  # The line is printed after the bar's own was erased.
  before, _, _ = shown.partition('a line')
  assert '\x1b[2K' in before


def test_a_failure_ends_the_bar(monkeypatch):
  err = terminal(monkeypatch)
  with pytest.raises(RuntimeError), metrics.progress('generate', 2):
    raise RuntimeError
  assert err.getvalue().endswith('\x1b[?25h')  # the cursor is back
