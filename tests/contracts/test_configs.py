"""Every registered part and every experiment can be configured: a new file is tested without a new test."""

from pathlib import Path

import pytest

from robokd import UserError, registry
from robokd.config import compose, dump, load
from robokd.overrides import experiment

PARTS = [(kind, name) for kind in registry.kinds() for name in registry.names(kind)]
TASKS = registry.names("task")
EXPERIMENTS = sorted(
    path.stem for path in (Path(__file__).parents[2] / "configs" / "experiment").glob("*.yaml")
)


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_part_has_working_defaults_a_build_and_one_line_of_help(kind, name):
    part = registry.find(kind, name)
    assert (part.kind, part.name) == (kind, name)
    # a corruption is data that travels in a bundle, the policy of a parent run and the student's twin are
    # made by the stage; teachers that are not trained are opened, robots have joints
    if kind != "corrupt" and (kind, name) not in (("teacher", "parent"), ("teacher", "twin")):
        makers = ("build", "open", "joints")
        assert any(callable(getattr(part(), maker, None)) for maker in makers)
    assert part.__doc__
    assert not part.__doc__.startswith(part.__name__), (
        "the docstring's first line is what `robokd list` shows"
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_task_composes_to_its_own_type_through_the_whole_chain(task):
    made = compose("pipeline", [f"task={task}"])
    wanted = registry.find("task", task)
    for stage in ("teach", "distill", "refine", "evaluate", "export"):
        assert type(getattr(made, stage).task) is wanted
    assert load("pipeline", dump(made)) == made


# which task it is changes nothing of the other parts: that a task composes is tested above
@pytest.mark.parametrize("kind", ["sim", "teacher", "curriculum"])
def test_every_part_that_teaching_takes_composes_to_its_own_type(kind):
    for name in registry.names(kind):
        words = ["task=reach", f"{kind}={name}"]
        if kind == "teacher" and not hasattr(registry.find(kind, name), "algorithm"):
            with pytest.raises(UserError, match=f"teacher={name} cannot be trained; it is for distill"):
                compose("teach", words)
        else:
            assert type(getattr(compose("teach", words), kind)) is registry.find(kind, name)


@pytest.mark.parametrize("kind", ["student", "renderer", "loss"])
def test_every_part_that_distilling_takes_composes_to_its_own_type(kind):
    teach = dump(compose("teach", ["task=reach"]))
    for name in registry.names(kind):
        made = compose("distill", ["parent=p", f"{kind}={name}"], teach)
        found = made.loss[name] if kind == "loss" else getattr(made, kind)
        assert type(found) is registry.find(kind, name)


@pytest.mark.parametrize("name", registry.names("teacher"))
def test_every_teacher_that_is_opened_teaches_without_a_parent(name):
    if hasattr(registry.find("teacher", name), "open") or name == "twin":
        learns = ["loss=[ppo]"] if name == "twin" else []
        made = compose("distill", ["task=reach", f"teacher={name}", *learns])
        assert type(made.teacher) is registry.find("teacher", name)
        assert load("distill", dump(made)) == made
        with pytest.raises(UserError, match=f"parent=p and teacher={name}: only one can teach"):
            compose("distill", ["task=reach", f"teacher={name}", "parent=p"])
    elif name != "parent":
        with pytest.raises(UserError, match=f"teacher={name} is trained before it labels"):
            compose("distill", ["task=reach", f"teacher={name}"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_reads_back(name):
    needs = [] if "task" in experiment(name) else ["task=reach"]
    made = compose("pipeline", [*needs, f"experiment={name}"])
    assert load("pipeline", dump(made)) == made
