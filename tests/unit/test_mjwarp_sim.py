"""sim=mjwarp beyond the contract: recorded work, shared memory, room for contacts, and what it refuses."""

import importlib
import sys

import mujoco
import numpy as np
import pytest
import torch

pytest.importorskip("mujoco_warp")
pytest.importorskip("warp")

from robokd import UserError
from robokd.sim import mjwarp
from robokd.sim.base import TOLERANCES
from robokd.sim.mjwarp import MjwarpCfg, MjwarpSim, world_bytes
from robokd.sim.mujoco import MujocoCfg
from robokd.specs import CameraSpec
from robokd.vision.mjwarp import MjwarpCfg as Tracer

WORLDS = 3
FALLING = """
<mujoco>
  <option integrator="implicitfast"/>
  <worldbody>
    <geom name="floor" type="plane" size="3 3 0.1"/>
    <camera name="eye" pos="0 -1 0.5" xyaxes="1 0 0 0 0.4 1"/>
    <body pos="0 0 0.07"><freejoint/><geom name="box" type="box" size="0.1 0.08 0.06" mass="0.5"/></body>
  </worldbody>
</mujoco>
"""
EYE = CameraSpec(name="eye", width=24, height=16, fovy_deg=45, near_m=0.1, far_m=3.0)


def falling(cfg=None, num_envs=WORLDS, device="cpu"):
    return (cfg or MjwarpCfg()).build(mujoco.MjSpec.from_string(FALLING), num_envs, device)


@pytest.fixture(scope="module")
def built():
    return falling()


@pytest.fixture
def sim(built):
    built.reset()
    built.forward()
    return built


def _idle(sim):
    return torch.zeros(sim.num_envs, sim.model.nu, device=sim.device)


def test_views_are_warps_own_memory(sim):
    for field, array in (("qpos", sim._data.qpos), ("geom_xmat", sim._data.geom_xmat)):
        assert sim.get(field).data_ptr() == array.ptr
    assert sim.get("geom_xmat").shape == (WORLDS, 2, 9)
    assert sim.get("qpos").dtype == torch.float32


def test_a_model_field_is_one_row_until_worlds_have_their_own():
    sim = falling()
    shared = sim.get("geom_friction")
    assert shared.shape == (WORLDS, 2, 3)
    assert shared.stride(0) == 0
    sim.set("geom_friction", shared * 2, torch.tensor([False, True, False]))
    assert sim.get("geom_friction").stride(0) > 0
    assert sim._model.geom_friction.ptr == sim.get("geom_friction").data_ptr()


def test_a_field_that_all_worlds_share_can_be_read_and_not_set(sim):
    assert sim.get("geom_type")[2].tolist() == sim.model.geom_type.tolist()
    with pytest.raises(
        UserError, match="cannot set 'geom_type' per world: mujoco_warp has one for all worlds"
    ):
        sim.set("geom_type", sim.get("geom_type"))
    with pytest.raises(UserError, match="cannot set 'geom_xpos' per world: it is computed"):
        sim.set("geom_xpos", sim.get("geom_xpos"))
    with pytest.raises(UserError, match=r"no field 'geom_frictoin'. Did you mean 'geom_friction'\?"):
        sim.set("geom_frictoin", sim.get("geom_friction"))


def test_work_is_recorded_once_and_anew_when_an_array_is_another():
    sim = falling()
    sim.forward()
    sim.step(_idle(sim), 2)
    first = dict(sim._graphs)
    sim.step(_idle(sim), 3)
    assert sim._graphs == first
    sim.set("geom_friction", sim.get("geom_friction") * 0)
    assert not sim._graphs


def test_too_little_room_for_contacts_is_told_once_with_what_to_raise():
    sim = falling(MjwarpCfg(nconmax=2))
    sim.step(_idle(sim), 20)
    sim.reset(torch.tensor([True, True, True]))  # what was seen before a reset is not forgotten
    with pytest.raises(UserError, match=r"too little room .* in 3 of 3 worlds .*raise sim.nconmax beyond 2"):
        sim.check()
    sim.check()


def test_too_little_room_for_constraints_is_told_with_what_to_raise():
    sim = falling(MjwarpCfg(njmax=4))
    sim.step(_idle(sim), 20)
    with pytest.raises(UserError, match=r"raise sim\.njmax beyond 4"):
        sim.check()


def test_more_worlds_than_fit_are_refused_with_how_many_would(monkeypatch):
    each = world_bytes(mujoco.MjModel.from_xml_string(FALLING))
    monkeypatch.setattr(mjwarp, "available_mb", lambda device: 1000 * each / 2**20)
    with pytest.raises(UserError, match=r"4096 worlds need about \d+ MiB of cpu.*num_envs=1000 would fit"):
        falling(num_envs=4096)


