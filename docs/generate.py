"""
Write the tables of the guide from the sources, so that they cannot fall behind.

    python docs/generate.py            # rewrite what has changed
    python docs/generate.py --check    # only tell; exit code 1 when something has

A table lives between ``<!-- generated NAME -->`` and ``<!-- end NAME -->``.  One whose library is
not installed (ROS for the nodes, PyTorch for the presets) is left as it is, with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
import importlib
import os
from pathlib import Path
import re
import sys
import tempfile
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ('README.md', 'docs/method.md')
NODES = (
    'camera',
    'teleop',
    'keyboard',
    'remote',
    'gate',
    'policy',
    'go2_bridge',
    'g1_bridge',
    'flexiv_bridge',
    'recorder',
    'twin',
    'operator',
    'evaluator',
)
# Nodes that want a terminal or a robot to be made: what they hear and say.
MADE_ELSEWHERE = {
    'keyboard': ('`gate/status` (DiagnosticStatus)', '`joy` (Joy)', '-'),
    'remote': ('-', '`joy` (Joy)', '-'),
}
COMMON = ('/rosout', '/parameter_events')  # every node has them

# What the paper states (Table 4 and text; '-': it leaves it open), and the field that holds it.
PAPER = (
    ('actors', '128', 'agent.actors'),
    ('horizon H', '16', 'agent.horizon'),
    ('episode length, steps', '64 ("forward simulation length")', 'agent.episode_length'),
    ('epochs', '- (8 M samples for Push-T)', 'agent.epochs'),
    ('gamma', '0.99', 'agent.gamma'),
    ('lambda', '0.95', 'agent.lam'),
    ('alpha at the start', '-', 'agent.alpha_init'),
    ('target entropy, nats', '-6.0', 'agent.target_entropy'),
    ('learning rate: actor', '2e-3', 'agent.actor_lr'),
    ('learning rate: critics', '5e-4', 'agent.critic_lr'),
    ('learning rate: alpha', '5e-3', 'agent.temperature_lr'),
    ('last rate of the linear schedule', '-', 'agent.final_lr'),
    ('Adam betas', '0.7, 0.95', 'agent.betas'),
    ('gradient clip', '1.0', 'agent.grad_clip'),
    ('mini-epochs (critics)', '8', 'agent.mini_epochs'),
    ('mini-batch (critics)', '256', 'agent.mini_batch'),
    ('critics', '- (one V is written)', 'agent.n_critics'),
    ('actor', '256, 128, 64, SiLU', 'agent.actor_hidden'),
    ('log std at the start', '-', 'agent.log_std_init'),
    ('log std, range', '-', 'agent.log_std_range'),
    ('denoisings a frame', '3', 'policy.denoising_steps'),
    ('model updates an epoch', '- ("model mini epoch")', 'policy.model_updates'),
    ('model batch', '-', 'policy.model_batch'),
    ('model segment, steps', '-', 'policy.model_length'),
    ('share of play in it', '-', 'policy.play_share'),
    ('replay, transitions', '1e6', 'policy.replay'),
    ('local model: learning rate, pretraining', '1e-4', 'local.learning_rate'),
    ('local model: learning rate, online', '1e-4', 'policy.model_lr'),
    ('local model: updates before RL', '-', 'local.updates'),
    ('share of them that emphasises images', '-', 'local.picture_share'),
    ('how much', '-', 'local.picture_emphasis'),
    ('local model: recurrent', '1024', 'rssm.recurrent'),
    ('local model: groups x classes', '32 x 32', 'rssm.groups rssm.classes'),
    ('local model: dense units', '640', 'rssm.units'),
    ('local model: channels multiplier', '48', 'rssm.multiplier'),
    ('local model: MLP layers', '3', 'rssm.mlp_layers'),
    (
        'KL scales dyn / rep / free',
        '0.5 / 0.1 / 1.0',
        'rssm.dynamics_scale rssm.representation_scale rssm.free_nats',
    ),
    ('reward bins / span', '101 / 10', 'rssm.reward_bins rssm.reward_span'),
    ('loss scale of images', '-', 'rssm.image_scale'),
    ('loss scale of the reward', '-', 'rssm.reward_scale'),
    ('extra weight of pixels that move', '-', 'rssm.motion_weight'),
    ('noise on training actions', '-', 'rssm.action_noise'),
    ('reward: weight of the goal energy', '1 (Push-T)', 'reward.energy_weight'),
    ('reward: weight of the milestone', '-', 'reward.milestone_weight'),
    ('reward: factors of anticipation', '-', 'reward.anticipation'),
    ('reward: ensemble', '-', 'reward.members'),
)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(
        '| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in line) + ' |' for line in lines
    )


def tasks() -> str:
    """Tabulate core/tasks.py."""
    from dmo_ros.core.tasks import TASKS
    from dmo_ros.stacks import STACKS

    head = (
        'task',
        'robot',
        'rate',
        'camera',
        'world model sees',
        'policy sees',
        'actions',
        'policy drives',
        'success',
        'global model',
        'reward',
        'runs',
    )
    rows = []
    for t in TASKS.values():
        stack = f', stack {t.frame_stack}' if t.frame_stack > 1 else ''
        state = f' + {len(t.proprioception)} fields' if t.proprioception else ''
        rows.append(
            (
                f'`{t.name}`',
                t.robot,
                f'{t.rate_hz:g} Hz',
                f'{t.camera.width}x{t.camera.height}',
                f'{t.frame_size}x{t.frame_size}{stack}{state}',
                f'{t.policy_size}x{t.policy_size}',
                len(t.actions),
                _driven(t),
                f'{t.success.distance} < {t.success.threshold:g} '
                f'{t.success.unit}, {t.success.hold_steps} steps',
                t.global_model,
                t.reward,
                'yes' if t.name in STACKS else 'not yet',
            )
        )
    return table(head, rows)


def _driven(task: Any) -> str:
    if len(task.driven) > 3:
        return str(len(task.driven))
    return ', '.join(f'{f.name} ±{f.high:g} {f.unit}' for f in task.driven)


def graphs() -> str:
    """Tabulate the graphs of stacks.py."""
    from dmo_ros.stacks import GRAPHS

    return table(
        ('graph', 'launch file', 'what it is', 'its nodes'),
        [
            (
                f'`{name}`',
                f'`{stack.launch}.launch.py`',
                stack.description,
                ', '.join(dict.fromkeys(f'`{node.name}`' for node in stack.nodes))
                or 'those of `task:=`',
            )
            for name, stack in GRAPHS.items()
        ],
    )


def arguments() -> str:
    """Tabulate the arguments of all graphs."""
    from dmo_ros.stacks import GRAPHS

    users: dict[Any, list[str]] = {}
    for name, stack in GRAPHS.items():
        for argument in stack.arguments:
            users.setdefault(argument, []).append(f'`{name}`')
    every = len(GRAPHS)
    return table(
        ('argument', 'default', 'values', 'meaning', 'of'),
        [
            (
                f'`{a.name}:=`',
                f'`{a.default!r}`',
                a.values,
                a.description,
                'all' if len(names) == every else ', '.join(names),
            )
            for a, names in sorted(users.items(), key=lambda item: -len(item[1]))
        ],
    )


def nodes() -> str:
    """Start every node once, in this process, and tabulate what it says and hears."""
    from dmo_ros.interfaces import make_node
    import numpy as np
    import rclpy

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(f'{folder}/starts.npy', np.full((1, 4), 0.5))
        given = [
            'recorder:autostart:=false',
            f'evaluator:starts:={folder}/starts.npy',
            f'evaluator:out:={folder}/states.npy',
            'camera:topic:=twin/image',
        ]
        os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        words = [word for value in given for word in ('-p', value)]
        rclpy.init(args=['--ros-args', *words, '--log-level', 'fatal'])
        try:
            for name in NODES:
                if name in MADE_ELSEWHERE:
                    rows.append((f'`{name}`', _does(name), *MADE_ELSEWHERE[name]))
                else:
                    rows.append(_describe(name, make_node(name)))
        finally:
            rclpy.try_shutdown()
    return table(('node', 'does', 'subscribes', 'publishes', 'services'), rows)


def _describe(name: str, node: Any) -> tuple[str, ...]:
    heard = _listed((s.topic_name, s.msg_type) for s in node.subscriptions)
    said = _listed((p.topic_name, p.msg_type) for p in node.publishers)
    served = _listed(
        (node.resolve_service_name(s.srv_name), s.srv_type)
        for s in node.services
        if 'rcl_interfaces' not in s.srv_type.__module__ and 'type_description' not in s.srv_name
    )
    node.destroy_node()
    return f'`{name}`', _does(name), heard, said, served


def _does(name: str) -> str:
    """Return the first paragraph of a node's own text."""
    text = importlib.import_module(f'dmo_ros.nodes.{name}').__doc__ or ''
    doc = ' '.join(text.strip().split('\n\n')[0].split()).replace('``', '`')
    return re.sub(r' *\(see :mod:`[^`]*`\)', '', doc).rstrip('.')


