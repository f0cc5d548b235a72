"""
The seal of a policy file: its contract, its signature and its hash, inside the file itself.

A policy is one ONNX file.  ONNX is protobuf, and a protobuf message may be continued by appending
fields, so three metadata entries follow the graph::

    graph | dmo_contract (JSON) | dmo_ed25519 (optional) | dmo_sha256

The hash covers every byte before its own entry, and the signature every byte before its own.
Both are checked on the bytes of the file before anything parses the graph; the onnx package is not
needed for it, and any reader of ONNX still opens the file and shows the entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import hashlib

from .signature import SignatureError, SigningKey, verify_signature

CONTRACT_KEY, SIGNATURE_KEY, HASH_KEY = 'dmo_contract', 'dmo_ed25519', 'dmo_sha256'
_METADATA_FIELD = 14  # ModelProto.metadata_props
_HASH_BYTES = 80  # length of the whole hash entry: 2 + (2 + 10) + (2 + 64)


class ContractError(ValueError):
    """A policy file that is damaged or not trusted, or whose contract does not fit."""


@dataclass(frozen=True)
class Sealed:
    """The contract (JSON) of a file whose hash was right, that hash, and who signed the file."""

    contract: str
    digest: str
    trust: str


def seal(model: bytes, contract: str, key: SigningKey | None = None) -> bytes:
    """Append contract, signature (with ``key``) and hash to the bytes of an ONNX model."""
    taken = {CONTRACT_KEY, SIGNATURE_KEY, HASH_KEY} & {name for name, _, _ in _metadata(model)}
    if taken:
        raise ContractError(f'the model is sealed already: it has {sorted(taken)}')
    return _finish(model + _entry(CONTRACT_KEY, contract), key)


def sign(sealed: bytes, key: SigningKey) -> bytes:
    """Put ``key``'s signature on a policy file, in place of the one that it may have."""
    check_hash(sealed)
    starts = {name: start for name, _, start in _metadata(sealed)}
    return _finish(sealed[: starts.get(SIGNATURE_KEY, starts[HASH_KEY])], key)


def _finish(body: bytes, key: SigningKey | None) -> bytes:
    if key is not None:
        body += _entry(SIGNATURE_KEY, key.sign(hashlib.sha256(body).digest()))
    return body + _entry(HASH_KEY, hashlib.sha256(body).hexdigest())


def check_hash(data: bytes) -> str:
    """Return the file's sha256; ContractError when it is cut short, altered or no policy file."""
    found = data[-_HASH_BYTES:]
    if not found.startswith(_entry(HASH_KEY, '0' * 64)[:-64]):
        raise ContractError(
            'the file does not end in a seal: it is cut short, or no policy that '
            '`dmo export` wrote; copy it again or export it again'
        )
    digest = hashlib.sha256(memoryview(data)[:-_HASH_BYTES]).hexdigest()
    if found != _entry(HASH_KEY, digest):
        raise ContractError(
            f'the file is damaged: its sha256 is {digest[:12]}..., its seal says '
            'another; copy it again or export it again'
        )
    return digest


def unseal(
    data: bytes, trusted_keys: Sequence[str] | None = None, allow_unsigned: bool = False
) -> Sealed:
    """
    Check hash and signature of a policy file and hand out its contract.

    :param trusted_keys: public keys (64 hexadecimal digits each).  When given, the file must be
        signed by one of them; when left out, nobody's signature is asked for.
    :param allow_unsigned: accept a file without any signature although keys are given; a wrong
        signature and an unknown key are refused all the same.
    :raises ContractError: for every reason not to trust the file.
    """
    digest = check_hash(data)
    entries = [entry for entry in _metadata(data) if entry[0].startswith('dmo_')]
    names = [name for name, _, _ in entries]
    if names not in ([CONTRACT_KEY, HASH_KEY], [CONTRACT_KEY, SIGNATURE_KEY, HASH_KEY]):
        raise ContractError(
            f'the file carries the entries {names}; one contract, at most one '
            'signature and the hash belong there: export it again'
        )
    values = {name: (value, start) for name, value, start in entries}
    trust = _trust(data, values.get(SIGNATURE_KEY), trusted_keys, allow_unsigned)
    return Sealed(values[CONTRACT_KEY][0], digest, trust)


def _trust(
    data: bytes,
    signature: tuple[str, int] | None,
    trusted_keys: Sequence[str] | None,
    allow_unsigned: bool,
) -> str:
    if signature is None:
        if trusted_keys is not None and not allow_unsigned:
            raise ContractError(
                'the policy is not signed and a trusted signature is asked for; '
                'sign it, or allow unsigned policies (allow_unsigned:=true)'
            )
        return 'unsigned'
    value, start = signature
    if trusted_keys is None:
        return f'signed by {value[:12]}..., not checked'
    digest = hashlib.sha256(memoryview(data)[:start]).digest()
    try:
        signer = verify_signature(value, digest, trusted_keys)
    except SignatureError as error:
        raise ContractError(f'the signature is refused: {error}') from error
    return f'signed by {signer[:12]}..., trusted'


def _entry(key: str, value: str) -> bytes:
    """Encode one metadata entry as a field of ModelProto."""
    inner = b''.join(
        bytes([tag]) + _varint(len(raw)) + raw
        for tag, raw in ((0x0A, key.encode()), (0x12, value.encode()))
    )
    return bytes([_METADATA_FIELD << 3 | 2]) + _varint(len(inner)) + inner


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _metadata(data: bytes) -> list[tuple[str, str, int]]:
    """List name, value and position of every metadata entry of a serialised ModelProto."""
    found = []
    for number, start, value in _walk(memoryview(data)):
        if number == _METADATA_FIELD:
            parts = {inner: bytes(raw) for inner, _, raw in _walk(value)}
            try:
                found.append((parts.get(1, b'').decode(), parts.get(2, b'').decode(), start))
            except UnicodeDecodeError as error:
                raise ContractError('a metadata entry is no text; export it again') from error
    return found


def _walk(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield field number, position and content of a protobuf message's top level."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == 0:
            _, end = _read_varint(data, at)
        elif kind == 2:
            size, at = _read_varint(data, at)
            end = at + size
        else:
            end = at + {1: 8, 5: 4}.get(kind, len(data) + 1)
        if end > len(data):
            raise ContractError(
                f'this is no ONNX model: field {tag >> 3} at byte {start} is malformed'
            )
        yield tag >> 3, start, data[at:end]
        at = end


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ContractError(f'this is no ONNX model: a broken number before byte {at}')
