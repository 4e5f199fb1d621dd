"""This hub's long-lived identity: an Ed25519 key and the certificate that shows it, in one private file.

The file, ``identity.pem`` in the data directory, begins with what a person may read (what it is, the mark
of the machine it was made on), then the key and the certificate as PEM, as OpenSSL takes them. It is apart
from hub.db: a lost or restored database is the same hub. Losing this file makes every other hub refuse us
until a person there says otherwise, so it is written durably before anything uses it, and never overwritten.

The certificate says nothing: the same name, number and dates for every hub. What counts is the key in it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import ssl
import stat
import sys
from typing import TYPE_CHECKING, Final

from ecorelay import extras
from ecorelay.errors import RelayError
from ecorelay.paths import sync_dir, write_private
from ecorelay_bridge.tls import notice_cuts

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE_NAME: Final = "identity.pem"
FINGERPRINT_PATTERN: Final = r"\ASHA256:[A-Za-z0-9+/]{43}\Z"
ALPN: Final = "ecorelay-link/1"
FILE_MAX: Final = 64 * 1024
COMMON_NAME: Final = "ecorelay"

_FINGERPRINT = re.compile(FINGERPRINT_PATTERN)
_MACHINE = re.compile(rb"^machine: ([0-9a-f]{32})?\r?$", re.MULTILINE)
_HEADER: Final = "The identity of an ecorelay hub. Whoever has this file can pass for it: keep it private.\n"


class Identity:
    """A loaded identity. Its repr and attributes show nothing private.

    Attributes:
        path: the file it is in; TLS reads the key from there.
        public: the Ed25519 public key, 32 bytes.
        fingerprint: what people compare, ``SHA256:`` and 43 characters.
        certificate: DER.
        machine: the mark of the machine it belongs to, "" unknown.
    """

    def __init__(self, path: Path, key: Ed25519PrivateKey, certificate: bytes, machine: str) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self.path = path
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.fingerprint = fingerprint(self.public)
        self.certificate = certificate
        self.machine = machine
        self._key = key

    def __repr__(self) -> str:
        return f"Identity({self.fingerprint})"

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes. The caller begins `data` with a label that nothing else uses."""
        return self._key.sign(data)

    def accepting_context(self) -> ssl.SSLContext:
        """TLS for the side that accepts: 1.3 only, this certificate, no session tickets."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        notice_cuts(context)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.path)
        # A ticket would let a later connection skip the certificate that the proof is bound to.
        context.num_tickets = 0
        context.set_alpn_protocols([ALPN])
        return context


def dialing_context() -> ssl.SSLContext:
    """TLS for the side that dials: 1.3 only. It believes any certificate: the proof inside is bound to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    notice_cuts(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    return context


def fingerprint(public: bytes) -> str:
    """``SHA256:`` and base 64 without padding, as OpenSSH shows keys; over the raw 32 bytes."""
    return fingerprint_of_digest(hashlib.sha256(public).digest())


def fingerprint_of_digest(digest: bytes) -> str:
    """The same of the key's SHA-256, which is how relay servers know a hub."""
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def digest_of_fingerprint(text: str) -> bytes:
    """The SHA-256 in a fingerprint."""
    return base64.b64decode(text.removeprefix("SHA256:") + "=")


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form that :func:`fingerprint` gives."""
    return _FINGERPRINT.match(text) is not None


def public_of_certificate(der: bytes) -> bytes | None:
    """The Ed25519 public key, 32 bytes, in a certificate another side showed; None where there is none."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        return None
    if not isinstance(key, Ed25519PublicKey):
        return None
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def demand_packages() -> None:
    """Raise unless what federation needs is installed: it is an extra, which local messaging does without.

    Raises:
        RelayError: ``bad_args``, with how to install it.
    """
    missing = extras.missing(extras.BRIDGE)
    if missing:
        raise RelayError(
            "bad_args",
            f"links to other hubs need {' and '.join(missing)}: {extras.how_to_get('bridge', missing)}",
        )


def open_identity(path: Path, machine: str) -> Identity:
    """The identity in `path`; made, and on the disk for good, where there is no such file.

    Args:
        path: in a private directory that exists.
        machine: of this machine, see `ecorelay_bridge.machine.machine_mark`; "" where it cannot be told.

    Raises:
        RelayError: ``bad_args``, the file is damaged, not ours, or a copy from another machine, or the
            packages for it are not installed; ``mailbox_error``, it cannot be read or written. The file
            stays as it is.
    """
    demand_packages()
    found = _load_if_there(path)
    if found is None:
        _write_new(path, machine)
        found = _load_if_there(path)
        if found is None:
            raise RelayError("mailbox_error", f"{path} vanished while it was made: start the hub again")
    if machine and found.machine and found.machine != machine:
        raise RelayError(
            "bad_args",
            f"{path} was made on another machine. If this machine is a copy of it, move that file away and "
            "start the hub again: it makes an identity of its own (two hubs with one cannot federate). If "
            f"this machine took the other's place for good: `ecorelay identity import {path}`",
        )
    return found


def read_identity(path: Path) -> Identity:
    """The identity in `path`, from whichever machine.

    Raises:
        RelayError: see :func:`open_identity`.
    """
    demand_packages()
    found = _load_if_there(path)
    if found is None:
        raise RelayError("bad_args", f"there is no file {path}")
    return found


def import_identity(source: Path, path: Path, machine: str) -> Identity:
    """Make the identity in `source` this machine's, in `path`; both may be the same file.

    What was in `path` is kept beside it as ``identity.pem.old``.

    Raises:
        RelayError: see :func:`open_identity`; `path` is then as it was.
    """
    taken = read_identity(source)
    key, certificate = _blocks(_read(source) or b"")
    try:
        if path.exists() and not path.samefile(source):
            write_private(path.with_name(path.name + ".old"), path.read_bytes(), durable=True)
        write_private(path, _text(key, certificate, machine), durable=True)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot write {path}: {error.strerror or error}") from error
    return Identity(path, taken._key, taken.certificate, machine)


# --- the file ------------------------------------------------------------------------------------


def _load_if_there(path: Path) -> Identity | None:
    data = _read(path)
    if data is None:
        return None
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    try:
        key_pem, certificate_pem = _blocks(data)
        key = load_pem_private_key(key_pem, None)
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        if not isinstance(key, Ed25519PrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        # From None: what the parser says may quote the file.
        raise RelayError(
            "bad_args",
            f"{path} is damaged: put a backup of it back (`ecorelay identity export` makes one). Without one "
            "move it away: the hub makes a new identity, which every other hub must then be told with "
            "`ecorelay trust`",
        ) from None
    mark = _MACHINE.search(data.partition(b"-----BEGIN")[0])
    machine = (mark[1] or b"").decode() if mark else ""
    return Identity(path, key, certificate.public_bytes(Encoding.DER), machine)


def _read(path: Path) -> bytes | None:
    # Not blocking: somebody may have put a pipe there.
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot read {path}: {error.strerror or error}") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise RelayError("bad_args", f"{path} is in the way and is no file: move it away")
        if sys.platform != "win32":
            if found.st_uid != os.geteuid():
                raise RelayError(
                    "bad_args",
                    f"{path} belongs to user id {found.st_uid}, not to you (user id {os.geteuid()}): "
                    "run as its owner, or move it away",
                )
            if found.st_mode & 0o077:
                os.fchmod(handle, 0o600)
        with open(handle, "rb", closefd=False) as file:
            return file.read(FILE_MAX)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot read {path}: {error.strerror or error}") from error
    finally:
        os.close(handle)


def _blocks(data: bytes) -> tuple[bytes, bytes]:
    """The key and the certificate, each as PEM.

    Raises:
        ValueError: one is missing.
    """
    found = []
    for kind in (b"PRIVATE KEY", b"CERTIFICATE"):
        begin, end = b"-----BEGIN " + kind + b"-----", b"-----END " + kind + b"-----"
        start, stop = data.find(begin), data.find(end)
        if start < 0 or stop < start:
            raise ValueError("a part is missing")
        found.append(data[start : stop + len(end)] + b"\n")
    return found[0], found[1]


def _text(key: bytes, certificate: bytes, machine: str) -> bytes:
    return _HEADER.encode() + f"machine: {machine}\n\n".encode() + key + certificate


def _write_new(path: Path, machine: str) -> None:
    """Make an identity and put it where no file is. Another process may do the same: the first wins."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    staged = path.with_name(f"{path.name}.{os.getpid()}.made")
    try:
        write_private(staged, _text(pem, _make_certificate(key), machine), durable=True)
        try:
            # A link, because unlike a rename it never replaces what another process just put there.
            os.link(staged, path)
        except FileExistsError:
            return
        except OSError:
            staged.replace(path)  # this file system knows no links
        sync_dir(path.parent)
    except OSError as error:
        raise RelayError("mailbox_error", f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


def _make_certificate(key: Ed25519PrivateKey) -> bytes:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        # For ever: nobody checks them, and a clock that is wrong must not matter.
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.PEM)
