"""The keystore: exactly what each node needs, signed by one authority, keys for their owner."""

import contextlib
from datetime import datetime, timedelta, timezone
import os
import shutil
import stat
import subprocess
import time
import xml.etree.ElementTree as ElementTree

from dmo_ros.interfaces import Interfaces
from dmo_ros.security import governance, Keystore, make, permissions, rights_in_dds, SecurityError
from dmo_ros.stacks import get_stack, StackError
from dmo_ros.up import command, main, running, UpError
import pytest

x509 = pytest.importorskip('cryptography.x509')
RIGHTS = Interfaces(
    frozenset({'/cmd'}), frozenset({'/joy'}), frozenset({'/gate/arm'}), frozenset({'/x/go'})
)
openssl = pytest.mark.skipif(shutil.which('openssl') is None, reason='openssl is not installed')


@pytest.fixture
def store(tmp_path):
    made = Keystore(tmp_path / 'keys', 42)
    made.add('/push_cube/gate', RIGHTS)
    return made


def topics(text, verb):
    found = ElementTree.fromstring(text).find(f'.//allow_rule/{verb}/topics')
    return [topic.text for topic in found]


def signed_by(document, authority):
    words = ['openssl', 'smime', '-verify', '-text', '-in', str(document)]
    done = subprocess.run([*words, '-CAfile', str(authority)], capture_output=True, text=True)
    return done.returncode == 0, done.stdout


def test_ros_names_become_dds_topics_in_both_directions():
    writes, reads = rights_in_dds(RIGHTS)
    assert writes == ['ros_discovery_info', 'rq/x/goRequest', 'rr/gate/armReply', 'rt/cmd']
    assert reads == ['ros_discovery_info', 'rq/gate/armRequest', 'rr/x/goReply', 'rt/joy']


def test_permissions_allow_what_is_named_in_one_domain_for_a_time_and_deny_the_rest():
    since = datetime(2026, 1, 1, tzinfo=timezone.utc)
    text = permissions('/push_cube/gate', RIGHTS, 42, since, since + timedelta(days=1))
    assert topics(text, 'publish') == rights_in_dds(RIGHTS)[0]
    assert topics(text, 'subscribe') == rights_in_dds(RIGHTS)[1]
    root = ElementTree.fromstring(text)
    assert [e.text for e in root.iter('default')] == ['DENY']
    assert [e.text for e in root.iter('id')] == ['42']
    assert root.findtext('.//subject_name') == 'CN=/push_cube/gate'
    assert root.findtext('.//not_after') == '2026-01-02T00:00:00'
    assert not list(root.iter('deny_rule')) and '*' not in text.decode()


def test_governance_lets_nobody_in_without_an_identity_and_nothing_go_in_clear():
    root = ElementTree.fromstring(governance(42))
    assert root.findtext('.//allow_unauthenticated_participants') == 'false'
    assert root.findtext('.//enable_join_access_control') == 'true'
    assert root.findtext('.//data_protection_kind') == 'ENCRYPT'
    assert root.findtext('.//enable_write_access_control') == 'true'


def test_private_keys_are_for_their_owner_alone(store):
    keys = [path for path in store.folder.rglob('*key.pem') if not path.is_symlink()]
    assert len(keys) == 2
    for path in keys:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(store.private.stat().st_mode) == 0o700


