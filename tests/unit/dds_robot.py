"""A robot in a process of its own that speaks ros2 or unitree over loopback; each joint follows its target.

    python dds_robot.py <protocol> <domain> <bundle> [moves…]

It prints "ready", then obeys lines on its standard input: `episode` ends one, `report` prints its account as
JSON, `stranger` is another writer's command, `quiet` stops its states. It ends with its standard input.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

GYRO, GRAVITY = (0.5, -1.0, 2.0), (0.6, 0.0, -0.8)
_count = itertools.count()


class Follower:
    """Plant, joints and cameras of a robot whose joints go a tenth of the way at every look."""

    def __init__(self, bundle):
        self.size, self.specs = bundle.action.size, bundle.cameras
        self.position = self.target = np.linspace(-0.2, 0.2, self.size).astype(np.float32)
        self.received, self.result, self.begun, self.is_quiet = [], None, [], False
        self.value = 0

    def begin(self, episode):
        self.begun.append(episode)
        self.result = None

    def outcome(self):
        return self.result

    def write(self, command):
        self.received.append([time.monotonic(), command.stamp_s, command.target.tolist()])
        self.target = command.target
        return command.target

    def read(self, timeout_s=None):
        from robokd.sim2real.robot import Frame, ImuReading, JointReading

        now = time.monotonic()
        if timeout_s is None:
            before, self.position = (
                self.position,
                self.position + np.float32(0.1) * (self.target - self.position),
            )
            return JointReading(
                captured_s=0.0 if self.is_quiet else now, position=self.position,
                velocity=(self.position - before) * 250, target=self.target,
                imu=ImuReading(
                    captured_s=now - 0.001, gyro=np.array(GYRO, np.float32),
                    gravity=np.array(GRAVITY, np.float32),
                ),
            )  # fmt: skip
        time.sleep(0.02)
        self.value = self.value % 250 + 1
        name, spec = next(iter(self.specs.items()))
        return Frame(camera=name, captured_s=now, image=np.full(spec.shape, self.value, spec.dtype))


def main(protocol, domain, path):
    from robokd.sim2real.simulate import StandIn
    from robokd.sim2real.simulated_ends import ENDS

    from robokd.export.bundle import read_bundle

    bundle = read_bundle(path)
    robot, end = Follower(bundle), ENDS[protocol](bundle, "lo", int(domain))
    stand_in, asked = StandIn(robot, robot, robot, end, timeout_s=0.3), threading.Event()
    thread = threading.Thread(target=stand_in.run, args=(asked, 0.0))
    thread.start()
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "report\n":
            account = {**stand_in.summary(), "received": robot.received, "begun": robot.begun}
            print(json.dumps(account), flush=True)
        elif line == "success\n":
            robot.result = True
        elif line == "quiet\n":
            robot.is_quiet = True
    asked.set()
    thread.join()
    end.close()


@contextlib.contextmanager
def repeating(act):
    """Do something a hundred times a second while the block lasts."""
    done = threading.Event()

    def repeat():
        while not done.wait(0.01):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def free_domain():
    """A DDS domain that no other test of this process has, and hardly one of another."""
    return 10 + (os.getpid() * 7 + next(_count)) % 200


class RobotProcess:
    """The other side of the above."""

    def __init__(self, protocol, domain, path):
        self.process = subprocess.Popen(
            [sys.executable, __file__, protocol, str(domain), str(path)], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def tell(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def report(self):
        self.tell("report")
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:4])
