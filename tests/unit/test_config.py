import re
from dataclasses import asdict

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig

from robokd import UserError, config, overrides, registry
from robokd.config import SCHEMAS, DistillConfig, TeachConfig, compose, dump, load
from robokd.manual import field_comments, stage_help

pytestmark = pytest.mark.usefixtures("parts")
MINIMAL = {
    "teach": ["task=hop"],
    "distill": ["parent=p"],
    "doctor": ["parent=p"],
    "refine": ["parent=p"],
    "evaluate": ["run=r"],
    "export": ["run=r"],
    "deploy": ["bundle=b.robokd"],
    "simulate": ["bundle=b.robokd"],
    "replay": ["log=l"],
    "faults": ["bundle=b.robokd"],
    "sysid": ["bundle=b.robokd"],
    "gap": ["log=l"],
    "import": ["foreign=f.onnx"],
    "play": ["run=r"],
    "look": ["task=hop"],
    "bench": [],
    "report": ["runs=[a,b]"],
    "pipeline": ["task=hop"],
}


def inherited():
    return dump(
        compose("distill", ["parent=p", "sim.physics_dt=0.004"], dump(compose("teach", ["task=hop"])))
    )


def composed(stage, *words):
    base = None if stage in ("teach", "pipeline", "report", "deploy", "look", "bench") else inherited()
    return compose(stage, [*MINIMAL[stage], *words], base)


def refused(stage, *words):
    with pytest.raises(UserError) as error:
        composed(stage, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def plain(value):
    """No OmegaConf object anywhere."""
    assert not isinstance(value, DictConfig | ListConfig)
    for one in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    ):
        plain(one)


@pytest.mark.parametrize("stage", SCHEMAS)
def test_every_stage_composes_to_concrete_types(stage, parts):
    made = composed(stage)
    assert type(made) is SCHEMAS[stage]
    plain(asdict(made))
    if stage in ("teach", "distill"):
        assert type(made.task) is parts["task", "hop"]
        assert type(made.sim) is parts["sim", "mujoco"]
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("stage", SCHEMAS)
def test_what_is_dumped_loads_as_the_same(stage):
    made = composed(stage)
    data = dump(made)
    assert load(stage, data) == made
    assert dump(load(stage, data)) == data


def test_tuples_stay_tuples_and_floats_are_exact():
    made = compose("teach", ["task=hop", "task.height_m=[0.1,0.30000000000000004]", "teacher.hidden=[8]"])
    assert made.task.height_m == (0.1, 0.30000000000000004)
    assert made.teacher.hidden == (8,)
    assert load("teach", dump(made)).task.height_m == (0.1, 0.30000000000000004)


def test_losses_are_chosen_by_name_and_set_one_by_one(parts):
    made = composed("distill", "loss=[latent,action_huber]", "loss.latent.weight=0.5")
    assert set(made.loss) == {"latent", "action_huber"}
    assert type(made.loss["latent"]) is parts["loss", "latent"]
    assert made.loss["latent"].weight == 0.5
    assert set(composed("distill", "loss=latent").loss) == {"latent"}
    assert set(composed("distill").loss) == {"action_huber", "estimate"}


def test_text_fields_are_taken_verbatim():
    made = composed("distill", "runs=/data/my runs (1), really=2", "plugins=[]")
    assert made.runs == "/data/my runs (1), really=2"
    assert composed("distill", "runs='a b'").runs == "a b"


def test_nested_values_of_a_part_can_be_set():
    assert compose("teach", ["task=hop", "task.gains.damping=0.5"]).task.gains.damping == 0.5
    assert compose("teach", ["task=hop"]).task.gains.stiffness == 1.0


def test_some_values_of_what_holds_keys_can_be_set_at_once():
    gains = composed("teach", "task=hop", "task.gains={stiffness: 3}").task.gains
    assert (gains.stiffness, gains.damping) == (3.0, 0.1)
    rate = composed("distill", "dagger.learning_rate={begin: 0.1, over: 3}").dagger.learning_rate
    assert (rate.begin, rate.over, rate.shape) == (0.1, 3, "cosine")  # the others stay what they are


