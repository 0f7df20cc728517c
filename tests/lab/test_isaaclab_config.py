"""What task=isaaclab says before there is Isaac Lab, and how it encodes depth."""

import importlib.metadata

import numpy as np
import pytest
import torch
from robokd.tasks.foreign.isaaclab_worlds import _parent
from robokd.tasks.foreign.managed import check_installed, encode, flat, pins
from robokd.tasks.isaaclab import CURE, VERSION, IsaacLabCfg

from robokd import UserError
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.specs import CameraSpec
from robokd.vision import encode as reference
from robokd.vision.sensor import Corruption, Kinect

REQUIREMENTS = [
    "numpy>=2", "torch==2.11.0", "newton[sim]==1.6.1", "daqp==0.8.5; platform_system == 'Linux'",
    "isaacsim[all]==6.2.0.0; extra == 'isaacsim'", "mujoco~=3.11.0",
]  # fmt: skip
RIGHT = {"isaaclab": "3.0.1", "torch": "2.11.0+cpu", "newton": "1.6.1", "mujoco": "3.11.2"}


def installed(monkeypatch, versions):
    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIREMENTS)


def build(**fields):
    setup = Setup(num_envs=1, groups=(), draws=Draws(0, "test"))
    corrupt = fields.pop("corrupt", Corruption())
    return IsaacLabCfg(**fields).build(sim=None, renderer=None, corrupt=corrupt, setup=setup)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, "needs isaaclab 3.0, which is not installed; on Python 3.12, .*pip install 'robokd"),
        ({"isaaclab": "2.3.1"}, r"needs isaaclab 3.0, got 2.3.1; on Python 3.12"),
        (
            {"isaaclab": "3.0.0", "torch": "2.13.0", "newton": "1.6.1", "mujoco": "3.11.2"},
            r"wants torch==2.11.0 \(got 2.13.0\);",
        ),
        (
            {"isaaclab": "3.0.0", "torch": "2.11.0+cpu", "mujoco": "4.0.0"},
            r"wants newton==1.6.1 \(got none\), mujoco~=3.11.0 \(got 4.0.0\);",
        ),
    ],
    ids=["none", "older", "mixed", "lacking"],
)
def test_a_wrong_installation_is_one_line_that_names_the_pins(monkeypatch, versions, message):
    installed(monkeypatch, versions)
    with pytest.raises(UserError, match=message) as caught:
        check_installed("isaaclab", VERSION, CURE)
    assert "\n" not in str(caught.value)


def test_a_right_installation_is_not_complained_of(monkeypatch):
    installed(monkeypatch, RIGHT)
    check_installed("isaaclab", VERSION, CURE)


def test_pins_are_those_of_the_package_itself():
    assert pins(REQUIREMENTS) == [
        ("torch", "==", "2.11.0"), ("newton", "==", "1.6.1"), ("mujoco", "~=", "3.11.0")
    ]  # fmt: skip


def test_a_task_without_an_id_is_refused_with_an_example(monkeypatch):
    installed(monkeypatch, RIGHT)
    with pytest.raises(UserError, match=r"needs task.env_id=….*Isaac-Cartpole"):
        build()


def test_spoiled_pictures_are_refused(monkeypatch):
    installed(monkeypatch, RIGHT)
    with pytest.raises(UserError, match=r"corrupt= spoils pictures that we render"):
        build(env_id="Isaac-Cartpole", corrupt=Kinect())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env_id": "os:Isaac-Cartpole"}, r"names a module to import: type plugins="),
        ({"near_m": 2.0, "far_m": 1.0}, r"near_m must be below task.far_m, got 2.0 and 1.0"),
        ({"action": "torque"}, r"task.action must be native or joint_delta, got 'torque'"),
        ({"proprio": ("a",), "privileged": ("a",)}, r"name 'a' twice"),
        ({"acceleration": 0.0}, r"task.acceleration must be > 0"),
    ],
    ids=["module", "near", "action", "twice", "acceleration"],
)
def test_a_value_that_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        IsaacLabCfg(**fields)


@pytest.mark.parametrize("encoding", ["depth_u8", "depth_f16"])
def test_depth_is_encoded_bit_for_bit_as_everywhere_and_either_background_is_a_miss(encoding):
    camera = CameraSpec(name="eye", near_m=0.4, far_m=1.4, encoding=encoding)
    depth = torch.rand(2, 1, 50, 40, generator=torch.Generator().manual_seed(0)) * 1.6
    depth[0, 0, 0, :6] = torch.tensor([0.0, torch.inf, torch.nan, -1.0, 0.4, 1.4])
    encoded = encode(depth, camera)
    assert np.array_equal(encoded.numpy(), reference.encode(depth.numpy(), camera))
    assert encoded[0, 0, 0, :4].tolist() == [0, 0, 0, 0]
    assert (encoded[0, 0, 0, 4:6] > 0).all()


def test_groups_that_are_not_concatenated_become_one_of_each_term():
    rows = torch.zeros(2, 3)
    assert list(flat({"policy": rows, "seen": {"image": rows, "joints": rows}})) == [
        "policy", "seen.image", "seen.joints"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        ("{ENV_REGEX_NS}/Camera", "world"),
        ("/World/envs/env_[^/]+/Camera", "world"),
        ("/World/envs/env_.*/Robot/hand/Camera", "hand"),
        ("/World/Camera", "world"),
    ],
    ids=["template", "pattern", "hand", "root"],
)
def test_a_camera_is_mounted_on_the_body_above_it(path, parent):
    assert _parent(path) == parent
