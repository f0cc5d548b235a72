"""Definitions that our recordings carry, against rosbags' own and against the types' hashes."""

from dmo_ros.nodes.definitions import definition, message_class, starts_with_stamp
import pytest

STANDARD = [
    'sensor_msgs/msg/Image',
    'sensor_msgs/msg/CameraInfo',
    'sensor_msgs/msg/Joy',
    'sensor_msgs/msg/JointState',
    'sensor_msgs/msg/CompressedImage',
    'geometry_msgs/msg/TwistStamped',
    'nav_msgs/msg/Odometry',
    'diagnostic_msgs/msg/DiagnosticArray',
    'rosgraph_msgs/msg/Clock',
]


@pytest.mark.parametrize('kind', STANDARD)
def test_a_definition_has_the_hash_of_the_type(kind):
    typesys = pytest.importorskip('rosbags.typesys')
    known = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    ours = typesys.get_typestore(typesys.Stores.EMPTY)
    ours.register(typesys.get_types_from_msg(definition(kind), kind))
    assert ours.hash_rihs01(kind) == known.hash_rihs01(kind)


@pytest.mark.parametrize('name', ['IntentLabel', 'BodyCommand', 'PolicyStatus'])
def test_our_own_messages_round_trip_through_their_definition(name):
    typesys = pytest.importorskip('rosbags.typesys')
    from rclpy.serialization import deserialize_message, serialize_message

    kind = f'dmo_ros/msg/{name}'
    store = typesys.get_typestore(typesys.Stores.EMPTY)
    store.register(typesys.get_types_from_msg(definition(kind), kind))
    message = message_class(kind)()
    for number, (field, spelling) in enumerate(message.get_fields_and_field_types().items()):
        if spelling == 'string':
            setattr(message, field, f'text {number}')
        elif '[' in spelling:
            setattr(message, field, [number + i / 8 for i in range(len(getattr(message, field)))])
        elif '/' not in spelling:
            setattr(message, field, type(getattr(message, field))(number))
    raw = store.serialize_cdr(store.deserialize_cdr(serialize_message(message), kind), kind)
    assert deserialize_message(bytes(raw), message_class(kind)) == message


def test_which_messages_begin_with_a_stamp():
    assert starts_with_stamp('dmo_ros/msg/IntentLabel')
    assert starts_with_stamp('geometry_msgs/msg/TwistStamped')
    assert not starts_with_stamp('geometry_msgs/msg/Twist')