def test_the_last_of_two_values_wins():
    assert compose("teach", ["task=skip", "seed=1", "task=hop", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=hob"], "no task named 'hob'. Did you mean 'hop'? Known: hop, skip"),
        (["nun_envs=3"], "teach has no key 'nun_envs'. Did you mean 'num_envs'? Keys: task, sim, teacher, "),
        (["task.tolerence_m=1"], "task hop has no key 'tolerence_m'. Did you mean 'tolerance_m'? Keys: "),
        (["task.gains.x=1"], "task.gains has no key 'x'. Keys: stiffness, damping"),
        (["task.tolerance_m.x=1"], "task.tolerance_m.x: task.tolerance_m holds no keys"),
        (["task.gains=1"], "task.gains holds keys: set task.gains.<key>=…, got 1"),
        (["num_envs=many"], "num_envs: expected an integer, got 'many'"),
        (["num_envs=1.5"], "num_envs: expected an integer, got 1.5"),
        (["num_envs=9223372036854775808"], "num_envs must be < 2^63, got 9223372036854775808"),
        (["teacher.hidden=[3,9223372036854775808]"], "teacher.hidden must be < 2^63, got 92233720368547758"),
        (["task.gains={mass: 2}"], "task.gains has no key 'mass'. Keys: stiffness, damping"),
        (["task.gains={stiffness: soft}"], "task.gains.stiffness: expected a number, got 'soft'"),
        (["num_envs="], "num_envs: expected an integer, got ''"),
        (["num_envs=1,2"], "num_envs: expected an integer, got '1,2'; a list is written [a,b]"),
        (["num_envs=0"], "num_envs must be >= 1, got 0"),
        (["seed=-1"], "seed must be >= 0, got -1"),
        (["device=gpu"], "device must be cpu, cuda or cuda:<number>, got 'gpu'"),
        (["task.tolerance_m=null"], "task.tolerance_m: expected a number, got None"),
        (["task.tolerance_m=0"], "task.tolerance_m must be > 0, got 0.0"),
        (["task.tolerance_m=nan"], "task.tolerance_m must be > 0, got nan"),
        (["task.height_m=[1,2,3]"], "task.height_m: expected 2 values, got [1.0,2.0,3.0]"),
        (["task.height_m=3"], "task.height_m: expected a list such as [a,b], got 3"),
        (["teacher.hidden=[a]"], "teacher.hidden: expected a list such as [a,b], got [a]"),
        (["task=[hop]"], "task: expected one name, got '[hop]'"),
        (
            ["runs=${oc.env:HOME}"],
            "runs: interpolations such as ${…} are not supported, got '${oc.env:HOME}'",
        ),
        (["seed"], "'seed' is not key=value; `robokd teach --help` lists the keys of teach"),
        (["+seed=1"], "'+seed=1' is not key=value"),
        (["~task"], "'~task' is not key=value"),
        (["seed=[1"], "seed: expected an integer, got '[1'"),
    ],
)
def test_a_mistake_is_one_line_that_names_key_value_and_what_exists(words, message):
    assert refused("teach", *words).startswith(message)


def test_a_teacher_that_is_opened_makes_the_parent_superfluous():
    made = compose("distill", ["task=hop", "teacher=onnx", "teacher.path=a.onnx"])
    assert (made.parent, made.teacher.path) == ("", "a.onnx")
    assert load("distill", dump(made)) == made
    with pytest.raises(UserError, match=r"^distill needs task=<name>. Known: hop, skip$"):
        compose("distill", ["teacher=onnx"])


