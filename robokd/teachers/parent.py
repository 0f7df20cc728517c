"""The teacher that was taught here: the policy of the run that `parent=` names. It is opened by the stage."""

from __future__ import annotations

from dataclasses import dataclass

from robokd.registry import register


@register("teacher", "parent")
@dataclass(kw_only=True)
class ParentCfg:
    """The policy of the parent, a run of `robokd teach`."""
