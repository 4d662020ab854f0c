import signal

import pytest

from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.training import log
from trainings import run, tiny


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setattr(log, "_board", lambda _output: None)


@pytest.fixture(autouse=True)
def _hang_up():
    """Signals have their default effect, also where the tests run under nohup, which ignores SIGHUP."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A data set of six pictures."""
    return synthetic_dataset(tmp_path_factory.mktemp("drawn"), train=6, val=2, size=64)


@pytest.fixture(scope="session")
def whole(drawn, tmp_path_factory):
    """A training of four steps without interruption."""
    return run(drawn, tmp_path_factory.mktemp("whole"), tiny()).parent