def test_one_number_is_a_schedule_that_stays_there():
    made = composed("distill", "dagger.acting.share=0.5", "dagger.learning_rate=1e-3")
    share = made.dagger.acting.share
    assert [share.value(n, [], 9) for n in (0, 5, 8)] == [0.5] * 3
    assert made.dagger.learning_rate.value(3, [], 9) == 1e-3
    assert load("distill", dump(made)) == made


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["teacher=onnx"], "parent=p and teacher=onnx: only one can teach"),
        (["teacher=ppo", "parent="], "teacher=ppo is trained before it labels"),
        (["loss=[]"], "loss must name at least one loss, got none"),
        (["loss=[estimate,estimate]"], "loss names 'estimate' twice"),
        (["loss=[huber]"], "no loss named 'huber'. Known: action_huber, estimate, latent"),
        (["loss.latent.weight=2"], "loss has no key 'latent'. Keys: action_huber, estimate"),
        (["loss.estimate.weight=-1"], "loss.estimate: weight must be >= 0, got -1.0"),
        (["cameras=3"], "cameras: expected a list such as [a,b], got 3"),
        (["checkpoint=newest"], "checkpoint must be best or last, got 'newest'"),
        (["dagger.rounds=0"], "dagger.rounds must be >= 1, got 0"),
        (["dagger.stop_retention=-1"], "dagger.stop_retention must be >= 0, got -1"),
        (["rl.discount=0"], "rl.discount must be in (0, 1], got 0"),
        (["rl.desired_kl=-1"], "rl.desired_kl must be >= 0, got -1"),
        (["rl.critic_hidden=[]"], "rl.critic_hidden must be layers of >= 1 units, got []"),
        (["dagger.learning_rate=0"], "dagger.learning_rate must stay >= 1e-12, got 0 to 0"),
        (["dagger.acting.share=1.5"], "dagger.acting.share must stay in [0, 1], got 1.5 to 1.5"),
        (["dagger.acting.share=fast"], "dagger.acting.share holds keys: set dagger.acting.share.<key>=…"),
        (["dagger.acting.share.shape=step"], "dagger.acting.share: a schedule's shape is one of linear,"),
        (["dagger.acting.per=day"], "dagger.acting.per must be episode or step, got 'day'"),
        (["dagger.sequence=5"], "dagger.sequence must divide dagger.steps_per_round=16, or steps are lost"),
        (["dagger.sampling=best"], "dagger.sampling must be uniform or priority, got 'best'"),
    ],
)
def test_a_mistake_in_distilling_is_one_line(words, message):
    assert refused("distill", *words).startswith(message)


def test_a_missing_required_key_says_what_it_is_and_how_to_get_one():
    with pytest.raises(UserError, match=r"^teach needs task=<name>. Known: hop, skip$"):
        compose("teach", [])
    wanted = "distill needs parent=…: the run of a teacher; `robokd teach task=…` makes one"
    for words in ([], ["parent="]):
        with pytest.raises(UserError, match=re.escape(wanted)):
            compose("distill", words)
    with pytest.raises(UserError, match="deploy needs bundle=…: a bundle file; `robokd export"):
        compose("deploy", [])


def test_the_parent_gives_task_and_sim_and_the_command_line_comes_on_top():
    teach = dump(
        compose("teach", ["task=hop", "task.tolerance_m=0.03", "sim.physics_dt=0.002", "num_envs=7"])
    )
    made = compose("distill", ["parent=p", "task.height_m=[0,1]"], teach)
    assert (made.task.tolerance_m, made.task.height_m) == (0.03, (0.0, 1.0))
    assert made.sim.physics_dt == 0.002
    assert made.num_envs == DistillConfig.num_envs  # not inherited
    refine = compose("refine", ["parent=p"], dump(compose("distill", ["parent=p", "cameras=[wrist]"], teach)))
    assert refine.cameras == ("wrist",)


def test_another_sim_than_the_parents_drops_the_parents_settings(parts):
    made = composed("distill", "sim=mjwarp")
    assert type(made.sim) is parts["sim", "mjwarp"]


def test_another_task_or_camera_than_the_parents_is_refused_with_both():
    assert refused("distill", "task=skip") == "task=skip does not fit the run to work on, which has task=hop"
    message = "cameras=[wrist] does not fit the run to work on, which has cameras=[front]"
    assert refused("refine", "cameras=[wrist]") == message
    assert composed("distill", "task=hop").task.name == "hop"


