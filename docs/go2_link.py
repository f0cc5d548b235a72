"""
Measure the link to a Go2: the real SportClient against the peer in another process, DDS on ``lo``.

Writes the table of docs/results/go2_link.md::

    python docs/go2_link.py --seconds 600
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

from dmo_ros.core.addresses import twin_dds_domain
from dmo_ros.robots import unitree
from dmo_ros.twins.go2_process import PeerProcess

DISCOVERY = 20.0  # s, at most
SETTLE = 0.5  # s for the last Move to arrive


def measure(seconds: float, rate_hz: float = 5.0) -> dict[str, float]:
    """Send numbered Moves at a rate, and once a second a call that is answered."""
    domain = int(os.environ.get('ROS_DOMAIN_ID') or 42)
    kit = unitree.open_channel(twin_dds_domain(domain))
    with PeerProcess(domain, posture=1013) as peer:
        client = unitree.open_client(kit.SportClient, 0.3)
        until = time.monotonic() + DISCOVERY
        while client.GetServerApiVersion()[0] != unitree.OK and time.monotonic() < until:
            time.sleep(0.05)
        sent, failed, trips, calls = send(client, seconds, rate_hz)
        time.sleep(SETTLE)
        arrived = peer.ask('moves')['moves']
        unitree.close_client(client)
    came = {round(move[3] * 1e4): move[0] for move in arrived}
    ways = [came[number] - at for number, at in enumerate(sent) if number in came]
    return {
        'sent': len(sent),
        'arrived': len(ways),
        'duplicated': len(arrived) - len(came),
        'failed_calls': failed,
        **_spread('move_call_ms', calls),
        **_spread('one_way_ms', ways),
        **_spread('answer_ms', trips),
    }


def send(
    client: object, seconds: float, rate_hz: float
) -> tuple[list[float], int, list[float], list[float]]:
    """Return when each Move was sent, failures, round trips, and what a Move call took (s)."""
    sent: list[float] = []
    trips: list[float] = []
    calls: list[float] = []
    failed = 0
    began = time.monotonic()
    for number in range(round(seconds * rate_hz)):
        time.sleep(max(0.0, began + number / rate_hz - time.monotonic()))
        sent.append(time.monotonic())
        failed += client.Move(0.3, 0.0, number * 1e-4) != unitree.OK  # type: ignore[attr-defined]
        calls.append(time.monotonic() - sent[-1])
        if number % round(rate_hz) == round(rate_hz) // 2:
            at = time.monotonic()
            failed += client.GetServerApiVersion()[0] != unitree.OK  # type: ignore[attr-defined]
            trips.append(time.monotonic() - at)
    return sent, failed, trips, calls


def _spread(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    found = {
        'median': statistics.median(ordered),
        'p99': ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        'max': ordered[-1],
    }
    return {f'{name}_{key}': round(value * 1e3, 3) for key, value in found.items()}


def table(found: dict[str, float]) -> str:
    """Return the figures as Markdown."""
    rows = ['| what | median | p99 | max |', '|---|---|---|---|']
    for name, text in (
        ('move_call_ms', 'Move call, no reply (ms)'),
        ('one_way_ms', 'Move, sent to taken by the peer (ms)'),
        ('answer_ms', 'call with an answer, round trip (ms)'),
    ):
        cells = [f'{found[f"{name}_{key}"]:.2f}' for key in ('median', 'p99', 'max')]
        rows.append(f'| {text} | {" | ".join(cells)} |')
    share = 100.0 * found['arrived'] / found['sent']
    head = f'{found["arrived"]} of {found["sent"]} Moves arrived ({share:.2f} %)'
    return f'{head}, {found["failed_calls"]} calls failed.\n\n' + '\n'.join(rows)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=600.0, help='how long')
    parser.add_argument('--rate', type=float, default=5.0, help='Moves a second')
    parser.add_argument('--json', action='store_true', help='figures as JSON')
    given = parser.parse_args()
    found = measure(given.seconds, given.rate)
    print(json.dumps(found) if given.json else table(found))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
