"""
One training on several processes, alike on a laptop, under torchrun and under SLURM.

What the number of processes must not change: the global batch (each process takes its share of
it), what is drawn (everything derives from the seed and the step, see :meth:`Team.rng`), and what
a checkpoint holds.  A stage's loop::

    team = Team.join(config.device)
    module = team.wrap(objective, config.sharding, Layer)      # before its optimiser
    optimiser = AdamW(objective.parameters(), ...)
    if resuming:
        state = team.load(path, objective)
        team.load_state(objective, optimiser, state['trainer'])
    for step in ...:
        for micro in range(accumulate):
            rows = draw(team.rng(seed, step, micro), batch)    # the global batch, on all alike
            with team.accumulate(module, last=micro == accumulate - 1):
                loss, figures = module(rows[team.share(batch)], ...)
                (loss / accumulate).backward()
        norm = team.clip(objective, 1.0)
        optimiser.step()
        if team.stopping:
            team.save(path, {'trainer': team.state(objective, optimiser), ...})
            raise Stopped
    team.close()

Nothing is synchronised but what has to be: gradients once per step, running RMS of the losses,
one number for :attr:`Team.stopping`.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import inspect
import json
import os
from pathlib import Path
import signal
import threading
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import distributed, nn, Tensor

from . import engine, sharded
from .rendezvous import find_place, meet, own_gpu, Place, TeamError

__all__ = ['Stopped', 'Team', 'TeamError']

# Seconds that a process waits for its peers: they wait while the first judges a finished model.
PATIENCE = 1800.0
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again later
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """A training that was asked to stop and has saved; resumed, it goes on as if it had not."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


