"""
Who may import whom, read from the sources without running them.

``core <- robots <- nodes``, ``core <- twins <- nodes``, ``core <- training``; nobody imports
``nodes`` or ``training`` back, and the command line imports everything inside functions.
"""

import ast
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
import sys

import pytest

ROOT = Path(__file__).parents[1]
ROS = {'rclpy', 'rcl_interfaces', 'cv_bridge', 'launch', 'launch_ros', 'dmo_ros.msg'}
MESSAGES = {'*_msgs', '*_srvs', '*_interfaces'}
LEARNING = {'torch', 'dmo_training'}
VENDORS = {'unitree_sdk2py', 'flexivrdk', 'cyclonedds'}
STANDARD = set(sys.stdlib_module_names)


@dataclass(frozen=True)
class Layer:
    """
    What the files of a folder may import.

    ``only``: nothing but these. ``never``: everything but these. ``lazily``: inside functions
    these as well, per file (a pattern). ``except_in``: per file, an exemption from ``never``.
    """

    only: set[str] = field(default_factory=set)
    never: set[str] = field(default_factory=set)
    lazily: dict[str, set[str]] = field(default_factory=dict)
    except_in: dict[str, set[str]] = field(default_factory=dict)


def ours(*names):
    """Return the full names of folders and modules of dmo_ros."""
    return {f'dmo_ros.{name}' for name in names}


LAYERS = {
    'dmo_ros/core': Layer(
        only=STANDARD | {'numpy', 'dmo_ros.core'},
        lazily={
            'policy.py': {'onnxruntime'},
            'images.py': {'cv2'},
            'signature.py': {'cryptography'},
        },
    ),
    'dmo_ros/robots': Layer(
        never=ROS | MESSAGES | LEARNING | ours('twins', 'nodes', 'stacks', 'cli'),
        lazily={'*': VENDORS},
    ),
    'dmo_ros/twins': Layer(
        never=ROS | MESSAGES | LEARNING | ours('robots', 'nodes', 'stacks', 'cli'),
        lazily={'*': VENDORS},
        # One door to the vendor's DDS: what it needs to be imported safely is not written twice.
        except_in={'g*_peer.py': ours('robots.unitree')},
    ),
    'dmo_ros/nodes': Layer(
        never=LEARNING | VENDORS | {'launch', 'launch_ros'} | ours('cli'),
        lazily={'*': {'cv_bridge'}},
    ),
    'training': Layer(
        never=ROS | MESSAGES | VENDORS | ours('twins', 'robots', 'nodes', 'stacks', 'cli'),
        except_in={
            'evaluate.py': ours('twins'),
            'twin_world.py': ours('twins'),
            'experiments/*': ours('twins'),
        },
    ),
    'dmo_ros': Layer(  # what lies at the top: cli.py, stacks.py; `dmo --help` is quick
        lazily={'*': ROS | MESSAGES | LEARNING | {'numpy', 'onnxruntime', 'cv2'} | ours('nodes')},
    ),
}


@dataclass(frozen=True)
class Import:
    """One module that a file imports; lazy if only when a function runs."""

    module: str
    line: int
    lazy: bool


def imported_names(node, package):
    """Return the absolute names that an import statement may bring in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = package[: len(package) - node.level + 1] if node.level else []
    module = '.'.join([*base, node.module] if node.module else base)
    return [f'{module}.{alias.name}' for alias in node.names]  # a submodule, or a name in it


def imports(tree, package, lazy=False):
    """Yield every import of a syntax tree, save those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for module in imported_names(node, package):
                yield Import(module, node.lineno, lazy)
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from imports(node, package, inside)


def among(module, names):
    """Tell whether a module or one of its parents matches one of the names."""
    parts = module.split('.')
    parents = ['.'.join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch(parent, name) for parent in parents for name in names)


def granted(rules, file):
    """Return the union of what the rules of a folder grant to a file."""
    return set().union(*(names for pattern, names in rules.items() if fnmatch(file, pattern)))


