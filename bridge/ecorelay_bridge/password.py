"""The federation secret as SPAKE2 needs it: derived once at load, with every multiplication by it done then.

SPAKE2 lets two sides find out whether they know the same secret without showing it: who listens, or plays one
of the sides, gets one guess for each attempt and nothing to try further guesses on. The package ``spake2``
(pure Python) does the arithmetic. Its multiplications take a time that depends on the number multiplied by;
those by the secret are therefore done here, once, and no answer to anybody contains one. What remains is a
multiplication by a random number used once.
"""

from __future__ import annotations

import copy
import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay_bridge.settings import Secret

_SALT: Final = b"ecorelay-link-v1 federation secret"
# 32 MiB and a tenth of a second: once for us, once for each guess of somebody who stole a derived key.
_SCRYPT_N: Final = 2**15
_SCRYPT_R: Final = 8
_SCRYPT_MEMORY: Final = 64 * 1024 * 1024
ELEMENT_SIZE: Final = 32
"""Bytes of what each side sends."""


class NotAnElement(ValueError):
    """What the other side sent is no element of the group, or is our own sent back."""


class Password:
    """One secret, ready for any number of proofs. Its repr shows nothing.

    Making one takes about 0.1 s: do it in a thread.

    Args:
        secret: from the settings.
    """

    def __init__(self, secret: Secret) -> None:
        from spake2.parameters.ed25519 import ParamsEd25519

        self.secret = secret
        self._derived = hashlib.scrypt(
            secret.reveal().encode(),
            salt=_SALT,
            n=_SCRYPT_N,
            r=_SCRYPT_R,
            p=1,
            maxmem=_SCRYPT_MEMORY,
            dklen=32,
        )
        group = ParamsEd25519.group
        scalar = group.password_to_scalar(self._derived)
        self._m = (ParamsEd25519.M.scalarmult(scalar), ParamsEd25519.M.scalarmult(-scalar))
        self._n = (ParamsEd25519.N.scalarmult(scalar), ParamsEd25519.N.scalarmult(-scalar))

    def __repr__(self) -> str:
        return "Password(...)"

    def dialing(self, dialer: bytes, acceptor: bytes) -> Exchange:
        """One exchange on the side that dials; the names of both go into the key."""
        return Exchange(_sides()[0], self._derived, (dialer, acceptor), self._m[0], self._n[1], b"B")

    def accepting(self, dialer: bytes, acceptor: bytes) -> Exchange:
        """One exchange on the side that accepts."""
        return Exchange(_sides()[1], self._derived, (dialer, acceptor), self._n[0], self._m[1], b"A")


class Exchange:
    """One side of one SPAKE2 exchange; used for one connection. Costs 2.5 ms on each side, in a thread."""

    def __init__(
        self, side: Any, derived: bytes, names: tuple[bytes, bytes], blind: Any, unblind: Any, other: bytes
    ) -> None:
        self._exchange = side(derived, *names)
        self._exchange.blind = _Known(blind)
        self._exchange.unblind = _Known(unblind)
        self._other = other

    def __repr__(self) -> str:
        return "Exchange(...)"

    def start(self) -> bytes:
        """What goes to the other side, 32 bytes."""
        # The package's first byte names the side; here the kind of message does.
        started: bytes = self._exchange.start()
        return started[1:]

    def finish_each(self, theirs: Sequence[bytes]) -> list[bytes]:
        """The keys, 32 bytes, one for each element: the other side has the same if its secret is ours.

        Several where the other side accepts several secrets: an impostor there gets as many guesses.

        Raises:
            NotAnElement: see there.
        """
        from spake2 import SPAKEError
        from spake2.ed25519_basic import NotOnCurve

        try:
            # The package finishes an exchange once. A copy each: the elements were made at the other side
            # independently of each other, and the keys leave only as keys of macs.
            return [copy.copy(self._exchange).finish(self._other + element) for element in theirs]
        except (SPAKEError, NotOnCurve, ValueError):
            raise NotAnElement("no element of the group") from None


class _Known:
    """In the place of a point: its product by the secret is there already."""

    def __init__(self, product: Any) -> None:
        self._product = product

    def scalarmult(self, _: int) -> Any:
        return self._product


@cache
def _sides() -> tuple[Any, Any]:
    """The package's two sides, with their blinding taken from the attributes `blind` and `unblind`.

    Several threads may be the first; what each makes is whole.
    """
    from spake2 import SPAKE2_A, SPAKE2_B

    methods = {"my_blinding": lambda self: self.blind, "my_unblinding": lambda self: self.unblind}
    one, other = (type(side.__name__, (side,), methods) for side in (SPAKE2_A, SPAKE2_B))
    return one, other
