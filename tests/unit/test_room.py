"""How many worlds fit is said before they are made, with what to type; what a GPU lacks, in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mujoco")
pytest.importorskip("mujoco_warp")

import mujoco
from robokd.tasks.reach import Reach, ReachCfg

from robokd import UserError
from robokd.cli import main
from robokd.doctor import plan
from robokd.doctor.finding import FAIL, OK
from robokd.draws import Draws
from robokd.env import native
from robokd.env.base import Setup
from robokd.learn import room as rooms
from robokd.learn.room import Room, check_room, room
from robokd.sim import mjwarp
from robokd.sim.mjwarp import MjwarpCfg, world_bytes
from robokd.sim.mujoco import MujocoCfg
from robokd.vision.sensor import Corruption

MODEL = "<mujoco><worldbody><body><freejoint/><geom size='0.1'/></body></worldbody></mujoco>"
MIB = 2**20
NEEDS_CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(MODEL)


def config(**fields):
    own = {
        "sim": MjwarpCfg(),
        "num_envs": 90,
        "dagger": SimpleNamespace(evaluate_episodes=10),
        "device": "cpu",
    }
    return SimpleNamespace(**own | fields)


def test_worlds_to_learn_in_and_to_validate_in_share_the_memory_to_the_byte():
    # 100 worlds of 1 MiB: what is free decides, and what is typed is what is learned in
    for free_mb, most, is_enough in ((100, 90, True), (99, 89, False), (1000, 990, True)):
        found = Room(each=MIB, num_envs=90, beside=10, device="cuda:0", free_mb=free_mb)
        assert (found.wanted_mb, found.most, found.is_enough) == (100, most, is_enough)
        assert found.cure == f"num_envs={most}"
    assert "smaller sim.nconmax" in Room(each=MIB, num_envs=90, beside=10, device="cpu", free_mb=10).cure


def test_the_plan_names_bytes_room_and_what_to_type(model):
    each = world_bytes(model)
    found = plan.worlds(config(), model, 100.5 * each / MIB)
    assert (found.level, found.value) == (OK, pytest.approx(100 * each / MIB))
    assert f"90 worlds and 10 to validate in, of {each:,} B each" in found.measured
    assert found.measured.endswith("num_envs=90 would fit")
    found = plan.worlds(config(), model, 50.5 * each / MIB)
    assert (found.level, found.cure) == (FAIL, "num_envs=40")
    assert found.line().endswith("num_envs=40 would fit; cure: num_envs=40")
    assert plan.worlds(config(), model, each / MIB).level == FAIL


def test_more_room_for_contacts_is_less_for_worlds(model):
    small, large = (room(config(sim=MjwarpCfg(nconmax=count)), model, 100.0) for count in (40, 400))
    assert small.most > large.most > 0


def test_worlds_of_mujoco_take_little(model):
    assert plan.worlds(config(sim=MujocoCfg()), model, 0.0) is None
    check_room("teach", config(sim=MujocoCfg()), model)


def test_a_stage_whose_worlds_do_not_fit_is_named(model, monkeypatch):
    teach = config(teacher=SimpleNamespace(evaluate_episodes=20))
    del teach.dagger
    monkeypatch.setattr(rooms, "available_mb", lambda device: 110.5 * world_bytes(model) / MIB)
    check_room("teach", teach, model)
    teach.num_envs = 91
    with pytest.raises(UserError, match=r"^teach: 91 worlds and 20 to validate in.* num_envs=90 would fit$"):
        check_room("teach", teach, model)


TEACH = ["teach", "task=reach", "sim=mjwarp"]
DISTILL = ["distill", "task=reach", "teacher=scripted", "sim=mjwarp"]
DOCTOR = ["doctor", "task=reach", "teacher=scripted", "sim=mjwarp"]


@pytest.mark.parametrize("words", [TEACH, DISTILL, DOCTOR], ids=lambda words: words[0])
def test_too_little_memory_is_one_line_before_a_run_is_begun(words, monkeypatch, tmp_path, capsys):
    for place in (mjwarp, "robokd.doctor.doctor"):
        monkeypatch.setattr(f"{getattr(place, '__name__', place)}.available_mb", lambda device: 8.0)
    assert main([*words, "num_envs=8192", f"runs={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "8 MiB free: num_envs=" in err
    assert err.endswith(" would fit\n")
    assert not list(tmp_path.iterdir())


@NEEDS_CPU_ONLY
@pytest.mark.parametrize("words", [TEACH, DISTILL, DOCTOR, ["teach", "task=reach"]], ids=" ".join)
def test_cuda_without_a_gpu_is_one_line(words, tmp_path, capsys):
    assert main([*words, "device=cuda:0", f"runs={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "a GPU of NVIDIA and its driver are needed, or sim=mujoco" in err or "sim=mujoco runs on" in err
    assert not list(tmp_path.iterdir())


class Swapped(Reach):
    """Reach that draws what no GPU has for a world of its own: the kinds of its geoms."""

    def reset(self, values, state, mask):
        state.sim.set("geom_type", state.sim.get("geom_type"), mask)
        return super().reset(values, state, mask)


def test_a_field_that_a_gpu_cannot_have_per_world_is_named_before_a_step():
    setup = Setup(num_envs=2, groups=("proprio",), draws=Draws(0, "train"))
    with pytest.raises(UserError, match=r"^sim=mjwarp cannot set 'geom_type' per world: mujoco_warp has"):
        native.build(Swapped(ReachCfg()), sim=MjwarpCfg(), renderer=None, corrupt=Corruption(), setup=setup)
