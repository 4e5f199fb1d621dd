"""What all tests share: when the costly ones run, how long one may take, how Hypothesis looks."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import hypothesis
import pytest

# No deadline: no test judges by the clock of the machine it runs on. In CI the same examples each
# time, so that a run which fails there fails here too; elsewhere new ones.
hypothesis.settings.register_profile("ecorelay", deadline=None)
hypothesis.settings.register_profile("ecorelay-ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ecorelay-ci" if os.environ.get("CI") else "ecorelay")

ON_DEMAND = {
    "real": "drives a real assistant: ask for it with -m real",
    "soak": "runs for long: ask for it with -m soak",
}
HANGS_S = 180
"""Each wait of a test has a time-out of its own; this is for the one that was forgotten."""


def heed_interrupts() -> None:
    """Take SIGINT where it is ignored, as it is in what a script starts in the background.

    All processes that tests start would inherit that, and neither they nor a test that hangs be interrupted.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """The workers of pytest are measured, the hundreds of short processes that tests start are not: coverage
    would cost each as much again as it does, and what only runs in such a process is seen by its tests.
    """
    heed_interrupts()
    for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS_")]:
        if hasattr(config, "workerinput"):
            del os.environ[name]


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Skip, with the reason, what runs only when it is asked for by name."""
    asked: str = config.getoption("markexpr")
    for name, reason in ON_DEMAND.items():
        if name in asked:
            continue
        for item in items:
            if item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Interrupt a test that hangs, and say which it was."""
    if item.get_closest_marker("soak") is not None:
        return (yield)
    # A thread, because the clock of a Trio test may be one that jumps.
    too_late = threading.Timer(HANGS_S, interrupt, [item])
    too_late.daemon = True
    too_late.start()
    try:
        return (yield)
    finally:
        too_late.cancel()


def interrupt(item: pytest.Item) -> None:
    """Do what Ctrl-C does: Trio and pytest unwind, and show where they were."""
    capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{item.nodeid} hangs: interrupted after {HANGS_S} s", flush=True)
    if hasattr(signal, "pthread_kill"):
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
