"""
The one door to Unitree's SDK and its DDS: nothing else here imports them.

What passes through it (traps and measurements: hardware reference, sections 0 to 3)::

    kit = sdk()                             # or a RobotError that says what to install
    open_channel(twin_dds_domain(ros_domain), 'lo')  # once a process; another one is refused
    newest = Subscription('rt/lf/lowstate', kit.go.LowState_)   # .sample .arrived .count
    out = Publication('rt/arm_sdk', kit.hg.LowCmd_)             # .write(sample) .matched
    client = open_client(kit.SportClient, timeout=0.2)          # the SDK's own
    loco = make_client('sport', '1.0.0.0', (7001, 7101))  # one it lacks: loco._Call(id, json)
    close_client(client)                    # and newest.close(), out.close()
    server = Service('sport', '1.0.0.1', handle)  # the robot's side, for peers
    message.crc = crc32(message)            # LowCmd_ and LowState_ of go and hg

Everything is closed at the end of the process at the latest: a DDS thread that calls into an
interpreter on its way out takes the process down with it.
"""

from .unitree_channel import LOOPBACK, open_channel, Publication, Sdk, sdk, Subscription
from .unitree_crc import crc32, pack
from .unitree_rpc import (
    Answer,
    API_VERSION,
    BAD_PARAMETER,
    client_matched,
    close_client,
    LinkFaults,
    make_client,
    NO_PEER,
    NOT_IMPLEMENTED,
    OK,
    open_client,
    Request,
    Service,
    TIMED_OUT,
)

__all__ = [
    'Answer',
    'API_VERSION',
    'BAD_PARAMETER',
    'client_matched',
    'close_client',
    'crc32',
    'LinkFaults',
    'LOOPBACK',
    'make_client',
    'NO_PEER',
    'NOT_IMPLEMENTED',
    'OK',
    'open_channel',
    'open_client',
    'pack',
    'Publication',
    'Request',
    'Sdk',
    'sdk',
    'Service',
    'Subscription',
    'TIMED_OUT',
]
