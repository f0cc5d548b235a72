"""
Make docs/results/faults.md of what the fault tests measured.

    rm -f /tmp/faults.jsonl
    DMO_FAULT_RUNS=10 DMO_FAULT_TABLE=/tmp/faults.jsonl python -m pytest -m faults test/faults
    python docs/fault_table.py /tmp/faults.jsonl
"""

from __future__ import annotations

from collections import defaultdict
import json
from pathlib import Path
import sys

HEAD = """# Faults: limit, and the worst that was measured

Real processes on one machine: the `push_cube` graph with a policy at the wheel, its bridge and the
Go2's peer; times run from the harm to the first zero on the robot's own wire (unless the row says
otherwise), and nothing may move afterwards although the person still holds the dead-man. Rows are
those of the fault model; 'T' is max(2.5 control periods, 250 ms).

```
{command}
```

| row | fault | limit, ms | worst, ms | median, ms | runs |
|---|---|---|---|---|---|
"""


def table(lines: list[str]) -> str:
    """Return the page for the lines of JSON that the tests wrote."""
    found: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for line in lines:
        item = json.loads(line)
        found[item['row'], item['fault'], item['limit']].append(item['seconds'])
    rows = [
        f'| {row} | {fault} | {1e3 * limit:.0f} | {1e3 * max(seconds):.0f} '
        f'| {1e3 * sorted(seconds)[len(seconds) // 2]:.0f} | {len(seconds)} |'
        for (row, fault, limit), seconds in sorted(found.items())
    ]
    command = (__doc__ or '').split('\n\n')[1]
    command = '\n'.join(line.strip() for line in command.splitlines())
    return HEAD.format(command=command) + '\n'.join(rows) + '\n'


def main() -> int:
    """Read the file named on the command line and write the page."""
    page = Path(__file__).parent / 'results' / 'faults.md'
    page.write_text(table(Path(sys.argv[1]).read_text().splitlines()))
    print(page.read_text())
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
