"""A policy is given joints as they were when its pictures were taken, as in training."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robokd.sim2real.board import Board
from robokd.sim2real.guard_link import State
from robokd.sim2real.ladder import Rung
from robokd.sim2real.robot import Frame, ImuReading, Odometry, Order
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.senses import Senses, matched, wanted_s
from robot_samples import felt_spec, proprio_spec

from robokd.specs import CameraSpec

FRONT = CameraSpec(name="front", width=4, height=3, position_m=(0.1, 0.2, 0.3))


def state(
    captured_s: float,
    position: float = 0.0,
    number: int = 0,
    imu: ImuReading | None = None,
    order: Order | None = None,
    odometry: Odometry | None = None,
) -> State:
    """Joints at a position and at minus that, at a rate of twice that."""
    row = np.array([position, -position], np.float32)
    return State(
        captured_s=captured_s, position=row, velocity=2 * row, anchor=row + np.float32(number), rate=row,
        mode=Rung.FOLLOW, token=1, origin=number, imu=imu, order=order,
        odometry=odometry,
    )  # fmt: skip


def test_joints_are_wanted_of_when_the_picture_was_taken_and_what_it_was_behind_in_training():
    # taken at 9.95, in training up to 0.02 old when the joints were read
    assert wanted_s(10.0, {"front": 9.95}, {"front": (0.0, 0.02)}) == pytest.approx(9.97)


def test_the_picture_that_is_farthest_behind_training_decides():
    seen, behind = {"front": 9.95, "wrist": 9.90}, {"front": (0.0, 0.0), "wrist": (0.0, 0.08)}
    assert wanted_s(10.0, seen, behind) == 9.95  # the wrist's would be 9.98
    assert wanted_s(10.0, seen, {"front": (0.0, 0.0), "wrist": (0.0, 0.0)}) == 9.90


def test_no_joints_are_wanted_that_are_newer_than_there_are():
    assert wanted_s(10.0, {"front": 9.99}, {"front": (0.0, 0.05)}) == 10.0
    assert wanted_s(10.0, {}, {}) == 10.0


@given(st.dictionaries(st.sampled_from("abc"), st.tuples(st.floats(-1, 0), st.floats(0, 1)), max_size=3))
def test_wanted_joints_are_never_newer_than_any_picture_was_in_training(rows):
    seen, behind = (
        {name: at for name, (at, _) in rows.items()},
        {name: (0.0, most) for name, (_, most) in rows.items()},
    )
    wanted = wanted_s(0.0, seen, behind)
    assert wanted <= 0
    assert all(wanted - seen[name] <= behind[name][1] + 1e-12 for name in rows)


def test_between_two_states_joints_are_between():
    # a quarter of the way from 1 to 2
    found = matched([state(0.0), state(1.0, 1.0, number=5), state(2.0, 2.0, number=6)], 1.25)
    assert found.captured_s == 1.25
    assert found.position.tolist() == [1.25, -1.25]
    assert found.velocity.tolist() == [2.5, -2.5]
    assert found.position.dtype == found.velocity.dtype == np.float32
    assert found.origin == 5  # of what had been commanded by then
    assert found.anchor.tolist() == [6.0, 4.0]


def test_at_a_state_it_is_that_state():
    rows = [state(0.0), state(1.0, 1.0), state(2.0, 2.0)]
    for row in rows:
        assert matched(rows, row.captured_s) is row


def test_before_all_it_is_the_oldest_and_after_all_the_newest():
    rows = [state(1.0, 1.0), state(2.0, 2.0)]
    assert matched(rows, 0.5) is rows[0]
    assert matched(rows, 2.5) is rows[1]
    assert matched(rows[:1], 0.0) is matched(rows[:1], 9.0) is rows[0]


def test_a_robot_that_told_the_same_twice_is_no_division_by_zero():
    rows = [state(1.0, 1.0), state(1.0, 1.0), state(1.0, 1.0), state(2.0, 2.0)]
    assert matched(rows, 1.0).position.tolist() == [1.0, -1.0]
    assert matched(rows, 1.5).position.tolist() == [1.5, -1.5]


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(-1, 11),
    st.floats(-3, 3), st.floats(-3, 3),
)  # fmt: skip
def test_a_motion_at_constant_rate_is_met_exactly(times, moment, offset, rate):
    rows = [state(at, offset + rate * at) for at in sorted(times)]
    held = min(max(moment, rows[0].captured_s), rows[-1].captured_s)
    found = matched(rows, moment)
    assert found.captured_s == pytest.approx(held, abs=1e-9)
    assert found.position[0] == pytest.approx(offset + rate * held, abs=2e-5)


class Link:
    """A guard that has told these states."""

    def __init__(self, *states: State) -> None:
        self.states, self.heard = list(states), 0

    def listen(self) -> None:
        self.heard += 1


BUNDLE = SimpleNamespace(
    cameras={"front": FRONT}, observations={"proprio": proprio_spec()}, terms=frozenset(),
    manifest={
        "ages_s": {"proprio": 0.1, "front": 0.2}, "latency_s": {"proprio": [0, 0], "front": [0.0, 0.02]},
    },
)  # fmt: skip


@pytest.fixture
def board():
    made = Board({"front": FRONT})
    yield made
    made.close()


def show(board: Board, captured_s: float, shade: int = 1) -> None:
    board.write(Frame(camera="front", captured_s=captured_s, image=np.full(FRONT.shape, shade, FRONT.dtype)))


def senses(board: Board, *states: State, eyes=None, bundle=BUNDLE, velocity_command=()) -> Senses:
    return Senses(bundle, Link(*states), board, eyes, velocity_command)  # type: ignore[arg-type]


def test_a_reading_holds_the_newest_picture_and_the_joints_of_then(board):
    show(board, 9.88, 3)
    show(board, 9.90, 4)
    states = state(9.8, 0.0), state(9.9, 1.0, number=1), state(10.0, 2.0, number=2)
    reading = senses(board, *states).read(lambda: 10.01)
    assert (reading.channels["front"] == 4).all()
    assert reading.numbers == {"front": 2}
    assert reading.captured_s["front"] == 9.90
    assert reading.captured_s["joint_pos"] == reading.captured_s["joint_vel"] == pytest.approx(9.92)
    assert reading.channels["joint_pos"] == pytest.approx([1.2, -1.2], abs=1e-5)
    # limits count from the newest target, which is the one that the robot holds
    assert reading.anchor.tolist() == reading.channels["joint_target"].tolist() == [4.0, 0.0]
    assert reading.rate.tolist() == [2.0, -2.0]


def test_joints_that_are_too_old_stop(board):
    show(board, 10.0)
    with pytest.raises(SafetyStop, match=r"stale_joints: joints is 0\.1100 s old"):
        senses(board, state(9.9)).read(lambda: 10.01)


def test_a_picture_that_is_too_old_stops(board):
    show(board, 9.8)
    with pytest.raises(SafetyStop, match=r"stale_front: front is 0\.2100 s old"):
        senses(board, state(10.0)).read(lambda: 10.01)


def test_a_camera_that_never_showed_anything_stops(board):
    with pytest.raises(SafetyStop, match=r"stale_front: front has shown no picture yet$") as stop:
        senses(board, state(10.0)).read(lambda: 10.0)
    assert stop.value.kind == "stale_front"


def test_the_end_of_the_camera_process_is_blamed(board):
    eyes = SimpleNamespace(is_alive=lambda: False, fate=lambda: "the camera process was killed by SIGKILL")
    with pytest.raises(SafetyStop, match="no picture yet: the camera process was killed by SIGKILL"):
        senses(board, state(10.0), eyes=eyes).read(lambda: 10.0)
    show(board, 9.5)
    with pytest.raises(SafetyStop, match="s is allowed: the camera process was killed by SIGKILL"):
        senses(board, state(10.0), eyes=eyes).read(lambda: 10.0)


def test_waiting_for_a_picture_ends_when_it_is_there_or_the_time_is_over(board):
    import time

    sight = senses(board, state(10.0))
    show(board, 5.0)
    started = time.monotonic()
    sight.wait_for_picture(4.9, 5.0)
    assert time.monotonic() - started < 1
    sight.wait_for_picture(5.0, 0.05)
    assert 0.05 <= time.monotonic() - started < 1


TURNING = SimpleNamespace(
    cameras=BUNDLE.cameras,
    manifest=BUNDLE.manifest,
    observations={"proprio": felt_spec()},
    terms=frozenset({"gyro", "gravity"}),
)


def imu(captured_s: float, rate: float = 0.0) -> ImuReading:
    down = np.array([0, 0, -1], np.float32)
    return ImuReading(captured_s=captured_s, gyro=np.full(3, rate, np.float32), gravity=down)


def test_a_policy_that_reads_an_imu_is_given_it_as_it_was_when_the_joints_were(board):
    show(board, 9.99)
    told = [state(at, imu=imu(at - 0.001, rate)) for at, rate in ((9.99, 1.0), (10.03, 2.0))]
    found = senses(board, *told, bundle=TURNING).read(lambda: 10.03)
    # joints are wanted of 10.01, half way between the two
    assert found.captured_s["joint_pos"] == pytest.approx(10.01)
    assert found.channels["gyro"] == pytest.approx([1.5] * 3)
    assert found.channels["gravity"] == pytest.approx([0, 0, -1])
    assert found.captured_s["gyro"] == found.captured_s["gravity"] == pytest.approx(10.009)


def test_a_policy_that_reads_no_imu_is_given_none(board):
    show(board, 9.99)
    found = senses(board, state(10.0, imu=imu(10.0))).read(lambda: 10.0)
    assert not {"gyro", "gravity"} & set(found.channels)


def test_an_imu_that_is_too_old_or_not_there_stops_a_policy_that_reads_it(board):
    show(board, 9.99)
    for told, said in ((imu(9.8), "imu is 0.2000 s old, at most 0.1 s"), (None, "the robot tells no IMU")):
        with pytest.raises(SafetyStop, match=f"stale_imu: .*{said}"):
            senses(board, state(10.0, imu=told), bundle=TURNING).read(lambda: 10.0)


LED = SimpleNamespace(
    cameras=BUNDLE.cameras, manifest=BUNDLE.manifest, observations=BUNDLE.observations,
    terms=frozenset({"velocity_command", "clock"}),
)  # fmt: skip


def order(captured_s: float, ahead: float) -> Order:
    return Order(captured_s=captured_s, velocity=np.array([ahead, 0, 0], np.float32))


def test_a_policy_is_led_by_the_order_of_when_the_joints_were(board):
    show(board, 9.99)
    told = [state(at, order=order(at, ahead)) for at, ahead in ((9.99, 1.0), (10.03, 2.0))]
    found = senses(board, *told, bundle=LED).read(lambda: 10.03, 0.75)
    # joints are wanted of 10.01, when the first one still held
    assert found.channels["velocity_command"].tolist() == [1, 0, 0]
    assert found.captured_s["velocity_command"] == 9.99
    assert found.channels["elapsed"].tolist() == [0.75]
    assert found.captured_s["elapsed"] == 10.03


def test_an_order_that_is_too_old_or_not_there_stops_a_policy_that_follows_it(board):
    show(board, 9.99)
    late = r"velocity_command is 0\.2000 s old, at most 0\.1 s"
    for told, said in ((order(9.8, 1.0), late), (None, "the robot tells none")):
        with pytest.raises(SafetyStop, match=f"stale_velocity_command: .*{said}"):
            senses(board, state(10.0, order=told), bundle=LED).read(lambda: 10.0)


def test_an_order_that_a_person_has_given_holds_whatever_the_robot_tells(board):
    show(board, 9.99)
    for told in (None, order(9.8, 1.0), order(10.0, 1.0)):
        sight = senses(board, state(10.0, order=told), bundle=LED, velocity_command=(0.5, 0.0, -0.25))
        found = sight.read(lambda: 10.0)
        assert found.channels["velocity_command"].tolist() == [0.5, 0, -0.25]
        assert found.channels["velocity_command"].dtype == np.float32


def test_a_policy_that_follows_no_order_and_reads_no_clock_is_given_none(board):
    show(board, 9.99)
    found = senses(board, state(10.0, order=order(10.0, 1.0))).read(lambda: 10.0)
    assert not {"velocity_command", "elapsed"} & set(found.channels)


MOVING = SimpleNamespace(
    cameras=BUNDLE.cameras, manifest=BUNDLE.manifest, observations=BUNDLE.observations,
    terms=frozenset({"velocity"}),
)  # fmt: skip


def odometry(captured_s: float, ahead: float) -> Odometry:
    return Odometry(captured_s=captured_s, velocity=np.array([ahead, 0, 0], np.float32))


def test_a_policy_that_reads_odometry_is_given_it_as_it_was_when_the_joints_were(board):
    show(board, 9.99)
    told = [state(at, odometry=odometry(at - 0.001, ahead)) for at, ahead in ((9.99, 1.0), (10.03, 2.0))]
    found = senses(board, *told, bundle=MOVING).read(lambda: 10.03)
    assert found.channels["velocity"] == pytest.approx([1.5, 0, 0])  # joints are wanted of 10.01
    assert found.captured_s["velocity"] == pytest.approx(10.009)


def test_odometry_that_is_too_old_or_not_there_stops_a_policy_that_reads_it(board):
    show(board, 9.99)
    late = r"odometry is 0\.2000 s old, at most 0\.1 s"
    for told, said in ((odometry(9.8, 1.0), late), (None, "reads velocity, and the robot tells no odometry")):
        with pytest.raises(SafetyStop, match=f"stale_odometry: .*{said}"):
            senses(board, state(10.0, odometry=told), bundle=MOVING).read(lambda: 10.0)
