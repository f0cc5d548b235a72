"""
Where the robots' own protocols are spoken: DDS domains and ports, kept apart from ROS's.

A real robot's addresses are the vendor's.  A twin's follow from the ROS domain, so that two graphs
in two ROS domains of one machine do not meet on the twins' side either.
"""

from __future__ import annotations

ROBOT_DDS_DOMAIN = 0  # Unitree robots; ROS 2's own default as well, hence the check below
_SAFE = 102  # DDS domains whose ports lie below those that Linux hands to clients
_SHIFT = 50
_PORTS = 21000
_NAMES = ('flexiv', 'flexiv_worker', 'sonic_command', 'sonic_feedback')


class AddressError(ValueError):
    """An address that would mix two networks."""


def twin_dds_domain(ros_domain: int) -> int:
    """Return the DDS domain of a twin's robot-side topics for a ROS domain (0 to 232)."""
    return (ros_domain + _SHIFT) % _SAFE


def twin_port(ros_domain: int, name: str) -> int:
    """Return a loopback TCP port of a twin's protocol for a ROS domain (0 to 232)."""
    return _PORTS + len(_NAMES) * ros_domain + _NAMES.index(name)


def check_domains(ros_domain: int, dds_domain: int) -> None:
    """
    Refuse a ROS domain that is the robot's own DDS domain.

    :raises AddressError: they are the same: ROS topic ``/x`` is DDS ``rt/x``, the robot's prefix.
    """
    if ros_domain == dds_domain:
        raise AddressError(
            f'ROS_DOMAIN_ID is {ros_domain}, which is the DDS domain of the robot itself, and '
            'both name their topics rt/...; set ROS_DOMAIN_ID to another number (42, say)'
        )
