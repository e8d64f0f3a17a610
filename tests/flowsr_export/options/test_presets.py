"""Published recipes and files of settings: values, their order, and what a run records."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from flowsr_export.fetch.releases import RELEASES
from flowsr_export.options.recipes import PRESETS
from flowsr_lp import load_checkpoint
from flowsr_runtime.installation import pip_command
from tests.flowsr_export.commands.trainings import PRIOR

Run = Callable[..., Result]

LINF = (
    *("--n-resblocks", "1", "--n-feats", "8", "--hidden-dim", "8"),
    *("--flow-layers", "2", "--num-layer", "1"),
)
SRFLOW = (
    *("--system", "srflow", "--nb", "1", "--blocks", "0", "--nf", "4", "--gc", "2"),
    *("--steps-per-level", "1", "--coupling-width", "4", "--crop", "4"),
)
SHORT = ("--batch", "2", "--steps", "2", "--threads", "1")
SMALL = ("--crop", "12", "--scale-range", "1,2")


@pytest.fixture
def flow(run: Run, pictures: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Train a tiny flow for two steps and return what its run records."""

    def train_flow(*options: object) -> dict[str, Any]:
        done = run("train", "flow", "--images", pictures, "-o", tmp_path / "flow", *options)
        assert done.exit_code == 0, done.output
        state: dict[str, Any] = torch.load(tmp_path / "flow" / "last.pt", weights_only=True)
        return {**state["settings"], **state["recipe"]}

    return train_flow


def write(path: Path, **values: object) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_the_published_recipe_of_linf_is_recorded_and_single_values_override_it(
    flow: Callable[..., dict[str, Any]],
) -> None:
    record = flow("--recipe", "published", *LINF, *SHORT, *SMALL)
    assert record["learning_rate"] == 1e-4
    assert record["halve_at"] == (0.2, 0.4, 0.6, 0.8)
    assert record["ema_decay"] == 0
    assert record["scale_per"] == "image"
    assert (record["batch"], record["steps"], record["lr_size"]) == (2, 2, 12)


@pytest.mark.parametrize("stage_first", [True, False])
def test_the_published_second_stage_has_half_the_rate(
    flow: Callable[..., dict[str, Any]], vgg: Path, tmp_path: Path, stage_first: bool
) -> None:
    flow(*LINF, *SHORT, *SMALL)
    start = tmp_path / "flow/model.safetensors"
    stage, recipe = ("--stage", "2", "--start", start), ("--recipe", "published")
    options = (*stage, *recipe) if stage_first else (*recipe, *stage)
    weight = ("--perceptual-weight", "0", "-o", tmp_path / "second")
    assert flow(*options, *weight, *SHORT, *SMALL)["learning_rate"] == 4e-4
    state = torch.load(tmp_path / "second" / "last.pt", weights_only=True)
    assert state["settings"]["learning_rate"] == 5e-5
    assert state["recipe"]["scale_per"] == "image"


@pytest.mark.parametrize("system_first", [True, False])
def test_the_published_recipe_of_srflow_is_taken_wherever_the_system_is_named(
    flow: Callable[..., dict[str, Any]], tmp_path: Path, system_first: bool
) -> None:
    recipe = ("--recipe", "published")
    options = (*SRFLOW, *recipe) if system_first else (*recipe, *SRFLOW)
    flow(*SRFLOW, *SHORT)
    start = ("--start", tmp_path / "flow/model.safetensors", "-o", tmp_path / "again")
    flow(*options, *SHORT, *start)
    state = torch.load(tmp_path / "again" / "last.pt", weights_only=True)
    record = {**state["settings"], **state["recipe"]}
    assert record["trunk_from"] == 0.5
    assert record["learning_rate"] == 5e-4
    assert record["halve_at"] == (0.5, 0.75, 0.9, 0.95)
    assert record["quant"] == 32
    assert record["scales"] == [4, 4]


def test_the_published_recipe_trains_a_prior(
    flow: Callable[..., dict[str, Any]], run: Run, pictures: Path, vgg: Path, tmp_path: Path
) -> None:
    flow(*LINF, *SHORT, *SMALL)
    files = ("--model", tmp_path / "flow/model.safetensors", "--vgg", vgg, "--images", pictures)
    published = ("--recipe", "published", *SHORT, *SMALL)
    done = run("train", "prior", *files, "-o", tmp_path / "prior", *PRIOR, *published)
    assert done.exit_code == 0, done.output
    state = torch.load(tmp_path / "prior" / "last.pt", weights_only=True)
    assert state["recipe"]["scale_per"] == "image"
    latent = tmp_path / "prior/prior.safetensors"
    assert (
        load_checkpoint(tmp_path / "flow/model.safetensors", latent).network.prior is not None
    )