def _listed(ends: Iterator[tuple[str, type]]) -> str:
    found = {name.lstrip('/'): kind for name, kind in ends if name not in COMMON}
    if lifecycle := [n for n, kind in found.items() if 'lifecycle' in kind.__module__]:
        found = {n: kind for n, kind in found.items() if n not in lifecycle}
    texts = [f'`{name}` ({kind.__name__})' for name, kind in sorted(found.items())]
    return ', '.join(texts + ['those of a lifecycle node'] * bool(lifecycle)) or '-'


def parameters() -> str:
    """Tabulate the frozen dataclasses that the nodes declare."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in NODES:
        module = importlib.import_module(f'dmo_ros.nodes.{name}')
        kind = next(
            kind
            for key, kind in vars(module).items()
            if key.endswith('Config') and kind.__module__ == module.__name__
        )
        for row in _parameters(kind):
            found.setdefault(row, []).append(f'`{name}`')
    return table(
        ('node', 'parameter', 'default', 'range', 'description'),
        [(', '.join(names), *row) for row, names in found.items()],
    )


def _parameters(kind: Any, prefix: str = '') -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for item in fields(kind):
        if is_dataclass(item.default):
            rows += _parameters(item.default, f'{prefix}{item.name}.')
            continue
        meta = item.metadata
        span = ', '.join(meta.get('choices') or ())
        if meta.get('low') is not None:
            span = f'{meta["low"]:.10g} to {meta["high"]:.10g}'
        text = meta.get('description', '')
        rows.append(
            (
                f'`{prefix}{item.name}`',
                _value(item.default),
                span or '-',
                text[:1].lower() + text[1:],
            )
        )
    return rows


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ', '.join(map(_value, value)) or '-'
    if isinstance(value, float):
        return f'{value:g}'
    return str(value) if value != '' else '-'


def hyperparameters() -> str:
    """Tabulate the paper's settings beside our defaults and the demo's."""
    columns = [_configs('paper'), _configs('demo')]
    rows = []
    for text, stated, paths in PAPER:
        cells = [
            ' / '.join(_value(_field(column, path)) for path in paths.split())
            for column in columns
        ]
        names = ', '.join(f'`{path.split(".")[1]}`' for path in paths.split())
        rows.append((text, names, stated, *cells))
    return table(('setting', 'field', 'the paper', 'preset `paper`', 'preset `demo`'), rows)


def _configs(name: str) -> dict[str, Any]:
    """Return the configs of a preset by the words that PAPER uses."""
    from dmo_training.presets import preset

    found = {}
    for stage in ('local', 'policy', 'reward'):
        script = importlib.import_module(f'dmo_training.train_{stage}')
        paths = {
            item.name: Path()
            for item in fields(script.Config)
            if item.name in ('data', 'out', 'reward', 'global_model', 'local_model')
        }
        found[stage] = script.Config(task='pusher', **paths, **preset(stage, name))
    return {
        'agent': found['policy'].agent,
        'rssm': found['local'].model,
        'policy': found['policy'],
        'local': found['local'],
        'reward': found['reward'].model,
    }


def _field(configs: dict[str, Any], path: str) -> Any:
    config, name = path.split('.')
    return getattr(configs[config], name)


TABLES: dict[str, Callable[[], str]] = {
    'tasks': tasks,
    'graphs': graphs,
    'arguments': arguments,
    'nodes': nodes,
    'parameters': parameters,
    'hyperparameters': hyperparameters,
}


def render(text: str, name: str, content: str) -> str:
    """Return ``text`` with the table ``name`` replaced by ``content``."""
    pattern = rf'(<!-- generated {name} -->\n).*?(<!-- end {name} -->)'
    return re.sub(pattern, lambda found: f'{found[1]}{content}\n{found[2]}', text, flags=re.S)


def main(words: Sequence[str]) -> int:
    """Write, or with --check compare; 1 when a comparison found a difference."""
    stale = False
    for guide in GUIDES:
        path = ROOT / guide
        old = new = path.read_text()
        for name in re.findall(r'<!-- generated (\w+) -->', old):
            try:
                new = render(new, name, TABLES[name]())
            except ModuleNotFoundError as error:
                print(f'{guide}: {name} is left as it is; {error.name} is not installed here')
        if new != old:
            stale = True
            print(
                f'{guide}: '
                + ('out of date; run python docs/generate.py' if '--check' in words else 'written')
            )
            if '--check' not in words:
                path.write_text(new)
    return 1 if stale and '--check' in words else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