class Team:
    """This process among those that train together; alone, it is a team of one."""

    def __init__(self, place: Place, device: torch.device, listen: bool = True) -> None:
        self.place, self.device = place, device
        self.rank, self.size, self.main = place.rank, place.size, place.rank == 0
        self._asked = False
        self._before: dict[int, Any] = {}
        if listen and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    @classmethod
    def join(cls, device: str = 'auto', patience: float = PATIENCE) -> Team:
        """
        Meet the others, where torchrun or srun started some; close the team when done.

        :param device: 'auto', 'cpu' or 'cuda'; each process takes the GPU of its number.
        :param patience: seconds to wait for others in every exchange; here, 300 at most.
        :raises TeamError: the environment is incomplete, or the others do not come.
        """
        place = find_place(os.environ)
        chosen = engine.pick_device(device)
        if chosen.type == 'cuda' and place.size > 1:
            chosen = own_gpu(place)
        if place.size > 1:
            meet(place, chosen, patience)
        return cls(place, chosen)

    @classmethod
    def alone(cls, device: str = 'auto') -> Team:
        """Return a team of one that leaves the environment and the signals alone."""
        return cls(Place(), engine.pick_device(device), listen=False)

    # What each process does, and what it draws

    def share(self, count: int) -> slice:
        """Return the rows of a global batch of ``count`` that are this process's."""
        if count % self.size:
            raise TeamError(
                f'a global batch of {count} does not divide among {self.size} processes; choose a '
                f'multiple of {self.size}'
            )
        rows = count // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def rng(self, *key: int) -> np.random.Generator:
        """Return a generator that depends on the key alone (seed, step, ...): alike on all."""
        return np.random.default_rng(key)

    def own_rng(self, *key: int) -> np.random.Generator:
        """Return a generator that depends on the key and on this process."""
        return np.random.default_rng((*key, 1 + self.rank))

    def generator(self, *key: int) -> torch.Generator:
        """Return torch's generator on the team's device, seeded alike on all by the key."""
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        return torch.Generator(self.device).manual_seed(seed)

    def reseed(self, *key: int) -> None:
        """Let torch's own generator differ between processes; alone it is left as it is."""
        if self.size > 1:
            torch.manual_seed(int(self.own_rng(*key).integers(2**63)))

    # One module on all processes

    def wrap(
        self,
        module: nn.Module,
        sharding: str = 'ddp',
        blocks: type[nn.Module] | tuple[type[nn.Module], ...] = (),
    ) -> nn.Module:
        """
        Return what to call in place of ``module``, which moves to the team's device.

        :param sharding: 'ddp' keeps a copy on every process; 'fsdp2' cuts weights, gradients and
            the optimiser's state into shares (build the optimiser afterwards).
        :param blocks: for fsdp2, the classes of submodules to gather one at a time.
        """
        if sharding not in ('ddp', 'fsdp2'):
            raise ValueError(f'there is no sharding {sharding!r}; choose ddp or fsdp2')
        module.to(self.device)
        if self.size == 1:
            return module
        if sharding == 'fsdp2':
            return self._shard(module, blocks)
        self._begin_alike(module)
        # Buffers (running RMS) stay equal by construction.  The option's name depends on torch's.
        parallel = nn.parallel.DistributedDataParallel
        known = inspect.signature(parallel.__init__).parameters
        name = 'forward_sync_buffers' if 'forward_sync_buffers' in known else 'broadcast_buffers'
        devices = [self.device] if self.device.type == 'cuda' else None
        options: dict[str, Any] = {name: False, 'gradient_as_bucket_view': True}
        return parallel(module, devices, **options)

    def _begin_alike(self, module: nn.Module) -> None:
        """Give all the weights and buffers of the first."""
        for tensor in (*module.parameters(), *module.buffers()):
            distributed.broadcast(tensor.data, 0)

    def _shard(
        self, module: nn.Module, blocks: type[nn.Module] | tuple[type[nn.Module], ...]
    ) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._begin_alike(module)
        mesh = init_device_mesh(self.device.type, (self.size,))
        for part in module.modules():
            if blocks and isinstance(part, blocks):
                fully_shard(part, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    @contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        """Sum gradients locally within; only in the last micro-batch of a step they are sent."""
        if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
            with module.no_sync():
                yield
            return
        set_sync = getattr(module, 'set_requires_gradient_sync', None)  # FSDP2's
        if set_sync is not None:
            set_sync(last)
        yield

    def clip(self, module: nn.Module, most: float) -> Tensor:
        """Bound the norm of the global gradient; returns what it was, the same on all."""
        norm = nn.utils.clip_grad_norm_(module.parameters(), most)
        whole = getattr(norm, 'full_tensor', None)  # a DTensor's, under FSDP2
        return whole() if whole is not None else norm

    # Small exchanges

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each figure over the processes that have it."""
        found = self._gather(dict(figures))
        names = dict.fromkeys(name for one in found for name in one)
        values = {name: [one[name] for one in found if name in one] for name in names}
        return {name: sum(value) / len(value) for name, value in values.items()}

    def _gather(self, plain: Any) -> list[Any]:
        """Exchange JSON values (torch's own exchange of objects would read pickles)."""
        if self.size == 1:
            return [plain]
        text = torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor([len(text)]))
        most = max(int(length) for length in lengths)
        parts = [torch.zeros(most, dtype=torch.uint8) for _ in range(self.size)]
        distributed.all_gather(parts, nn.functional.pad(text, (0, most - len(text))))
        return [
            json.loads(part[: int(length)].numpy().tobytes())
            for part, length in zip(parts, lengths)
        ]

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, which have as many each, in the order of ranks."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def wait(self) -> None:
        """Let no process go on before all are here."""
        self._gather(None)

    # What the first process shows for all

    def progress(self, total: int, start: int, what: str) -> Iterator[int]:
        """Yield step numbers; the first process shows a bar."""
        yield from engine.progress(total, start, what) if self.main else range(start, total)

    def log(
        self, folder: Path, config: Any, resume: bool = False, start: int | None = None
    ) -> engine.RunLog | engine.NoLog:
        """Open a run folder in the first process; the others get a log that keeps nothing."""
        return engine.RunLog(folder, config, resume, start) if self.main else engine.NoLog()

    # Stopping

    @property
    def stopping(self) -> bool:
        """
        Tell whether any process got SIGTERM or SIGUSR1; read it once a step, on all processes.

        They agree: all get the same answer at the same step.  Save then, and raise ``Stopped``.
        """
        if self.size == 1:
            return self._asked
        asked = torch.tensor([int(self._asked)])
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        return bool(asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    # Checkpoints

    def state(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """Return weights and optimiser for :meth:`save`; ``module`` is the one not wrapped."""
        return {
            'model': dict(module.state_dict()),
            'optimiser': sharded.optimiser_state(module, optimiser),
        }

    def load_state(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]
    ) -> None:
        """Undo :meth:`state`, after :meth:`load`."""
        module.load_state_dict(state['model'])
        sharded.load_optimiser_state(module, optimiser, state['optimiser'])

    def whole(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the state of a module in one piece, on the CPU; all processes call it."""
        state = {}
        for name, tensor in module.state_dict().items():
            full = tensor.full_tensor() if sharded.is_shared(tensor) else tensor
            state[name] = full.detach().cpu().clone()
        return state

    def save(self, path: Path, state: Mapping[str, Any]) -> None:
        """
        Write a nested state (see :func:`engine.pack`) atomically; all processes call it.

        What is not shared out is the first process's; shares go to a folder of their own.
        """
        shares: dict[str, Tensor] = {}
        plain, name = sharded.take_out(state, shares), None
        if shares:
            name = self._gather(sharded.next_folder(path) if self.main else None)[0]
            folder = path.parent / name
            files = dict(ChainMap(*self._gather(sharded.write(shares, folder))))
            plain[sharded.FOLDER] = {'folder': name, 'files': files}
        if self.main:
            if name is not None:
                sharded.settle(path.parent / name)
            engine.save_checkpoint(path, plain)
            sharded.remove_others(path, name)
        self.wait()

    def load(self, path: Path, module: nn.Module | None = None) -> dict[str, Any]:
        """
        Read what :meth:`save` wrote, on any number of processes and with any sharding.

        :param module: whose parameters tell how tensors are shared out now.
        :raises CheckpointError: it is missing or damaged.
        """
        return self.complete(path, engine.load_checkpoint(path), module)

    def complete(
        self, path: Path, state: dict[str, Any], module: nn.Module | None = None
    ) -> dict[str, Any]:
        """Add the shares to a state that ``engine.load_to_resume`` read; see :meth:`load`."""
        state, folder = dict(state), None
        note = state.pop(sharded.FOLDER, None)
        if note is not None:
            folder = path.parent / note['folder']
            chosen = sorted(note['files'])[self.rank :: self.size]  # each checks some
            found = self._gather(sharded.faults(folder, note['files'], chosen))
            faults = [fault for one in found for fault in one]
            if faults:
                raise engine.CheckpointError(
                    f'the shares of {path} in {folder} are damaged: {"; ".join(faults)}; all '
                    'processes need that folder. Restore it, or train the stage again'
                )
        return dict(sharded.put_back(state, folder, module))

    def close(self) -> None:
        """Leave the team and give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
