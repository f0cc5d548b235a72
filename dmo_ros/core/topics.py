"""What a recording holds: one list, read by the recorder and by every stack."""

from __future__ import annotations

# Relative to the graph's namespace. A topic that a task does not have is not waited for.
RECORDED = (
    'image_raw',
    'camera_info',
    'cmd',
    'cmd_teleop',
    'cmd_policy',
    'intent',
    'joy',
    'estop',
    'gate/status',
    'policy/status',
    'bridge/status',
    'bridge/sent',
    'joint_states',
    'odom',
    'twin/state',
    'diagnostics',
    'clock',
)