@pytest.mark.parametrize("by_file", [False, True])
def test_the_published_recipe_of_a_prior_is_that_of_its_flow(
    flow: Callable[..., dict[str, Any]],
    run: Run,
    pictures: Path,
    vgg: Path,
    tmp_path: Path,
    by_file: bool,
) -> None:
    flow(*SRFLOW, *SHORT)
    model = tmp_path / "flow/model.safetensors"
    named = ("--config", write(tmp_path / "run.json", model=str(model), recipe="published"))
    published = named if by_file else ("--recipe", "published", "--model", model)
    files = ("--vgg", vgg, "--images", pictures, "-o", tmp_path / "prior")
    done = run("train", "prior", *published, *files, *PRIOR, *SHORT, "--crop", "4")
    assert done.exit_code == 0, done.output
    state = torch.load(tmp_path / "prior" / "last.pt", weights_only=True)
    assert state["settings"]["learning_rate"] == 2.5e-4
    assert state["settings"]["halve_at"] == (0.5, 0.75, 0.9, 0.95)
    assert state["recipe"]["scales"] == [4, 4]


def test_the_recipe_of_a_prior_needs_a_model_that_can_be_read(
    run: Run, pictures: Path, vgg: Path, tmp_path: Path
) -> None:
    files = ("--vgg", vgg, "--images", pictures, "-o", tmp_path / "prior")
    done = run("train", "prior", "--recipe", "published", "--model", "none.pth", *files)
    assert done.exit_code == 5
    assert "model none.pth does not exist" in done.stderr


