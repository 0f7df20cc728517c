"""What every simulator must do: as plain MuJoCo does it, world by world, from the same state."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from robokd import UserError, registry
from robokd.sim.base import TOLERANCES

mujoco = pytest.importorskip("mujoco")

EXACT = ("mujoco",)  # simulators that are MuJoCo itself, in float64
SUBSTEPS, WORLDS = 5, 4
# a box that slides on a plane, a ball that bounces on a table, a pendulum with friction and a stop; whoever
# does not meet is kept from it, because every kind of pair is minutes of compiling
SCENE = """
<mujoco>
  <option integrator="implicitfast"/>
  <worldbody>
    <geom name="floor" type="plane" size="3 3 0.1" contype="3" conaffinity="3"/>
    <geom name="table" type="box" size="0.3 0.3 0.05" pos="1 0 0.2" contype="2" conaffinity="2"/>
    <camera name="eye" pos="0 -2 1" xyaxes="1 0 0 0 1 2"/>
    <body name="box" pos="0 0 0.14">
      <freejoint/>
      <geom name="box" type="box" size="0.1 0.08 0.06" mass="0.5"/>
    </body>
    <body name="ball" pos="1 0 0.36">
      <freejoint/>
      <geom name="ball" type="sphere" size="0.06" mass="0.2" contype="2" conaffinity="2"/>
      <site name="ball"/>
    </body>
    <body pos="-1 0 1">
      <joint name="swing" axis="0 1 0" damping="0.02" armature="0.01" frictionloss="0.01" range="-40 40"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.4" size="0.02" mass="0.3" contype="0" conaffinity="0"/>
      <site name="end" pos="0 0 -0.4"/>
    </body>
    <body name="mark" mocap="true" pos="0 1 1">
      <geom type="sphere" size="0.05" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <actuator><position name="swing" joint="swing" kp="2" kv="0.1"/></actuator>
  <sensor>
    <framepos objtype="site" objname="end"/><jointvel joint="swing"/><touch site="ball"/>
    <accelerometer site="end"/>
  </sensor>
