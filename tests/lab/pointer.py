"""The Isaac Lab task of these tests by its Gymnasium ids; the plugin that `plugins=[…]` names.

It imports nothing of Isaac Lab, which looks its configuration up by these names when it builds the task.
"""

from __future__ import annotations

import gymnasium

MANAGER, DIRECT, ELSEWHERE = "Robokd-Pointer", "Robokd-Pointer-Direct", "Robokd-Pointer-Elsewhere"

for name, cfg in ((MANAGER, "PointerEnvCfg"), (ELSEWHERE, "ElsewhereEnvCfg")):
    gymnasium.register(
        id=name,
        entry_point="isaaclab.envs:ManagerBasedRLEnv",
        disable_env_checker=True,
        kwargs={"env_cfg_entry_point": f"tests.lab.pointer_scene:{cfg}"},
    )
gymnasium.register(
    id=DIRECT,
    entry_point="tests.lab.pointer_direct:PointerDirectEnv",
    disable_env_checker=True,
    kwargs={"env_cfg_entry_point": "tests.lab.pointer_direct:PointerDirectEnvCfg"},
)
