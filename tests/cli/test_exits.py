"""The exit code of each error."""

import pytest

from ecorelay.cli import exits
from ecorelay.errors import CODES


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_has_an_exit_code_of_its_own_choosing(code):
    assert code in exits._BY_CODE
    assert 1 <= exits.exit_code(code) <= 6


def test_a_code_of_a_newer_hub_is_a_refusal():
    assert exits.exit_code("some_new_code") == exits.REFUSED