</mujoco>
"""
PER_WORLD = {
    "actuator_gainprm": 0.3, "actuator_biasprm": 0.3, "dof_damping": 0.3, "dof_frictionloss": 0.3,
    "dof_armature": 0.3, "body_mass": 0.1, "geom_friction": 0.3, "cam_pos": 0.1, "geom_pos": 0.1,
}  # fmt: skip


def reach():
    from robokd.tasks.reach import Reach, ReachCfg

    return Reach(ReachCfg()).scene()


SCENES = {"touching": lambda: mujoco.MjSpec.from_string(SCENE), "reach": reach}


@functools.cache
def _built(name, scene):
    try:
        return registry.find("sim", name)().build(SCENES[scene](), WORLDS, "cpu", 1)
    except UserError as error:
        if "pip install" in str(error):
            pytest.skip(f"not on this machine: {error}")
        raise


@pytest.fixture(params=registry.names("sim"))
def make(request):
    """A maker of simulations at their defaults: what is compiled for one is used for all tests."""

    def made(scene="touching"):
        sim = _built(request.param, scene)
        sim.reset()
        sim.forward()
        return sim

    made.name = request.param
    return made


def _spread(sim):
    """Give every world joint angles, speeds and controls of its own."""
    draws = torch.Generator().manual_seed(1)
    qpos, qvel = (sim.get(name).double().clone() for name in ("qpos", "qvel"))
    hinges = torch.from_numpy(sim.model.jnt_qposadr[sim.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE]).long()
    qpos[:, hinges] += 0.5 * torch.rand(WORLDS, len(hinges), generator=draws, dtype=torch.float64) - 0.25
    qvel += torch.rand(qvel.shape, generator=draws, dtype=torch.float64) - 0.5
    for name, value in (("qpos", qpos), ("qvel", qvel)):
        sim.set(name, value)
    sim.forward()
    return torch.rand(WORLDS, sim.model.nu, generator=draws, dtype=torch.float64) - 0.5


class Plain:
    """One world by plain MuJoCo: its own model, stepped by mj_step."""

    def __init__(self, model):
        self.model, self.data = copy.copy(model), mujoco.MjData(model)

    def continue_from(self, sim, world):
        for name in ("qpos", "qvel", "qacc_warmstart", "mocap_pos", "mocap_quat"):
            getattr(self.data, name)[...] = sim.get(name)[world].numpy()

    def step(self, ctrl):
        self.data.ctrl[...] = ctrl
        for _ in range(SUBSTEPS):
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_step1(self.model, self.data)  # derived fields of the new state


def _assert_follows(sim, plain, ctrl, steps, tolerances):
    for _ in range(steps):
        for world, one in enumerate(plain):
            one.continue_from(sim, world)
            one.step(ctrl[world].numpy())
        sim.step(ctrl, SUBSTEPS)
        for name, tolerance in tolerances.items():
            got = sim.get(name).double()
            rows = [torch.from_numpy(getattr(one.data, name)).view(got.shape[1:]) for one in plain]
            difference = (got - torch.stack(rows)).abs() / (1 + torch.stack(rows).abs())
            assert (difference <= tolerance).all(), f"{name} differs by {difference.amax():.2g}"


def _tolerances(sim_name):
    return dict.fromkeys(TOLERANCES, 1e-12) if sim_name in EXACT else TOLERANCES


@pytest.mark.parametrize("scene", SCENES)
def test_a_sim_follows_mujoco_step_by_step(make, scene):
    sim = make(scene)
    ctrl = _spread(sim)
    touched = 0
    for _ in range(12):
        plain = [Plain(sim.model) for _ in range(WORLDS)]
        _assert_follows(sim, plain, ctrl, 1, _tolerances(make.name))
        touched += sum(one.data.ncon for one in plain)
    assert touched > 100 or scene == "reach"


def test_every_world_follows_a_mujoco_of_its_own_model_fields(make):
    sim = make()
    ctrl = _spread(sim)
    sim.step(ctrl, 1)  # what was recorded or kept for the model that all shared must not survive
    plain = [Plain(sim.model) for _ in range(WORLDS)]
    for name, share in PER_WORLD.items():
        value = sim.get(name).double().clone()
        value *= 1 + share * torch.arange(WORLDS).view(-1, *[1] * (value.ndim - 1)) / WORLDS
        sim.set(name, value)
        for world, one in enumerate(plain):
            getattr(one.model, name)[...] = value[world].numpy()
    for one in plain:
        mujoco.mj_setConst(one.model, one.data)
    sim.forward()
    table = sim.model.geom("table").id
    assert len(sim.get("geom_xpos")[:, table, 0].unique()) == WORLDS, "static geoms move too"
    _assert_follows(sim, plain, ctrl, 12, _tolerances(make.name))


def test_set_writes_only_the_worlds_of_the_mask(make):
    sim, mask = make(), torch.tensor([False, True, False, True])
    for name in ("qpos", "mocap_pos", "geom_friction"):
        before = sim.get(name).clone()
        sim.set(name, before + 0.25, mask)
        assert torch.equal(sim.get(name)[~mask], before[~mask])
        assert torch.equal(sim.get(name)[mask], before[mask] + 0.25)


def test_reset_puts_the_worlds_of_the_mask_to_the_defaults_their_model_fields_included(make):
    sim, mask = make(), torch.tensor([False, True, False, True])
    fields = ("qpos", "qvel", "mocap_pos", "geom_friction", "site_xpos")
    defaults = {name: sim.get(name).clone() for name in fields}
    ctrl = _spread(sim)
    for name in ("mocap_pos", "geom_friction"):
        sim.set(name, defaults[name] + 0.25)
    sim.step(ctrl, SUBSTEPS)
    moved = {name: sim.get(name).clone() for name in defaults}
    sim.reset(mask)
    sim.forward(mask)
    for name, default in defaults.items():
        assert torch.equal(sim.get(name)[mask], default[mask]), name
        assert torch.equal(sim.get(name)[~mask], moved[name][~mask]), name
        assert not torch.equal(moved[name], default), name


def test_views_are_live_and_derived_fields_follow_at_forward(make):
    sim = make()
    qpos, end = sim.get("qpos"), sim.get("site_xpos")
    before = end.clone()
    swing = int(sim.model.joint("swing").qposadr[0])
    value = qpos.clone()
    value[:, swing] = 0.4
    sim.set("qpos", value)
    assert sim.get("qpos").data_ptr() == qpos.data_ptr()
    assert (qpos[:, swing] == value[:, swing]).all()
    sim.forward()
    assert not torch.equal(end, before)
    sim.step(torch.zeros(WORLDS, sim.model.nu), 1)
    assert not torch.equal(qpos, value)


def test_what_a_step_felt_stays_through_a_forward(make):
    sim = make()
    sim.step(_spread(sim), SUBSTEPS)
    felt = sim.get("sensordata")[:, -3:].clone()  # the accelerometer's
    assert (felt != 0).any()
    sim.forward(torch.tensor([True, False, False, False]))
    assert torch.equal(sim.get("sensordata")[1:, -3:], felt[1:])


def test_a_restored_sim_repeats_its_steps_bit_for_bit(make):
    sim = make()
    ctrl = _spread(sim)
    sim.set("geom_friction", sim.get("geom_friction") * 0.5, torch.tensor([True, False, True, False]))
    sim.step(ctrl, SUBSTEPS)
    saved, runs = sim.snapshot(), []
    for damping in (1.0, 2.0):
        sim.restore(saved)
        rows = []
        for _ in range(6):
            sim.step(ctrl, SUBSTEPS)
            rows += [sim.get(name).clone() for name in ("qpos", "qvel", "sensordata")]
        runs.append(rows)
        # of what comes after the snapshot, nothing stays
        sim.set("geom_friction", sim.get("geom_friction") * damping)
        sim.set("dof_damping", sim.get("dof_damping") + damping)
        sim.reset()
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


def test_a_snapshot_of_another_number_of_worlds_is_refused(make):
    sim = make()
    cut = {name: value[:2] for name, value in sim.snapshot().items()}
    with pytest.raises(UserError, match=r"snapshot has .* of shape .*this simulation has"):
        sim.restore(cut)


@pytest.mark.parametrize("bad", [float("nan"), 1e12])
def test_a_diverged_world_is_told_and_leaves_the_others_alone(make, bad):
    runs = []
    for is_spoiled in (False, True):
        sim = make()
        ctrl = _spread(sim)
        if is_spoiled:
            qvel = sim.get("qvel").clone()
            qvel[1, 0] = bad
            sim.set("qvel", qvel)
        told = torch.zeros(WORLDS, dtype=torch.bool)
        for _ in range(3):
            sim.step(ctrl, SUBSTEPS)
            told |= sim.diverged()
        runs.append({name: sim.get(name).clone() for name in ("qpos", "qvel", "sensordata")})
        assert told.tolist() == [False, is_spoiled, False, False]
    others = torch.tensor([0, 2, 3])
    for name, value in runs[0].items():
        assert torch.equal(runs[1][name][others], value[others]), name
        assert torch.isfinite(runs[1][name]).all(), name


def test_a_sim_names_a_field_that_it_lacks(make):
    sim = make()
    with pytest.raises(UserError, match=rf"sim={make.name} has no field 'qposs'"):
        sim.get("qposs")


@pytest.mark.parametrize("field", ["site_xpos", "geom_frictoin"])
def test_a_sim_names_a_field_that_it_cannot_set(make, field):
    sim = make()
    with pytest.raises(UserError, match=f"sim={make.name} .*{field!r}"):
        sim.set(field, torch.zeros(WORLDS, 1))


def test_a_healthy_sim_passes_its_check(make):
    sim = make()
    sim.step(_spread(sim), SUBSTEPS)
    sim.check()


def test_no_worlds_are_refused(make):
    with pytest.raises(UserError, match="num_envs must be >= 1, got 0"):
        registry.find("sim", make.name)().build(SCENES["touching"](), 0, "cpu", 1)


def test_an_unknown_device_is_refused_by_name(make):
    with pytest.raises(UserError, match=rf"sim={make.name}.*cuda:77"):
        registry.find("sim", make.name)().build(SCENES["touching"](), 1, "cuda:77", 1)
