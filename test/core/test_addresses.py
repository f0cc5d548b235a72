"""Twins' addresses: apart from ROS, apart from each other, on ports nobody else is handed."""

from dmo_ros.core.addresses import AddressError, check_domains, twin_dds_domain, twin_port
import pytest

DOMAINS = range(233)
NAMES = ('flexiv', 'flexiv_worker', 'sonic_command', 'sonic_feedback')


def test_a_twin_is_never_in_its_own_ros_domain():
    for domain in DOMAINS:
        check_domains(domain, twin_dds_domain(domain))
        assert 7400 + 250 * twin_dds_domain(domain) + 250 < 32768 + 250


def test_graphs_in_two_ros_domains_share_no_port():
    ports = {twin_port(domain, name) for domain in DOMAINS for name in NAMES}
    assert len(ports) == len(DOMAINS) * len(NAMES)
    assert min(ports) > 1024 and max(ports) < 32768


def test_tests_in_two_ros_domains_share_no_twin():
    assert len({twin_dds_domain(domain) for domain in range(102)}) == 102


def test_a_ros_domain_that_is_the_robots_is_refused():
    with pytest.raises(AddressError, match='ROS_DOMAIN_ID is 0'):
        check_domains(0, 0)