def test_loading_refuses_what_is_unknown_missing_or_of_a_wrong_type():
    data = dump(compose("teach", ["task=hop"]))
    for change, message in (
        ({"nun_envs": 3}, "teach has no key 'nun_envs'. Did you mean 'num_envs'"),
        ({"num_envs": "many"}, "num_envs: expected an integer, got 'many'"),
        ({"task": {"part": "hop", "tolerence_m": 1}}, "task hop has no key 'tolerence_m'"),
        ({"task": {"part": "hob"}}, "no task named 'hob'"),
        ({"task": 3}, "task: expected one name, got 3"),
        ({"runs": "${oc.env:HOME}"}, "interpolations"),
        ({"teacher": {"part": "ppo", "hidden": ["${x}"]}}, "interpolations"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            load("teach", data | change)
    with pytest.raises(UserError, match="run is missing"):
        load("evaluate", {"task": "hop"})
    with pytest.raises(UserError, match="no stage named 'tech'"):
        load("tech", data)
    with pytest.raises(UserError, match="a saved pipeline has the keys teach, distill"):
        load("pipeline", {"teach": data})


def test_a_plugin_in_a_saved_configuration_is_refused_until_it_is_typed(tmp_path, monkeypatch):
    (tmp_path / "config_plugin.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    data = dump(compose("teach", ["task=hop"])) | {"plugins": ["config_plugin"]}
    message = r"names plugins \[config_plugin\]; if you trust them, type plugins=\[config_plugin\]"
    for load_it in (lambda: load("teach", data), lambda: compose("distill", ["parent=p"], data)):
        with pytest.raises(UserError, match=message):
            load_it()
    made = compose("distill", ["parent=p", "plugins=[config_plugin]"], data)
    assert made.plugins == ("config_plugin",)
    assert load("teach", data).plugins == ("config_plugin",)


def test_only_the_kinds_a_stage_needs_are_loaded(monkeypatch):
    asked = []
    monkeypatch.setattr(registry, "_load", asked.append)
    compose("deploy", ["bundle=b"])
    assert set(asked) == {"robot"}


def test_the_pipeline_hands_shared_keys_to_all_and_others_to_their_stage():
    words = [
        "seed=5",
        "task.tolerance_m=0.04",
        "distill.num_envs=9",
        "refine.task.tolerance_m=0.01",
        "num_envs=8",
    ]
    made = composed("pipeline", *words, "teach.teacher.iterations=3", "distill.loss=[latent]")
    stages = {name: getattr(made, name) for name in config._steps()}
    assert {stage.seed for stage in stages.values()} == {5}
    assert (made.teach.num_envs, made.distill.num_envs, made.evaluate.num_envs) == (8, 8, 8)
    parts = {name: getattr(stage, "task", None) for name, stage in stages.items()}
    tolerances = {name: part.tolerance_m for name, part in parts.items() if hasattr(part, "tolerance_m")}
    assert tolerances == {"teach": 0.04, "distill": 0.04, "refine": 0.01, "evaluate": 0.04, "export": 0.04}
    assert made.teach.teacher.iterations == 3
    assert set(made.distill.loss) == {"latent"}
    assert (made.distill.parent, made.evaluate.run, made.deploy.bundle) == ("", "", "")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("episodes=3", "pipeline has no key 'episodes'."),
        ("teach=3", "teach is a stage: write teach.num_envs=… or another of its keys"),
        ("teach.nun_envs=3", "teach has no key 'nun_envs'. Did you mean 'num_envs'?"),
        ("teach.num_envs=many", "teach.num_envs: expected an integer, got 'many'"),
        ("distill.parent=x", "distill.parent is filled in by the pipeline and cannot be set"),
        ("distill.task=skip", "distill.task=skip does not fit the run to work on, which has task=hop"),
        ("experiment=dmo", "no experiment named 'dmo'."),
    ],
)
def test_a_mistake_in_a_pipeline_is_one_line(word, message):
    assert refused("pipeline", word).startswith(message)


def test_an_experiment_gives_values_below_the_command_line(monkeypatch):
    data = {
        "num_envs": 16,
        "teach": {"teacher": {"iterations": 4}},
        "distill": {"loss": ["latent"], "dagger": {"rounds": 3}, "student": "cnn"},
        "refine": {"task": {"tolerance_m": 0.01}},
    }
    monkeypatch.setattr(config, "experiment", lambda name: data)
    made = composed("pipeline", "experiment=small", "distill.dagger.rounds=2")
    assert (made.teach.num_envs, made.teach.teacher.iterations, made.distill.dagger.rounds) == (16, 4, 2)
    assert set(made.distill.loss) == {"latent"}
    assert (made.distill.task.tolerance_m, made.refine.task.tolerance_m) == (0.02, 0.01)


def test_a_stage_takes_its_own_part_of_an_experiment(monkeypatch):
    data = {
        "num_envs": 16,
        "teach": {"teacher": {"iterations": 4, "hidden": [8]}},
        "refine": {"task": {"tolerance_m": 0.01}},
    }
    monkeypatch.setattr(config, "experiment", lambda name: data)
    made = composed("teach", "teacher.iterations=5", "task=hop", "experiment=small")
    assert (made.num_envs, made.teacher.iterations, made.teacher.hidden) == (16, 5, (8,))
    assert made.task.tolerance_m == 0.02
    assert refused("play", "experiment=small").startswith("play has no key 'experiment'")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"taech": {}}, "experiment small has no key 'taech'. Did you mean 'teach'?"),
        ({"teach": {"nun_envs": 3}}, "teach has no key 'nun_envs'. Did you mean 'num_envs'?"),
        ({"teach": {"teacher": {"iteration": 3}}}, "teacher ppo has no key 'iteration'."),
        ({"teach": 3}, "experiment small: teach must hold keys of that stage, got 3"),
        ({"teach": {"num_envs": "x"}}, "teach.num_envs: expected an integer, got 'x'"),
        ({"plugins": ["os"]}, "a saved configuration names plugins"),
        ({"teach": {"plugins": ["os"]}}, "a saved configuration names plugins"),
    ],
)
def test_a_mistake_in_an_experiment_is_one_line(monkeypatch, data, message):
    monkeypatch.setattr(config, "experiment", lambda name: data)
    assert refused("pipeline", "experiment=small").startswith(message)


