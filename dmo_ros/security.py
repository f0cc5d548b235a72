"""
Make a keystore for DDS-Security: who may say and hear what, signed, one enclave per node.

``dmo security make DIR --task push_cube`` asks the task's nodes what they publish, subscribe and
serve, and grants each exactly that.  The layout is the one that ROS reads
(``ROS_SECURITY_KEYSTORE``): X.509 identities on P-256 by one authority, governance and permissions
as S/MIME.  Whether it is obeyed is the middleware's business: see docs/security.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
import os
from pathlib import Path
import sys
from typing import Any
import xml.etree.ElementTree as ElementTree

from .graph import ros_domain
from .interfaces import Interfaces, interfaces, real_processes
from .stacks import get_stack

DAYS = 3650
PERSON = 'person'  # the enclave of whoever arms, stops and looks: ros2, dmo lifecycle
DISCOVERY = 'ros_discovery_info'  # every participant tells the others of its nodes on it
_SCHEMA = 'http://www.omg.org/spec/DDS-SECURITY/20170901/omg_shared_ca_{}.xsd'
_GOVERNANCE = {
    'allow_unauthenticated_participants': 'false',
    'enable_join_access_control': 'true',
    'discovery_protection_kind': 'ENCRYPT',
    'liveliness_protection_kind': 'ENCRYPT',
    'rtps_protection_kind': 'SIGN',
}
_TOPIC_RULE = {
    'topic_expression': '*',
    'enable_discovery_protection': 'true',
    'enable_liveliness_protection': 'true',
    'enable_read_access_control': 'true',
    'enable_write_access_control': 'true',
    'metadata_protection_kind': 'ENCRYPT',
    'data_protection_kind': 'ENCRYPT',
}


class SecurityError(ValueError):
    """A keystore that cannot be made or does not fit."""


def make(
    folder: Path | str, task: str, given: Mapping[str, Any] | None = None, domain: int = 0
) -> list[str]:
    """
    Make, or extend, a keystore for one task's graph; return the names of its enclaves.

    :param given: arguments of the graph that change names: ``namespace``, ``camera``.
    :param domain: the ROS domain in which the identities are good.
    """
    stack = get_stack(task)
    table = {process.name: interfaces(process) for process in real_processes(stack, given or {})}
    table[PERSON] = _person(table)
    store = Keystore(Path(folder), domain)
    return [store.add(f'/{task}/{name}', rights) for name, rights in table.items()]


def _person(table: Mapping[str, Interfaces]) -> Interfaces:
    """Return what a person may: hear everything, call every service, press the stop."""
    own = {'/rosout', '/parameter_events'}
    said = set[str]().union(*(rights.publishes for rights in table.values()))
    heard = set[str]().union(*(rights.subscribes for rights in table.values()))
    stops = {name for name in heard if name.rsplit('/', 1)[-1] == 'estop'}
    served = set[str]().union(*(rights.serves for rights in table.values()))
    return Interfaces(
        frozenset(own | stops), frozenset(said | heard), frozenset(), frozenset(served)
    )


# ---------------------------------------------------------------------- who may what
def rights_in_dds(rights: Interfaces) -> tuple[list[str], list[str]]:
    """Return the DDS topics that a node writes and reads, by ROS's naming."""
    writes = {DISCOVERY, *(f'rt{name}' for name in rights.publishes)}
    reads = {DISCOVERY, *(f'rt{name}' for name in rights.subscribes)}
    for name in rights.serves:
        reads.add(f'rq{name}Request')
        writes.add(f'rr{name}Reply')
    for name in rights.calls:
        writes.add(f'rq{name}Request')
        reads.add(f'rr{name}Reply')
    return sorted(writes), sorted(reads)


def permissions(
    enclave: str, rights: Interfaces, domain: int, since: datetime, until: datetime
) -> bytes:
    """Return an enclave's permissions: what is named is allowed, the rest denied."""
    root = _root('permissions')
    grant = ElementTree.SubElement(ElementTree.SubElement(root, 'permissions'), 'grant')
    grant.set('name', enclave)
    _text(grant, 'subject_name', f'CN={enclave}')
    validity = ElementTree.SubElement(grant, 'validity')
    _text(validity, 'not_before', since.strftime('%Y-%m-%dT%H:%M:%S'))
    _text(validity, 'not_after', until.strftime('%Y-%m-%dT%H:%M:%S'))
    rule = ElementTree.SubElement(grant, 'allow_rule')
    _text(ElementTree.SubElement(rule, 'domains'), 'id', str(domain))
    for verb, names in zip(('publish', 'subscribe'), rights_in_dds(rights)):
        topics = ElementTree.SubElement(ElementTree.SubElement(rule, verb), 'topics')
        for name in names:
            _text(topics, 'topic', name)
    _text(grant, 'default', 'DENY')
    return _bytes(root)


def governance(domain: int) -> bytes:
    """Return the rules of the domain: nobody without an identity, everything encrypted."""
    root = _root('governance')
    rules = ElementTree.SubElement(root, 'domain_access_rules')
    rule = ElementTree.SubElement(rules, 'domain_rule')
    _text(ElementTree.SubElement(rule, 'domains'), 'id', str(domain))
    for name, value in _GOVERNANCE.items():
        _text(rule, name, value)
    access = ElementTree.SubElement(rule, 'topic_access_rules')
    topic = ElementTree.SubElement(access, 'topic_rule')
    for name, value in _TOPIC_RULE.items():
        _text(topic, name, value)
    return _bytes(root)


