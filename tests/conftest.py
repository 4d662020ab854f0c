"""Every shape written in a signature is checked in every test: jaxtyping's import hook, with beartype."""

import os

from jaxtyping import install_import_hook

if os.environ.get("MASKRCNN_CHECK_SHAPES", "1") != "0":
    install_import_hook("maskrcnn", "beartype.beartype")

import pytest
import torch

# Tests are too small to gain from a second thread, and threads that wait for a busy core cost minutes.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