def refusal(layer, file, found):
    """Return why a file of a layer may not import what it does, or an empty string."""
    lazily = granted(layer.lazily, file)
    if among(found.module, granted(layer.except_in, file)):
        return ''
    if among(found.module, lazily):
        return '' if found.lazy else 'only inside a function'
    if layer.only and not among(found.module, layer.only):
        return f'allowed here: {", ".join(sorted(layer.only - STANDARD))}'
    return 'not in this layer' if among(found.module, layer.never) else ''


def refusals(name, path, source):
    """Return one sentence per forbidden import of a source text."""
    parts = path.relative_to(ROOT).parent.parts
    package = ['dmo_training', *parts[1:]] if parts[0] == 'training' else list(parts)
    file = path.relative_to(ROOT / name).as_posix()
    found = [(i, refusal(LAYERS[name], file, i)) for i in imports(ast.parse(source), package)]
    return [
        f'{path.relative_to(ROOT)}:{i.line} imports {i.module}: {why}' for i, why in found if why
    ]


def files(name):
    """Return the sources of a layer; of the package's top only what lies there itself."""
    folder = ROOT / name
    return sorted(folder.glob('*.py') if name == 'dmo_ros' else folder.rglob('*.py'))


@pytest.mark.parametrize('name', LAYERS)
def test_imports_point_inwards(name):
    found = [text for path in files(name) for text in refusals(name, path, path.read_text())]
    assert not found, '\n' + '\n'.join(found)


@pytest.mark.parametrize(
    ('name', 'file', 'source', 'module'),
    [
        ('dmo_ros/core', 'gate.py', 'import torch', 'torch'),
        ('dmo_ros/core', 'gate.py', 'from ..nodes import qos', 'dmo_ros.nodes.qos'),
        ('dmo_ros/core', 'policy.py', 'import onnxruntime', 'onnxruntime'),
        ('dmo_ros/core', 'gate.py', 'def f():\n    import onnxruntime', 'onnxruntime'),
        ('dmo_ros/twins', 'pusher.py', 'from dmo_ros.nodes import x', 'dmo_ros.nodes.x'),
        ('dmo_ros/twins', 'pusher.py', 'import sensor_msgs.msg', 'sensor_msgs.msg'),
        ('dmo_ros/robots', 'go2.py', 'import unitree_sdk2py.core', 'unitree_sdk2py.core'),
        ('dmo_ros/nodes', 'policy.py', 'try:\n    import torch.nn\nfinally: 0', 'torch.nn'),
        ('dmo_ros/nodes', 'gate.py', 'def f():\n    import dmo_training', 'dmo_training'),
        ('training', 'data.py', 'import rclpy', 'rclpy'),
        ('training', 'data.py', 'from dmo_ros.twins import pusher', 'dmo_ros.twins.pusher'),
        ('training', 'rl/dmo.py', 'from dmo_ros import nodes', 'dmo_ros.nodes'),
        ('dmo_ros', 'cli.py', 'from .nodes import gate', 'dmo_ros.nodes.gate'),
    ],
)
def test_a_breach_is_found_and_named(name, file, source, module):
    (text,) = refusals(name, ROOT / name / file, source)
    assert text.startswith(f'{name}/{file}:') and f'imports {module}:' in text


@pytest.mark.parametrize(
    ('name', 'file', 'source'),
    [
        ('dmo_ros/core', 'gate.py', 'import math, numpy as np\nfrom .tasks import get_task'),
        ('dmo_ros/core', 'policy.py', 'def f():\n    import onnxruntime'),
        ('dmo_ros/robots', 'go2.py', 'def f():\n    import unitree_sdk2py.core'),
        ('dmo_ros/nodes', 'camera.py', 'from sensor_msgs.msg import Image\nfrom .. import core'),
        ('dmo_ros/nodes', 'camera.py', 'from dmo_ros.msg import IntentLabel'),
        ('training', 'data.py', 'import torch\nfrom .rl import dmo\nfrom dmo_ros import core'),
        ('training', 'evaluate.py', 'from dmo_ros.twins import pusher'),
        ('dmo_ros', 'cli.py', 'def f():\n    from dmo_training import engine'),
    ],
)
def test_what_is_allowed_passes(name, file, source):
    assert refusals(name, ROOT / name / file, source) == []
