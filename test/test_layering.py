"""
Who may import whom, read from the sources without running them.

``core <- robots <- nodes``, ``core <- twins <- nodes``, ``core <- training``; nobody imports
``nodes`` or ``training`` back, and the command line imports everything lazily, inside functions.
"""

import ast
from dataclasses import dataclass
from pathlib import Path
import sys

import pytest

ROOT = Path(__file__).parents[1]
ROS = {'rclpy', 'rcl_interfaces', 'cv_bridge', 'launch', 'launch_ros', 'dmo_ros.msg'}
LEARNING = {'torch', 'dmo_training'}
VENDORS = {'unitree_sdk2py', 'flexivrdk', 'cyclonedds'}


@dataclass(frozen=True)
class Import:
    """One module that a file imports, and whether it does so when it is itself imported."""

    module: str
    line: int
    lazy: bool


def is_typing(node):
    """Tell whether a node is ``if TYPE_CHECKING:``, whose imports never run."""
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)


def resolve(node, package):
    """Return the absolute names that an import statement may bring in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = package[: len(package) - node.level + 1] if node.level else []
    module = '.'.join([*base, node.module] if node.module else base)
    return [f'{module}.{alias.name}' for alias in node.names]  # a submodule or a name in it


def imports(tree, package, lazy=False):
    """Yield every import of a syntax tree; those inside a function are lazy."""
    for node in ast.iter_child_nodes(tree):
        if is_typing(node):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for module in resolve(node, package):
                yield Import(module, node.lineno, lazy)
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from imports(node, package, inside)


def within(module, names):
    """Return the name among ``names`` that is the module or one of its parents, or None."""
    return next((n for n in sorted(names) if module == n or module.startswith(n + '.')), None)


def is_message(module):
    """Tell whether a module belongs to a package of ROS messages."""
    return module.split('.')[0].endswith(('_msgs', '_srvs', '_interfaces'))


def breach(layer, path, found):
    """Return why a file of a layer may not import what it imports, or an empty string."""
    module, rule = found.module, LAYERS[layer]
    if rule.only is not None:
        allowed = rule.only | set(sys.stdlib_module_names)
        lazily = rule.lazily.get(path.name, set()) if found.lazy else set()
        if not within(module, allowed | lazily):
            return 'only ' + ', '.join(sorted(rule.only)) + ' and the standard library'
        return ''
    if found.lazy and within(module, rule.lazily.get('*', set())):
        return ''
    if within(module, rule.never):
        return f'never {within(module, rule.never)}'
    if not found.lazy and within(module, rule.lazily.get('*', set())):
        return f'{within(module, rule.lazily["*"])} only inside a function'
    return 'no ROS messages' if rule.no_messages and is_message(module) else ''


@dataclass(frozen=True)
class Layer:
    """
    What a folder may import.

    ``only``: nothing but these and the standard library; otherwise all but ``never``.
    ``lazily``: file name (or '*' for all files) -> modules allowed inside functions only.
    """

    never: frozenset = frozenset()
    only: frozenset | None = None
    lazily: dict | None = None
    no_messages: bool = True


def ours(*names):
    """Return the full names of our own folders and modules."""
    return {f'dmo_ros.{name}' for name in names}


LAYERS = {
    'dmo_ros/core': Layer(
        only=frozenset({'numpy', 'dmo_ros.core'}),
        lazily={'policy.py': {'onnxruntime'}, 'images.py': {'cv2'}},
    ),
    'dmo_ros/robots': Layer(
        never=frozenset(ROS | LEARNING | ours('twins', 'nodes', 'stacks', 'cli')),
        lazily={'*': VENDORS},
    ),
    'dmo_ros/twins': Layer(
        never=frozenset(ROS | LEARNING | ours('robots', 'nodes', 'stacks', 'cli')),
        lazily={'*': VENDORS},
    ),
    'dmo_ros/nodes': Layer(
        never=frozenset(LEARNING | VENDORS | {'launch', 'launch_ros'} | ours('cli')),
        lazily={'*': {'cv_bridge'}},
        no_messages=False,
    ),
    'training': Layer(
        never=frozenset(ROS | VENDORS | ours('robots', 'nodes', 'stacks', 'cli')),
        lazily={},
    ),
    'dmo_ros': Layer(  # cli.py, stacks.py and what else lies at the top
        never=frozenset({'launch', 'launch_ros'}),
        lazily={'*': ROS | LEARNING | {'numpy', 'onnxruntime', 'cv2'} | ours('nodes', 'twins')},
    ),
}


def files(layer):
    """Return the sources of a layer; the top of the package is its own files only."""
    folder = ROOT / layer
    return sorted(folder.glob('*.py') if layer == 'dmo_ros' else folder.rglob('*.py'))


def package_of(path):
    """Return the dotted package of a file as a list; training is installed as dmo_training."""
    parts = list(path.relative_to(ROOT).parent.parts)
    return ['dmo_training', *parts[1:]] if parts[0] == 'training' else parts


def breaches(layer, path, source):
    """Return one sentence per forbidden import of a source text."""
    found = imports(ast.parse(source), package_of(path))
    reasons = [(entry, breach(layer, path, entry)) for entry in found]
    return [
        f'{path.relative_to(ROOT)}:{entry.line} imports {entry.module} ({layer}: {reason})'
        for entry, reason in reasons
        if reason
    ]


@pytest.mark.parametrize('layer', LAYERS)
def test_imports_point_inwards(layer):
    found = [text for path in files(layer) for text in breaches(layer, path, path.read_text())]
    assert not found, '\n' + '\n'.join(found)


@pytest.mark.parametrize(
    ('layer', 'file', 'source'),
    [
        ('dmo_ros/core', 'gate.py', 'import torch'),
        ('dmo_ros/core', 'gate.py', 'from ..nodes import qos'),
        ('dmo_ros/core', 'policy.py', 'import onnxruntime'),
        ('dmo_ros/core', 'gate.py', 'def f():\n    import onnxruntime'),
        ('dmo_ros/twins', 'pusher.py', 'from dmo_ros.nodes import camera'),
        ('dmo_ros/twins', 'pusher.py', 'import sensor_msgs.msg'),
        ('dmo_ros/robots', 'go2.py', 'import unitree_sdk2py.core'),
        ('dmo_ros/nodes', 'policy.py', 'if True:\n    import torch.nn'),
        ('dmo_ros/nodes', 'policy.py', 'def f():\n    from dmo_training import engine'),
        ('training', 'data.py', 'import rclpy'),
        ('training', 'rl/dmo.py', 'from dmo_ros import nodes'),
        ('dmo_ros', 'cli.py', 'from dmo_ros.nodes import gate'),
    ],
)
def test_a_breach_is_found_and_named(layer, file, source):
    (text,) = breaches(layer, ROOT / layer / file, source)
    assert f'{layer}/{file}:' in text and 'imports' in text


@pytest.mark.parametrize(
    ('layer', 'file', 'source'),
    [
        (
            'dmo_ros/core',
            'gate.py',
            'import math\nimport numpy as np\nfrom .tasks import get_task',
        ),
        ('dmo_ros/core', 'policy.py', 'def f():\n    import onnxruntime'),
        ('dmo_ros/robots', 'go2.py', 'def f():\n    import unitree_sdk2py.core'),
        (
            'dmo_ros/nodes',
            'camera.py',
            'from sensor_msgs.msg import Image\nfrom ..core import images',
        ),
        ('dmo_ros/nodes', 'camera.py', 'from dmo_ros.msg import IntentLabel'),
        (
            'training',
            'data.py',
            'import torch\nfrom .rl import dmo\nfrom dmo_ros.core import tasks',
        ),
        ('dmo_ros', 'cli.py', 'def f():\n    from dmo_training import engine'),
    ],
)
def test_what_is_allowed_passes(layer, file, source):
    assert breaches(layer, ROOT / layer / file, source) == []