def test_an_experiment_is_read_from_the_configs_folder(tmp_path, monkeypatch):
    folder = tmp_path / "my_configs"
    (folder / "experiment").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "experiment" / "small.yaml").write_text("teach:\n  num_envs: 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(overrides, "CONFIGS", "my_configs")
    assert overrides.experiment("small") == {"teach": {"num_envs": 3}}
    with pytest.raises(UserError, match=r"no experiment named 'smol'\. Did you mean 'small'\? Known: small"):
        overrides.experiment("smol")
    with pytest.raises(UserError, match="expected the name of a file in configs/experiment"):
        overrides.experiment("../teach")


def test_every_key_stands_with_a_comment_or_says_that_it_is_required():
    from robokd.learning import DaggerConfig

    for kind in (*SCHEMAS.values(), DaggerConfig):
        comments = field_comments(kind)
        bare = {
            name
            for name, field in kind.__dataclass_fields__.items()
            if not field.metadata and name != "dagger" and kind is not SCHEMAS["pipeline"]
        }
        assert bare <= set(comments), kind
    assert field_comments(TeachConfig)["threads"] == "processor threads; 0 = all cores"


def test_a_file_of_values_stands_for_what_it_holds(tmp_path, parts):
    path = tmp_path / "values.yaml"
    path.write_text("task: {part: hop}\nnum_envs: 7\nsim: {physics_dt: 0.004}\n")
    made = compose("teach", [f"@{path}", "seed=3"])
    assert (made.num_envs, made.seed, made.sim.physics_dt, made.task.name) == (7, 3, 0.004, "hop")
    assert compose("teach", [f"@{path}", "num_envs=9"]).num_envs == 9  # what is typed after it wins


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("nmu_envs: 3\n", "Did you mean 'num_envs'?"),
        ("plugins: [evil]\n", "no key 'plugins'"),
        ("!!python/object/apply:os.system [ls]\n", "not plain YAML"),
        ("- a\n", "holds a list"),
        ("num_envs: [\n", "not plain YAML"),
        ("sim: &a {}\ntask: *a\n", "values.yaml:2 is not plain YAML: aliases (*a) are not read"),
        ("num_envs: 3\nnum_envs: 4\n", "values.yaml:2 is not plain YAML: the key 'num_envs' stands twice"),
        ("num_envs: many\n", "num_envs"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, parts, text, words):
    path = tmp_path / "values.yaml"
    if text is not None:
        path.write_text(text)
    assert words in refused("teach", f"@{path}")


def test_values_in_a_stages_file_come_above_the_parts_own_defaults(fake_configs):
    file = fake_configs / "fake_configs" / "teach.yaml"
    before = file.read_text()
    try:
        file.write_text(f"{before}teacher:\n  iterations: 9\n")
        made = compose("teach", ["task=hop"])
        assert (made.teacher.iterations, made.teacher.hidden) == (9, (256, 128))
        assert compose("teach", ["task=hop", "teacher.iterations=3"]).teacher.iterations == 3
        assert "  teacher.iterations=9\n" in stage_help("teach", [])
        file.write_text(f"{before}teacher:\n  iteration: 9\n")
        assert refused("teach").startswith("configs/teach.yaml: Key 'iteration' not in 'TeacherCfg'")
    finally:
        file.write_text(before)


def test_one_name_is_a_list_of_one(parts):
    assert composed("distill", "cameras=wrist").cameras == ("wrist",)
    assert composed("distill", "cameras=[front,wrist]").cameras == ("front", "wrist")
