"""
Signatures of policy files: ed25519, through the `cryptography` package when a key is used at all.

A robot that is given trusted public keys runs only what one of their owners signed.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
from typing import Any

_PURPOSE = b'dmo_ros policy file, version 1\0'  # a signature of ours means nothing elsewhere


class SignatureError(ValueError):
    """A signature that is wrong or by nobody we trust, or a key that cannot be read."""


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise SignatureError(
            "signatures need the cryptography package; install it: pip install 'dmo_ros[sign]'"
        ) from error
    return ed25519


class SigningKey:
    """A private key; ``public`` is its public half as 64 hexadecimal digits."""

    def __init__(self, secret: bytes) -> None:
        self._key = _ed25519().Ed25519PrivateKey.from_private_bytes(secret)
        self.public: str = self._key.public_key().public_bytes_raw().hex()

    @classmethod
    def generate(cls, path: str | Path) -> SigningKey:
        """Write a new private key to ``path`` (readable by its owner only) and return it."""
        key = cls(os.urandom(32))
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise SignatureError(f'{path} exists already; keys are not overwritten') from error
        with os.fdopen(handle, 'w') as file:
            file.write(key._key.private_bytes_raw().hex() + '\n')
        return key

    @classmethod
    def read(cls, path: str | Path) -> SigningKey:
        """Read a private key that :meth:`generate` wrote."""
        try:
            return cls(bytes.fromhex(Path(path).read_text(encoding='ascii').strip()))
        except (OSError, ValueError) as error:
            if isinstance(error, SignatureError):
                raise
            raise SignatureError(
                f'{path} holds no private key ({error}); make one with `dmo export --new-key FILE`'
            ) from error

    def sign(self, digest: bytes) -> str:
        """Return ``public:signature`` in hexadecimal for the sha256 of what is signed."""
        signature: bytes = self._key.sign(_PURPOSE + digest)
        return f'{self.public}:{signature.hex()}'


def verify_signature(value: str, digest: bytes, trusted_keys: Sequence[str]) -> str:
    """Return the public key that signed ``digest``; SignatureError unless we trust it."""
    public, _, signature = value.partition(':')
    if public not in [key.strip().lower() for key in trusted_keys]:
        raise SignatureError(
            f'{public[:12]}... is not among the trusted keys; add it if you know its owner'
        )
    ed25519 = _ed25519()
    from cryptography.exceptions import InvalidSignature

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _PURPOSE + digest)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f'it is not the signature of {public[:12]}... for this file; take '
            'the file from its source again'
        ) from error
    return public
