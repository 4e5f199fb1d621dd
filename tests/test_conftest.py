"""What all tests rely on, wherever pytest was started from."""

import signal
import subprocess
import sys

from tests.conftest import heed_interrupts

WHAT_A_CHILD_HAS = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"


def test_interrupts_reach_what_tests_start_also_in_the_background_of_a_script():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        heed_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        child = subprocess.run(
            [sys.executable, "-S", "-c", WHAT_A_CHILD_HAS], capture_output=True, check=True
        )
        assert child.stdout.strip() == b"True"
        signal.signal(signal.SIGINT, before)
        heed_interrupts()
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)
