"""
A terminal's keyboard as a pad: keys -> ``joy``, 50 times a second.

Start it in a terminal of its own.  It speaks as an Xbox pad does (``pad:=xbox``); what each key
does is shown.  The gate's state is shown beside it, because a person without it does not know why
nothing moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import os
import select
import sys
import termios
import time
import tty

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Joy

from . import Finished, qos, run
from .parameters import declare, parameter
from ..core.keys import HELP, KeyPad, KeyTimes, QUIT, split


class KeyboardError(ValueError):
    """There is no terminal to read keys from."""


@dataclass(frozen=True)
class KeyboardConfig:
    """Parameters of the keyboard node."""

    rate_hz: float = parameter(50.0, 'how often the pad is reported (Hz)', 20.0, 200.0)
    speed: float = parameter(0.5, 'how far a key pushes the stick', 0.05, 1.0)
    deadman_timeout: float = parameter(
        3.0, 'seconds without any key after which the dead-man falls', 0.5, 10.0
    )


class Terminal:
    """The terminal in a mode that gives keys at once, and back as it was on :meth:`close`."""

    def __init__(self, number: int = 0) -> None:
        if not os.isatty(number):
            raise KeyboardError(
                'the keyboard node reads a terminal, and its input is none; start it by hand in '
                'a terminal of its own'
            )
        self.number = number
        self._before = termios.tcgetattr(number)
        self._rest = b''
        tty.setcbreak(number)  # Ctrl-C stays what it is

    def read(self) -> list[str]:
        """Return the keys since the last call; Finished when the terminal is gone."""
        typed = b''
        while select.select([self.number], [], [], 0.0)[0]:
            try:
                got = os.read(self.number, 256)
            except OSError as error:
                raise Finished(0) from error
            if not got:
                raise Finished(0)
            typed += got
        found, self._rest = split(self._rest + typed)
        return found

    def close(self) -> None:
        """Restore the terminal; idempotent."""
        try:
            termios.tcsetattr(self.number, termios.TCSADRAIN, self._before)
        except termios.error:
            pass  # it is gone


class KeyboardNode(Node):
    """A pad made of keys."""

    def __init__(self) -> None:
        super().__init__('keyboard')
        self.config = config = declare(self, KeyboardConfig)
        self.pad = KeyPad(config.speed, KeyTimes(deadman=config.deadman_timeout))
        self.gate = 'no gate is heard'
        self._shown = ''
        self.out = self.create_publisher(Joy, 'joy', qos.STREAM)
        self.create_subscription(DiagnosticStatus, 'gate/status', self._on_gate, qos.LATCHED)
        self.terminal = Terminal()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / config.rate_hz, self._report, clock=steady)
        print(HELP, flush=True)

    def _on_gate(self, message: DiagnosticStatus) -> None:
        state = next((pair.value for pair in message.values if pair.key == 'state'), '')
        self.gate = f'{state}: {message.message}'

    def _report(self) -> None:
        now = time.monotonic()
        for key in self.terminal.read():
            if key.lower() == QUIT:
                raise Finished(0)
            self.pad.press(now, key)
        axes, buttons = self.pad.read(now)
        self._publish(axes, buttons)
        self._show()

    def _publish(self, axes: Sequence[float], buttons: Sequence[int]) -> None:
        message = Joy(axes=list(axes), buttons=list(buttons))
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = 'keyboard'
        self.out.publish(message)

    def _show(self) -> None:
        held = 'held' if self.pad.deadman else 'off'
        text = f'dead-man {held} | intent {"on" if self.pad.intent else "off"} | {self.gate}'
        if text != self._shown:
            self._shown = text
            sys.stdout.write(f'\r\x1b[K{text[:150]}')
            sys.stdout.flush()

    def destroy_node(self) -> None:
        """Let everything go, and give the terminal back."""
        terminal = getattr(self, 'terminal', None)
        if terminal is not None:
            terminal.close()
            print(flush=True)
            if self.context.ok():
                self._publish(*KeyPad().read(0.0))
        super().destroy_node()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(KeyboardNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
