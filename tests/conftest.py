"""Every shape written in a signature is checked in every test: jaxtyping's import hook, with beartype."""

import os
import pkgutil
from importlib.util import find_spec

from jaxtyping import install_import_hook

if os.environ.get("MASKRCNN_CHECK_SHAPES", "1") != "0":
    library = find_spec("maskrcnn")
    assert library is not None
    parts = {f"maskrcnn.{part.name}" for part in pkgutil.iter_modules(library.submodule_search_locations)}
    # Triton compiles the source of its functions: nothing may be wrapped around them.
    install_import_hook(sorted(parts - {"maskrcnn.kernels"}), "beartype.beartype")

import pytest
import torch

# Tests are too small to gain from a second thread, and threads that wait for a busy core cost minutes.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
