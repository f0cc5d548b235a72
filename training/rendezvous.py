"""
Where a process stands among its peers, and how they meet.

``torchrun`` says RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.  ``srun`` says
SLURM_PROCID, SLURM_STEP_NUM_TASKS (or SLURM_NTASKS), SLURM_LOCALID and a list of hosts, of which
the first is where the processes meet; the list is read here, without a call of ``scontrol``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
import os
import re
import socket

import torch
from torch import distributed

LOCAL = ('127.0.0.1', 'localhost')
MEETING = 300.0  # seconds: nodes do not start at once
FIRST_PORT, PORTS = 20_000, 10_000  # below Linux's range of ephemeral ports


class TeamError(RuntimeError):
    """Processes that cannot work together: how they were started, or one that went missing."""


@dataclass(frozen=True)
class Place:
    """Rank among ``size`` processes, ``local`` on its own machine, and where all of them meet."""

    rank: int = 0
    size: int = 1
    local: int = 0
    host: str = '127.0.0.1'
    port: int = 0


def find_place(environ: Mapping[str, str]) -> Place:
    """
    Return this process's place; alone where neither torchrun nor srun started it.

    :raises TeamError: the environment says a part of it only, or contradicts itself.
    """
    if 'RANK' in environ or 'WORLD_SIZE' in environ:
        return _check(_from_torchrun(environ))
    if 'SLURM_PROCID' in environ:
        return _check(_from_slurm(environ))
    return Place()


def _from_torchrun(environ: Mapping[str, str]) -> Place:
    rank = _number(environ, 'RANK', 'torchrun')
    size = _number(environ, 'WORLD_SIZE', 'torchrun')
    if size == 1:
        return Place(rank, size)
    local = _number(environ, 'LOCAL_RANK', 'torchrun')
    port = _number(environ, 'MASTER_PORT', 'torchrun')
    return Place(rank, size, local, _text(environ, 'MASTER_ADDR', 'torchrun'), port)


def _from_slurm(environ: Mapping[str, str]) -> Place:
    rank = _number(environ, 'SLURM_PROCID', 'srun')
    tasks = 'SLURM_STEP_NUM_TASKS' if 'SLURM_STEP_NUM_TASKS' in environ else 'SLURM_NTASKS'
    size = int(environ[tasks]) if environ.get(tasks, '').isdecimal() else 1
    if size == 1:
        return Place(rank, size)
    if not {'SLURM_STEP_ID', 'SLURM_STEPID'} & environ.keys():
        raise TeamError(
            f'the SLURM job has {size} tasks but this process was not started by srun, so the '
            'others would never come; put `srun` before the command in the batch script'
        )
    local = _number(environ, 'SLURM_LOCALID', 'srun')
    nodes = 'SLURM_STEP_NODELIST' if 'SLURM_STEP_NODELIST' in environ else 'SLURM_NODELIST'
    nodes = nodes if nodes in environ else 'SLURM_JOB_NODELIST'
    host = environ.get('MASTER_ADDR') or first_host(_text(environ, nodes, 'srun'))
    if environ.get('MASTER_PORT'):
        return Place(rank, size, local, host, _number(environ, 'MASTER_PORT', 'srun'))
    # Two steps of one job, or two jobs on a shared node, must not meet at the same port.
    job = _number(environ, 'SLURM_JOB_ID', 'srun')
    step = environ.get('SLURM_STEP_ID', environ.get('SLURM_STEPID', '0'))
    step_number = int(step) if step.isdecimal() else 0
    return Place(rank, size, local, host, FIRST_PORT + (job * 7 + step_number) % PORTS)


def first_host(nodes: str) -> str:
    """
    Return the first host of a SLURM node list: ``n[07-09,12],m3`` -> ``n07``.

    :raises TeamError: the text is no node list.
    """
    name = r'[A-Za-z0-9_.-]*'
    digits = r'\[(\d+)[\d,-]*\]'
    found = re.match(rf'^({name})(?:{digits})?({name})(?:{digits})?({name})(?:,|$)', nodes.strip())
    host = ''.join(part or '' for part in found.groups()) if found else ''
    if not host:
        raise TeamError(
            f'the node list {nodes!r} names no host; set MASTER_ADDR to the first host of the job'
        )
    return host


def _check(place: Place) -> Place:
    if not 0 <= place.rank < place.size:
        raise TeamError(
            f'this process says it is number {place.rank} of {place.size}; numbers go from 0 to '
            f'{place.size - 1}. Start all processes with one torchrun or one srun'
        )
    if place.size > 1 and not 0 < place.port < 65_536:
        raise TeamError(f'{place.port} is no port; set MASTER_PORT to one from 1024 to 65535')
    return place


def _text(environ: Mapping[str, str], name: str, starter: str) -> str:
    if not environ.get(name):
        raise TeamError(
            f'{name} is not set but other variables of {starter} are, so this process cannot find '
            f'its peers; start it with {starter}, or unset RANK, WORLD_SIZE and SLURM_PROCID to '
            'train with one process'
        )
    return environ[name]


def _number(environ: Mapping[str, str], name: str, starter: str) -> int:
    text = _text(environ, name, starter)
    if not text.isdecimal():
        raise TeamError(f'{name} should be a whole number, not {text!r}; {starter} sets it')
    return int(text)


def own_gpu(place: Place) -> torch.device:
    """Return the GPU of a process; TeamError where its machine has none for it."""
    count = torch.cuda.device_count()
    # srun with --gpus-per-task shows each process its own GPU only.
    index = 0 if count == 1 and 'SLURM_PROCID' in os.environ else place.local
    if index >= count:
        raise TeamError(
            f'process {place.rank} is number {place.local} on its machine, which shows '
            f'{count} GPUs; start as many processes per machine as it has GPUs'
        )
    torch.cuda.set_device(index)
    return torch.device('cuda', index)


def meet(place: Place, device: torch.device, patience: float) -> None:
    """
    Open the process group: gloo for what lies on CPUs, NCCL for what lies on GPUs.

    :param patience: seconds that every exchange may take, and meeting too, but at most MEETING.
    """
    meeting = min(patience, MEETING)
    os.environ.update(MASTER_ADDR=place.host, MASTER_PORT=str(place.port))
    try:
        distributed.init_process_group(
            'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo',
            store=_open_store(place, timedelta(seconds=meeting)),
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=patience),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise TeamError(
            f'process {place.rank} of {place.size} did not meet the others at '
            f'{place.host}:{place.port} within {meeting:.0f} s ({error}); look whether all were '
            'started, reach that host, and let them use that port'
        ) from error


def _open_store(place: Place, limit: timedelta) -> distributed.Store | None:
    """Return where the processes find each other; None where torchrun has opened one."""
    if place.host in LOCAL:
        os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
        return None
    first, listener = place.rank == 0, None
    if first and place.host in LOCAL:  # torch would listen on all networks of the machine
        listener = socket.create_server(('127.0.0.1', place.port)).detach()
    host = '127.0.0.1' if place.host in LOCAL else place.host
    return distributed.TCPStore(
        host, place.port, place.size, first, timeout=limit, master_listen_fd=listener
    )