def _root(kind: str) -> ElementTree.Element:
    root = ElementTree.Element('dds')
    root.set('xmlns:xsi', 'http://www.w3.org/2001/XMLSchema-instance')
    root.set('xsi:noNamespaceSchemaLocation', _SCHEMA.format(kind))
    return root


def _text(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text


def _bytes(root: ElementTree.Element) -> bytes:
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding='UTF-8', xml_declaration=True)
    return text + b'\n'


# ---------------------------------------------------------------------- keys and signatures
class Keystore:
    """A folder with one authority and an enclave per node; private keys are for their owner."""

    def __init__(self, folder: Path, domain: int) -> None:
        """Open a keystore, or begin one; SecurityError for a folder that holds something else."""
        self.folder, self.domain = folder, domain
        self.since = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(minutes=5)
        self.until = self.since + timedelta(days=DAYS)
        self.public, self.private = folder / 'public', folder / 'private'
        self.enclaves = folder / 'enclaves'
        if folder.exists() and any(folder.iterdir()) and not self._key_file.is_file():
            raise SecurityError(f'{folder} holds something else; name a new folder')
        for part in (self.public, self.private, self.enclaves):
            part.mkdir(parents=True, exist_ok=True)
        self.private.chmod(0o700)
        self.key, self.certificate = self._load() if self._key_file.is_file() else self._begin()
        self._sign(self.enclaves / 'governance', governance(domain))

    @property
    def _key_file(self) -> Path:
        return self.private / 'ca.key.pem'

    def _load(self) -> tuple[Any, Any]:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = load_pem_private_key(self._key_file.read_bytes(), None)
        return key, x509.load_pem_x509_certificate((self.public / 'ca.cert.pem').read_bytes())

    def _begin(self) -> tuple[Any, Any]:
        """Make the authority: it vouches for identities and for permissions."""
        key = _new_key(self._key_file)
        certificate = self._certify('dmo_ros authority', key.public_key(), key, None)
        (self.public / 'ca.cert.pem').write_bytes(_pem(certificate))
        for role in ('identity_ca', 'permissions_ca'):
            _link(self.public / f'{role}.cert.pem', 'ca.cert.pem')
            _link(self.private / f'{role}.key.pem', 'ca.key.pem')
        return key, certificate

    def add(self, enclave: str, rights: Interfaces) -> str:
        """Make or renew an enclave (``/task/node``) with exactly these rights."""
        folder = self.enclaves / enclave.strip('/')
        folder.mkdir(parents=True, exist_ok=True)
        up = Path(*['..'] * len(Path(enclave.strip('/')).parts))
        for role in ('identity_ca', 'permissions_ca'):
            _link(folder / f'{role}.cert.pem', str(up / '..' / 'public' / f'{role}.cert.pem'))
        _link(folder / 'governance.p7s', str(up / 'governance.p7s'))
        key = _new_key(folder / 'key.pem')
        certificate = self._certify(enclave, key.public_key(), self.key, self.certificate)
        (folder / 'cert.pem').write_bytes(_pem(certificate))
        text = permissions(enclave, rights, self.domain, self.since, self.until)
        self._sign(folder / 'permissions', text)
        return enclave

    def _certify(self, name: str, public: Any, key: Any, issuer: Any) -> Any:
        """Sign a certificate for a public key; without an issuer it is the authority's own."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.since)
            .not_valid_after(self.until)
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        )
        return builder.sign(key, hashes.SHA256())

    def _sign(self, stem: Path, content: bytes) -> None:
        """Write a document beside its signed form."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

        stem.with_suffix('.xml').write_bytes(content)
        options = [pkcs7.PKCS7Options.Text, pkcs7.PKCS7Options.DetachedSignature]
        signed = (
            pkcs7.PKCS7SignatureBuilder()
            .set_data(content)
            .add_signer(self.certificate, self.key, hashes.SHA256())
            .sign(Encoding.SMIME, options)
        )
        stem.with_suffix('.p7s').write_bytes(signed)


def _new_key(file: Path) -> Any:
    """Make a P-256 key and write it where only its owner may read it, from the first byte on."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 'wb') as out:
        out.write(text)
    return key


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    text: bytes = certificate.public_bytes(Encoding.PEM)
    return text


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def main(words: Sequence[str] | None = None) -> int:
    """Run ``dmo security make DIR --task TASK [name:=value ...]``."""
    import argparse

    from .up import pairs

    parser = argparse.ArgumentParser(
        prog='dmo security', description='Make a DDS-Security keystore of least privilege.'
    )
    parser.add_argument('action', choices=('make',))
    parser.add_argument('folder', type=Path)
    parser.add_argument('--task', required=True)
    parser.add_argument('--domain', type=int, default=None, help='ROS_DOMAIN_ID when left out')
    parser.add_argument('argument', nargs='*', help='name:=value of the graph, as for dmo up')
    given = parser.parse_args(words)
    domain = ros_domain() if given.domain is None else given.domain
    for enclave in make(given.folder, given.task, pairs(given.argument), domain):
        print(f'{given.folder}/enclaves{enclave}')
    print(f'good in ROS domain {domain} for {DAYS} days; docs/security.md says how to use it')
    return 0


if __name__ == '__main__':
    sys.exit(main())