def test_a_world_takes_more_memory_with_more_room_for_contacts():
    model = mujoco.MjModel.from_xml_string(FALLING)
    assert world_bytes(model, nconmax=400) > world_bytes(model, nconmax=40) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_cuda_is_refused_in_one_line():
    wanted = (
        r"sim=mjwarp: warp has no device 'cuda' here, it has cpu: a GPU of NVIDIA and its driver are needed"
    )
    with pytest.raises(UserError, match=wanted):
        falling(device="cuda")


def test_without_mujoco_warp_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    with pytest.raises(UserError, match=r"sim=mjwarp needs mujoco_warp .*pip install 'robokd\[gpu\]'"):
        falling()


def test_the_part_is_listed_without_importing_warp(monkeypatch):
    monkeypatch.setitem(sys.modules, "warp", None)
    monkeypatch.delitem(sys.modules, "robokd.sim.mjwarp")
    with pytest.raises(ValueError, match="sim 'mjwarp' is taken"):  # it came as far as to register
        importlib.import_module("robokd.sim.mjwarp")


def test_what_it_cannot_simulate_is_refused_by_name():
    spec = mujoco.MjSpec.from_string(FALLING)
    spec.option.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP
    with pytest.raises(UserError, match="sim=mjwarp cannot simulate bodies that sleep; sim=mujoco can"):
        MjwarpCfg().build(spec, 1)
    spec = mujoco.MjSpec.from_string(FALLING)
    spec.option.solver = mujoco.mjtSolver.mjSOL_PGS
    with pytest.raises(UserError, match=r"mujoco_warp does not take this scene: .*PGS"):
        MjwarpCfg().build(spec, 1)


@pytest.mark.parametrize("fields", [{"physics_dt": 0.0}, {"nconmax": -1}, {"njmax": -1}], ids=str)
def test_a_value_that_it_cannot_take_is_named(fields):
    with pytest.raises(ValueError, match=f"sim.{next(iter(fields))} must be"):
        MjwarpCfg(**fields)


def test_the_tracer_draws_its_worlds_in_place_and_as_those_of_mujoco(sim):
    reference = MujocoCfg().build(mujoco.MjSpec.from_string(FALLING), WORLDS)
    seen = []
    for one in (sim, reference):
        qpos = one.get("qpos").clone()
        qpos[:, 0] += 0.1 * torch.arange(WORLDS)
        one.set("qpos", qpos)
        one.forward()
        renderer, out = Tracer().build(one, [EYE]), np.zeros((WORLDS, *EYE.shape), np.float32)
        renderer.render(one, [EYE], {"eye": out})
        seen.append(out)
        is_shared = renderer._worlds._data.geom_xpos.ptr == one.get("geom_xpos").data_ptr()
        assert is_shared == (one is sim)
    assert (seen[0][0] != seen[0][2]).any()
    # float32 poses may move an edge by a pixel
    assert (np.abs(seen[0] - seen[1]) > 1e-4).mean() < 0.005


def test_the_tracer_follows_a_field_that_worlds_get_for_themselves_later():
    sim = falling()
    sim.forward()
    renderer, out = Tracer().build(sim, [EYE]), np.zeros((WORLDS, *EYE.shape), np.float32)
    renderer.render(sim, [EYE], {"eye": out})
    before = out.copy()
    sim.set("geom_size", sim.get("geom_size") * 1.5, torch.tensor([False, True, False]))
    sim.forward()
    renderer.render(sim, [EYE], {"eye": out})
    assert (out != before).any(axis=(1, 2, 3)).tolist() == [False, True, False]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu_and_repeats_itself_bit_for_bit():
    cpu, gpu = falling(device="cpu"), falling(device="cuda")
    saved, runs = gpu.snapshot(), []
    for _ in range(2):
        gpu.restore(saved)
        for _ in range(5):
            gpu.step(_idle(gpu), 5)
        runs.append(gpu.get("qpos").clone())
    assert torch.equal(*runs)
    cpu.reset()
    for _ in range(5):
        cpu.step(_idle(cpu), 5)
    torch.testing.assert_close(runs[0].cpu(), cpu.get("qpos"), rtol=0, atol=10 * TOLERANCES["qpos"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_waits_for_nothing():
    sim = falling(device="cuda")
    mask, ctrl = torch.tensor([True, False, True], device="cuda"), _idle(sim)

    def control_step():
        sim.step(ctrl, 5)
        sim.reset(mask)
        sim.set("qpos", sim.get("qpos") + 0.01, mask)
        sim.forward(mask)

    control_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        control_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert isinstance(sim, MjwarpSim)
