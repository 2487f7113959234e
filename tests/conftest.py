"""Fixtures for all tests: an isolated ROS graph and places of the data that only developers have."""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.tiny_model import frames, make_model, tiny_model

__all__ = ["frames", "make_model", "tiny_model"]

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# No deadline: time on a busy machine is no property of the code. The same examples in every CI run: it judges a commit.
hypothesis.settings.register_profile("sal360", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("sal360")


@pytest.fixture(scope="session", autouse=True)
def hangup_reaches_children() -> None:
    """Children can be ended by SIGHUP even if `nohup make test` has this process ignore it, as it still does.

    A child inherits that a signal is ignored, but not a handler.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def ros_domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A ROS domain of this run's own, on this machine only, so that runs side by side do not hear each other."""
    domain = random.SystemRandom().randrange(1, 100)  # above 101 the ports meet the ephemeral range of Linux
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        patch.setenv("ROS_LOG_DIR", os.fspath(tmp_path_factory.mktemp("ros_log")))
        yield domain


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real panoramas, gaze and streams beside the checkout; tests that ask for it skip without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the development data are not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of this machine that does not exist yet, and the same in an object store."""
    if request.param == "folder":
        return str(tmp_path / "new")
    pytest.importorskip("fsspec")
    return f"memory://{uuid.uuid4().hex}/new"