def test_a_file_overrides_the_recipe_and_the_command_line_both(
    flow: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = write(
        tmp_path / "run.json",
        recipe="published",
        learning_rate=3e-4,
        **{"scale-range": [1, 2], "crop": 12, "batch": 5, "ema_decay": 0.5},
    )
    record = flow("--config", path, *LINF, *SHORT)
    assert record["learning_rate"] == 3e-4
    assert record["scales"] == [1.0, 2.0]
    assert record["ema_decay"] == 0.5
    assert record["batch"] == 2
    assert record["lr_size"] == 12
    assert record["scale_per"] == "image"


def test_a_file_may_name_the_system_of_its_recipe(
    flow: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    names = [flag.removeprefix("--") for flag in SRFLOW[::2]]
    values = dict(zip(names, SRFLOW[1::2], strict=True))
    path = write(tmp_path / "run.json", **values, recipe="published", **{"trunk-from": 0})
    assert flow("--config", path, *SHORT)["quant"] == 32


def test_a_file_sets_flags_and_options_that_are_repeated(
    flow: Callable[..., dict[str, Any]], run: Run, pictures: Path, vgg: Path, tmp_path: Path
) -> None:
    flow(*LINF, *SHORT, *SMALL)
    path = write(
        tmp_path / "run.json",
        model=str(tmp_path / "flow/model.safetensors"),
        vgg=str(vgg),
        images=str(pictures),
        output=str(tmp_path / "prior"),
        depth=1,
        dim=4,
        json=True,
        **{"vgg-layer": ["conv1_1", "conv2_1"]},
    )
    done = run("train", "prior", "--config", path, *SHORT, *SMALL)
    assert json.loads(done.stdout)["steps"] == 2
    state = torch.load(tmp_path / "prior" / "last.pt", weights_only=True)
    assert state["recipe"]["vgg_layers"] == ["conv1_1", "conv2_1"]


@pytest.mark.parametrize(
    ("text", "exit_code", "words"),
    [
        ("{", 5, "run.json are not JSON: "),
        ("[1]", 5, "run.json are not a JSON object"),
        ('{"stepps": 3}', 2, "run.json: no option is named stepps"),
        ('{"config": "a"}', 2, "no option is named config"),
        ('{"steps": {"a": 1}}', 2, 'steps must be a text, a number or a list of them, got {"a'),
        ('{"steps": null}', 2, "steps must be a text, a number or a list of them, got null"),
        ('{"batch": true}', 2, "batch must be a text, a number or a list of them, got true"),
        ('{"json": 1}', 2, "json must be true or false, got 1"),
        ('{"crop": 8, "lr_size": 9}', 2, "--crop is named twice, once as lr_size"),
        ('{"steps": 0}', 2, "0 is not in the range x>=1"),
        ('{"steps": 2.5}', 2, "'2.5' is not a valid integer"),
        ('{"recipe": "best"}', 2, "'best' is not one of published"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(
    run: Run, pictures: Path, tmp_path: Path, text: str, exit_code: int, words: str
) -> None:
    (tmp_path / "run.json").write_text(text)
    files = ("--images", pictures, "-o", tmp_path / "flow")
    done = run("train", "flow", *files, "--config", tmp_path / "run.json")
    assert done.exit_code == exit_code
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "flow").exists()


def test_a_file_that_is_missing_is_named(run: Run, pictures: Path, tmp_path: Path) -> None:
    files = ("--images", pictures, "-o", tmp_path / "flow")
    done = run("train", "flow", *files, "--config", tmp_path / "none.json")
    assert done.exit_code == 5
    assert "none.json: No such file" in done.stderr


def test_a_file_may_be_yaml(flow: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    path = tmp_path / "run.yaml"
    path.write_text(
        "recipe: published\nlearning_rate: 3e-4  # a comment\nscale-range: [1, 2]\ncrop: 12\n"
    )
    record = flow("--config", path, *LINF, *SHORT)
    assert record["learning_rate"] == 3e-4
    assert record["scales"] == [1.0, 2.0]
    assert record["scale_per"] == "image"


@pytest.mark.parametrize(
    ("text", "exit_code", "words"),
    [
        ("a: [", 5, "run.yml are not YAML: "),
        ("- 1", 5, "run.yml are not a YAML mapping"),
        ("", 5, "run.yml are not a YAML mapping"),
        ("!!python/object/apply:os.getcwd []", 5, "run.yml are not YAML: could not determine"),
        ("1: 2", 2, "run.yml: no option is named 1"),
        ("steps: 2026-11-28", 2, 'a text, a number or a list of them, got "2026-11-28"'),
        ("batch: yes", 2, "batch must be a text, a number or a list of them, got true"),
    ],
)
def test_a_yaml_file_that_makes_no_sense_is_refused(
    run: Run, pictures: Path, tmp_path: Path, text: str, exit_code: int, words: str
) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "run.yml").write_text(text)
    files = ("--images", pictures, "-o", tmp_path / "flow")
    done = run("train", "flow", *files, "--config", tmp_path / "run.yml")
    assert done.exit_code == exit_code
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_yaml_without_its_library_names_the_extra(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "run.yaml").write_text("steps: 2")
    files = ("--images", pictures, "-o", tmp_path / "flow")
    done = run("train", "flow", *files, "--config", tmp_path / "run.yaml")
    assert done.exit_code == 4
    assert len(done.stderr.splitlines()) == 1
    assert f"yaml is not installed; {pip_command('export')}" in done.stderr


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Record the arguments of runs of training, which are not carried out."""
    calls: list[Any] = []
    file = tmp_path / "weights"
    file.touch()

    def record(*arguments: Any) -> Path:
        calls.append(arguments)
        return file

    for name in (
        "flows.train_flow",
        "second_stage.train_second_stage",
        "priors.train_prior",
        "rrdb.train_rrdb",
    ):
        monkeypatch.setattr(f"flowsr_lp.training.{name}", record)
    return calls


@pytest.mark.parametrize(
    ("name", "encoder", "patch", "crop", "batch"),
    [
        ("edsr-baseline-linf", "edsr-baseline", 3, 96, 16),
        ("rrdb-linf", "rrdb", 3, 96, 16),
        ("EDSR-baseline-LINF", "edsr-baseline", 1, 48, 16),
        ("RDN-LINF", "rdn", 1, 48, 16),
        ("rdn-linf", "rdn", 1, 48, 16),
        ("swinir-linf", "swinir", 1, 48, 32),
        ("RRDB-LINF", "rrdb", 3, 48, 16),
    ],
)
def test_a_preset_has_the_network_and_recipe_of_a_released_flow(
    run: Run, begun: list[Any], name: str, encoder: str, patch: int, crop: int, batch: int
) -> None:
    done = run("train", "flow", "--preset", name, "--images", "i", "-o", "o")
    assert done.exit_code == 0, done.output
    spec, _, _, loop, *_ = begun[0]
    assert spec["args"]["encoder_spec"] == {"name": encoder, "args": {}}
    assert spec["args"].get("patch_size", 1) == patch
    assert (loop.lr_size, loop.batch, loop.scale_per) == (crop, batch, "image")
    assert loop.settings.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("name", "scale", "nb", "crop", "rate"),
    [
        ("SRFlow_DF2K_4X", 4, 23, 40, 2.5e-4),
        ("SRFlow-DF2K-8X", 8, 23, 20, 5e-4),
        ("srflow_celeba_8x", 8, 8, 20, 5e-4),
    ],
)
def test_a_preset_of_srflow_names_the_system(
    run: Run, begun: list[Any], name: str, scale: int, nb: int, crop: int, rate: float
) -> None:
    done = run("train", "flow", "--preset", name, "--images", "i", "-o", "o")
    assert done.exit_code == 0, done.output
    spec, _, _, loop, _, quant, trunk_from = begun[0]
    assert spec["name"] == "srflow"
    assert (spec["args"]["scale"], spec["args"]["nb"]) == (scale, nb)
    assert (loop.lr_size, loop.settings.learning_rate, quant) == (crop, rate, 32)
    assert trunk_from == 0.5


def test_a_preset_in_the_second_stage_leaves_the_network_to_the_start(
    run: Run, begun: list[Any]
) -> None:
    files = ("--images", "i", "-o", "o", "--start", "flow.pth")
    done = run("train", "flow", "--preset", "SwinIR-LINF", "--stage", "2", *files)
    assert done.exit_code == 0, done.output
    stage, loop, _ = begun[0]
    assert (stage.perceptual_weight, loop.batch, loop.lr_size) == (0, 32, 48)
    assert loop.settings.steps == 750000
    assert loop.settings.learning_rate == 5e-5


@pytest.mark.parametrize(
    ("command", "name", "rate", "crop"),
    [
        ("prior", "edsr-baseline-linf-LP", 1e-4, 96),
        ("prior", "rrdb-linf-LP", 1e-4, 96),
        ("prior", "SRFlow-LP", 2.5e-4, 40),
        ("rrdb", "RRDB_DF2K_4X", 2e-4, 40),
        ("rrdb", "RRDB_DF2K_8X", 2e-4, 20),
        ("rrdb", "RRDB_CelebA_8X", 2e-4, 20),
    ],
)
def test_priors_and_trunks_have_presets(
    run: Run, begun: list[Any], command: str, name: str, rate: float, crop: int
) -> None:
    files = ["--images", "i", "-o", "o"]
    files += ["--model", "m.pth", "--vgg", "v.pth"] if command == "prior" else []
    done = run("train", command, "--preset", name, *files)
    assert done.exit_code == 0, done.output
    loop = next(each for each in begun[0] if hasattr(each, "lr_size"))
    assert (loop.settings.learning_rate, loop.lr_size) == (rate, crop)


def test_every_preset_is_a_file_that_was_released() -> None:
    names = {f"{name}.pth" for presets in PRESETS.values() for name in presets}
    assert names <= RELEASES.keys()
    assert len(names) == 15


def test_single_values_override_a_preset_and_a_file_names_one(
    run: Run, begun: list[Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "run.json", preset="SRFlow_CelebA_8X", batch=7, steps=9)
    files = ("--images", "i", "-o", "o")
    done = run("train", "flow", *files, "--config", path, "--steps", "8", "--nb", "23")
    assert done.exit_code == 0, done.output
    spec, _, _, loop, *_ = begun[0]
    assert (spec["args"]["scale"], spec["args"]["nb"]) == (8, 23)
    assert (loop.batch, loop.settings.steps) == (7, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "RRDB_DF2K_4X"), "'RRDB_DF2K_4X' is not one of edsr-baseline-linf, "),
        (("--preset", "EDSR-Baseline-LINF"), "'EDSR-Baseline-LINF' is not one of"),
        (("--preset", "RDN-LINF", "--recipe", "published"), "at most one of --preset and"),
        (("--preset", "SRFlow_DF2K_4X", "--stage", "2"), "--stage 2 is for linf, not the pre"),
        (("--preset", "SRFlow_DF2K_4X", "--n-feats", "3"), "--n-feats is for linf, not srfl"),
    ],
)
def test_a_preset_that_makes_no_sense_is_refused(
    run: Run, options: tuple[str, ...], words: str
) -> None:
    done = run("train", "flow", "--images", "i", "-o", "o", *options)
    assert done.exit_code == 2
    assert words in done.stderr