def test_an_enclave_has_what_ros_looks_for(store):
    folder = store.enclaves / 'push_cube/gate'
    names = ['identity_ca.cert', 'cert', 'key', 'permissions_ca.cert']
    assert all((folder / f'{name}.pem').is_file() for name in names)
    assert all((folder / f'{name}.p7s').is_file() for name in ('governance', 'permissions'))
    certificate = x509.load_pem_x509_certificate((folder / 'cert.pem').read_bytes())
    authority = x509.load_pem_x509_certificate((folder / 'identity_ca.cert.pem').read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert certificate.subject.rfc4514_string() == 'CN=/push_cube/gate'
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert not constraints.value.ca


@openssl
def test_documents_are_signed_by_this_authority_and_no_other(store, tmp_path):
    folder = store.enclaves / 'push_cube/gate'
    for name in ('permissions', 'governance'):
        good, content = signed_by(folder / f'{name}.p7s', folder / 'permissions_ca.cert.pem')
        assert good and '<dds' in content
    other = Keystore(tmp_path / 'other', 42)
    assert not signed_by(folder / 'permissions.p7s', other.public / 'ca.cert.pem')[0]
    changed = tmp_path / 'changed.p7s'
    changed.write_text((folder / 'permissions.p7s').read_text().replace('rt/cmd', 'rt/any'))
    assert not signed_by(changed, folder / 'permissions_ca.cert.pem')[0]


@openssl
def test_what_has_expired_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('dmo_ros.security.DAYS', 0)
    store = Keystore(tmp_path / 'keys', 42)
    store.add('/push_cube/gate', RIGHTS)
    document = store.enclaves / 'push_cube/gate/permissions.p7s'
    assert not signed_by(document, store.public / 'ca.cert.pem')[0]


def test_a_keystore_is_extended_by_its_own_authority(store):
    before = (store.public / 'ca.cert.pem').read_bytes()
    again = Keystore(store.folder, 42)
    again.add('/push_t/gate', RIGHTS)
    assert (store.public / 'ca.cert.pem').read_bytes() == before
    for task in ('push_cube', 'push_t'):
        text = (store.enclaves / task / 'gate/cert.pem').read_bytes()
        x509.load_pem_x509_certificate(text).verify_directly_issued_by(store.certificate)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(SecurityError, match='something else'):
        Keystore(tmp_path, 42)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


# ---------------------------------------------------------------------- with real nodes
DRY = {'robot': 'real', 'sink': 'dry_run', 'camera': 'driver/image'}


@contextlib.contextmanager
def listener():
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('listener', context=context)
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def look_again(name, expected, seconds=60.0):
    """
    Return what a running node has, as soon as it is what is expected.

    Each look is a new participant's: one that was there before now and then keeps an early
    account of a node in the making, and never hears the rest.
    """
    end = time.monotonic() + seconds
    while True:
        with listener() as node:
            soon = min(end, time.monotonic() + 5.0)
            while time.monotonic() < soon:
                found = rights_in_dds(running_rights(node, name))
                if found == expected:
                    return found
                time.sleep(0.1)
        if time.monotonic() > end:
            return found


def running_rights(node, name):
    if name not in node.get_node_names():  # not discovered yet
        return RIGHTS

    def names(kind):
        found = getattr(node, f'get_{kind}_names_and_types_by_node')(name, '/')
        return frozenset(topic for topic, _ in found)

    return Interfaces(names('publisher'), names('subscriber'), names('service'), names('client'))


@pytest.mark.ros
def test_permissions_are_exactly_what_the_running_nodes_do(tmp_path):
    """Everything a node of the real robot's graph says, hears and serves, and nothing else."""
    enclaves = make(tmp_path / 'keys', 'push_cube', DRY, 42)
    with running('push_cube', DRY) as graph:
        graph.wait_ready(60)
        names = sorted(graph.children)
        assert set(names) == {'gate', 'teleop', 'camera', 'go2_bridge'}
        for name in names:
            assert f'/push_cube/{name}' in enclaves
            text = (tmp_path / f'keys/enclaves/push_cube/{name}/permissions.xml').read_bytes()
            granted = topics(text, 'publish'), topics(text, 'subscribe')
            found = look_again(name, granted)
            wrong = [set(a) ^ set(b) for a, b in zip(found, granted)]
            assert wrong == [set(), set()], name
    writers = {
        name
        for name in (enclave.rsplit('/', 1)[-1] for enclave in enclaves)
        if 'rt/cmd'
        in topics(
            (tmp_path / f'keys/enclaves/push_cube/{name}/permissions.xml').read_bytes(), 'publish'
        )
    }
    assert writers == {'gate'}, 'only the gate may command the robot'


@pytest.mark.ros
def test_without_dds_security_in_the_middleware_a_secured_graph_does_not_start(tmp_path):
    """Fast DDS of the ROS wheels has none: nodes must end, not run in clear."""
    make(tmp_path / 'keys', 'push_cube', DRY, int(os.environ['ROS_DOMAIN_ID']))
    with running('push_cube', {**DRY, 'keystore': str(tmp_path / 'keys')}) as graph:
        try:
            graph.wait_ready(60)
        except UpError as error:
            assert 'ecurity' in str(error)
        else:
            pytest.skip('this middleware has DDS-Security')


def test_a_graph_with_a_keystore_names_each_nodes_enclave(tmp_path):
    stack = get_stack('push_cube')
    with pytest.raises(StackError, match='dmo security make'):
        stack.resolve({'keystore': str(tmp_path)})
    Keystore(tmp_path, 42).add('/push_cube/gate', RIGHTS)
    for process in stack.resolve({'keystore': str(tmp_path)}):
        line = command(process)
        assert line[line.index('--enclave') + 1] == f'/push_cube/{process.name}'
        assert process.environment['ROS_SECURITY_STRATEGY'] == 'Enforce'
        assert process.environment['ROS_SECURITY_KEYSTORE'] == str(tmp_path)
    assert main(['push_cube', 'keystore:=nowhere']) == 2
