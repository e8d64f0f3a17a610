import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from flowsr_lp import LinfLP, linf_from_spec, prior_from_spec
from flowsr_lp.training.crops import Crops
from flowsr_lp.training.linf import NO_PENALTIES, FlowLoss, PriorLoss
from flowsr_lp.training.loop import Report, Settings, best_weights, steps_done, train
from flowsr_lp.training.penalties import Penalties
from flowsr_lp.training.processes import Processes
from flowsr_lp.training.run import Loop, begun_run
from flowsr_runtime.errors import CheckpointError, FlowsrError, OutputError, UsageError
from tests import stand_in
from tests.flowsr_lp.training.doubles import MODEL, Blur, Recorder

PRIOR: dict[str, Any] = {"name": "unet", "args": {"in_chans": 27, "depth": 1, "dim": 8}}
SETTINGS = Settings(steps=6, learning_rate=1e-3, ema_decay=0.9, save_every=2, seed=3)


def crops(lr_size: int = 8) -> Crops:
    return Crops([stand_in.picture(40, 40, salt) for salt in "abc"], 2, lr_size, (1.0, 3.0))


ALL_PENALTIES = Penalties(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


def flow_loss(penalties: Penalties = NO_PENALTIES) -> FlowLoss:
    torch.manual_seed(0)
    return FlowLoss(linf_from_spec(MODEL), 2.0, penalties)


def prior_loss(penalties: Penalties = NO_PENALTIES, **weights: float) -> PriorLoss:
    torch.manual_seed(0)
    network = LinfLP(linf_from_spec(MODEL), prior_from_spec(PRIOR))
    return PriorLoss(network, Blur(), **weights, penalties=penalties)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_penalty_joins_both_losses() -> None:
    low, high = crops().batch_at(0)
    for loss in (flow_loss(ALL_PENALTIES), prior_loss(ALL_PENALTIES)):
        total, figures = loss(low, high)
        assert {"phase", "mesh", "shift", "range", "rescaled"} <= figures.keys()
        assert math.isfinite(total.item())


def test_a_penalty_of_weight_0_changes_nothing() -> None:
    low, high = crops().batch_at(0)
    torch.manual_seed(1)
    plain, _ = flow_loss()(low, high)
    torch.manual_seed(1)
    weighted, _ = flow_loss(Penalties(phase=1e-9))(low, high)
    torch.testing.assert_close(plain, weighted)


def test_training_the_flow_lowers_its_loss(tmp_path: Path) -> None:
    seen = Recorder()
    train(flow_loss(), crops(), replace(SETTINGS, steps=150), tmp_path, seen)
    assert sum(seen.losses[-10:]) < 0.8 * sum(seen.losses[:10])


def test_training_the_prior_lowers_its_loss(tmp_path: Path) -> None:
    seen = Recorder()
    settings = replace(SETTINGS, steps=150, learning_rate=3e-3)
    train(prior_loss(), crops(), settings, tmp_path, seen)
    assert sum(seen.losses[-10:]) < 0.9 * sum(seen.losses[:10])


def test_training_the_prior_leaves_the_flow_alone(tmp_path: Path) -> None:
    loss = prior_loss(latent_weight=1.0, pixel_weight=1.0)
    before = {name: tensor.clone() for name, tensor in loss.linf.state_dict().items()}
    train(loss, crops(), SETTINGS, tmp_path, Recorder())
    assert same(loss.linf.state_dict(), before)


def test_with_a_weight_of_the_likelihood_the_flow_learns_too(tmp_path: Path) -> None:
    loss = prior_loss(pixel_weight=1.0, likelihood_weight=0.1)
    before = {name: tensor.clone() for name, tensor in loss.trained.state_dict().items()}
    weights = train(loss, crops(), replace(SETTINGS, ema_decay=0.0), tmp_path, Recorder())
    assert weights.keys() == before.keys()
    parts = {name.partition(".")[0] for name in weights}
    changed = {n.partition(".")[0] for n in weights if not torch.equal(weights[n], before[n])}
    assert parts == changed == {"linf", "prior"}
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert math.isfinite(first["nll"])


@pytest.mark.parametrize("make", [flow_loss, prior_loss])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, make: Callable[[], FlowLoss | PriorLoss]
) -> None:
    whole = train(make(), crops(), SETTINGS, tmp_path / "whole", Recorder())
    with pytest.raises(KeyboardInterrupt):
        train(make(), crops(), SETTINGS, tmp_path / "parts", Recorder(interrupt_at=3))
    seen = Recorder()
    parts = train(make(), crops(), SETTINGS, tmp_path / "parts", seen)
    assert seen.steps == [3, 4, 5, 6]
    assert same(whole, parts)


def test_a_run_resumed_with_workers_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = train(flow_loss(), crops(), SETTINGS, tmp_path / "whole", Recorder())
    with pytest.raises(KeyboardInterrupt):
        train(
            flow_loss(),
            crops(),
            SETTINGS,
            tmp_path / "parts",
            Recorder(interrupt_at=3),
            workers=2,
        )
    seen = Recorder()
    parts = train(flow_loss(), crops(), SETTINGS, tmp_path / "parts", seen, workers=1)
    assert seen.steps == [3, 4, 5, 6]
    assert same(whole, parts)


def test_an_interrupted_run_can_be_resumed_where_it_was_saved(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder(interrupt_at=5))
    assert steps_done(tmp_path) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "log.jsonl"]


def test_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    first = train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder())
    seen = Recorder()
    assert same(train(flow_loss(), crops(), SETTINGS, tmp_path, seen), first)
    assert seen.steps == []


def test_every_save_leaves_a_line_of_figures(tmp_path: Path) -> None:
    train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[0].keys() == {"step", "nll", "l1"}


def test_validation_is_logged_and_changes_nothing(tmp_path: Path) -> None:
    plain = train(flow_loss(), crops(), SETTINGS, tmp_path / "plain", Recorder())
    held_out = Crops([stand_in.picture(40, 40, "held out")], 2, 8, (1.0, 3.0))
    folder = tmp_path / "validated"
    weights = train(flow_loss(), crops(), SETTINGS, folder, Recorder(), validation=held_out)
    assert same(weights, plain)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["validation"].keys() for line in lines] == [{"nll", "l1"}] * 3
    assert len({line["validation"]["nll"] for line in lines}) == 3


def test_the_weights_of_the_lowest_loss_on_held_out_pictures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = Crops([stand_in.picture(40, 40, "held out")], 2, 8, (1.0, 3.0))
    losses = iter([3.0, 1.0, 2.0])
    saved: list[dict[str, Tensor]] = []

    def validate(_: object, average: dict[str, Tensor], *__: object) -> dict[str, float]:
        saved.append({name: tensor.clone() for name, tensor in average.items()})
        return {"loss": next(losses)}

    monkeypatch.setattr("flowsr_lp.training.loop._validate", validate)
    train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder(), validation=held_out)
    assert len(saved) == 3
    assert same(best_weights(tmp_path), saved[1])


def test_a_resumed_run_keeps_the_best_weights_of_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = Crops([stand_in.picture(40, 40, "held out")], 2, 8, (1.0, 3.0))
    losses = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr("flowsr_lp.training.loop._validate", lambda *_: {"loss": next(losses)})
    with pytest.raises(KeyboardInterrupt):
        train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder(3), validation=held_out)
    first = best_weights(tmp_path)
    train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder(), validation=held_out)
    assert same(best_weights(tmp_path), first)
    assert list(losses) == []


def test_a_run_without_validation_has_no_best_weights(tmp_path: Path) -> None:
    train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder())
    with pytest.raises(
        CheckpointError, match=r"best\.pt does not exist: the run was not valid"
    ):
        best_weights(tmp_path)
    (tmp_path / "best.pt").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"best\.pt is damaged"):
        best_weights(tmp_path)


def test_without_averaging_the_last_weights_are_kept(tmp_path: Path) -> None:
    loss = flow_loss()
    kept = train(loss, crops(), replace(SETTINGS, ema_decay=0.0), tmp_path, Recorder())
    assert same(kept, loss.trained.state_dict())


def test_averaged_weights_lag_behind_the_last(tmp_path: Path) -> None:
    loss = flow_loss()
    kept = train(loss, crops(), SETTINGS, tmp_path, Recorder())
    assert not same(kept, loss.trained.state_dict())


def test_a_run_of_an_older_version_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder(interrupt_at=2))
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    old = {name: state[name] for name in state.keys() - {"recipe", "noise"}}
    torch.save(old, tmp_path / "last.pt")
    seen = Recorder()
    train(flow_loss(), crops(), SETTINGS, tmp_path, seen, recipe={"batch": 2})
    assert seen.steps == [3, 4, 5, 6]


def test_other_settings_do_not_resume_a_run(tmp_path: Path) -> None:
    train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder())
    message = r"last.pt belongs to a run with other settings: steps is 6, got 8; use another"
    with pytest.raises(CheckpointError, match=message):
        train(flow_loss(), crops(), replace(SETTINGS, steps=8), tmp_path, Recorder())


def test_another_recipe_does_not_resume_a_run(tmp_path: Path) -> None:
    train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder(), recipe={"batch": 2})
    with pytest.raises(CheckpointError, match="with other recipe: batch is 2, got 4; use"):
        train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder(), recipe={"batch": 4})


def test_another_network_does_not_resume_a_run(tmp_path: Path) -> None:
    train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder())
    with pytest.raises(CheckpointError, match=r"last.pt belongs to a run of another network"):
        train(prior_loss(), crops(), SETTINGS, tmp_path, Recorder())


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"last.pt is damaged; use another folder"):
        train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder())


def test_another_checkpoint_is_not_a_run(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last.pt is not a training run: it lacks av"):
        steps_done(tmp_path)


def test_a_folder_without_a_run_begins_at_step_zero(tmp_path: Path) -> None:
    assert steps_done(tmp_path / "none") == 0


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    loss = flow_loss()
    loss.linf.imnet.last.bias.data[0] = float("inf")
    with pytest.raises(FlowsrError, match="loss is not finite at step 0; lower the learning"):
        train(loss, crops(), SETTINGS, tmp_path, Recorder())
    assert not (tmp_path / "last.pt").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot make folder .*file/run: Not a directory"):
        train(flow_loss(), crops(), SETTINGS, tmp_path / "file" / "run", Recorder())


def test_a_run_that_cannot_be_saved_keeps_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    with pytest.raises(KeyboardInterrupt):
        train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder(interrupt_at=3))
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"cannot be saved: .*file write failed"):
        train(flow_loss(), crops(), SETTINGS, tmp_path, Recorder())
    assert steps_done(tmp_path) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps and save_every must be at least 1 and seed at least 0, got 0, 2"),
        ({"save_every": 0}, "steps and save_every must be at least 1"),
        ({"seed": -1}, "and seed at least 0, got 6, 2 and -1"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0 and finite, got inf"),
        (
            {"halve_at": (0.5, 1.0)},
            r"halve_at must be shares between 0 and 1, got \(0.5, 1.0\)",
        ),
        ({"ema_decay": 1.0}, "ema_decay must be from 0 to below 1, got 1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SETTINGS, **changes)


def test_the_learning_rate_is_halved_at_shares_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def recorded(self: torch.optim.Adam, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    settings = replace(SETTINGS, halve_at=(0.5, 0.7))
    train(flow_loss(), crops(), settings, tmp_path, Recorder())
    assert rates == [1e-3, 1e-3, 1e-3, 5e-4, 2.5e-4, 2.5e-4]


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="weights must be finite and at least 0, got -1"):
        prior_loss(latent_weight=-1.0)
    with pytest.raises(UsageError, match=r"at least 0, got -0\.5"):
        prior_loss(likelihood_weight=-0.5)


def test_a_prior_loss_without_a_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="one of the loss's weights must be above 0"):
        prior_loss(perceptual_weight=0.0)


def test_the_flow_loss_is_the_likelihood_of_the_noisy_residual() -> None:
    low, high = crops().batch_at(0)
    loss = FlowLoss(flow_loss().linf)
    torch.manual_seed(1)
    value, figures = loss(low, high)
    assert figures == {"nll": pytest.approx(value.item())}
    torch.manual_seed(2)
    assert loss(low, high)[0] != value


def test_a_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    loop = cast("Loop", SimpleNamespace(output=tmp_path))
    steps: list[int] = []

    def started(first: int) -> Report:
        steps.append(first)
        return lambda step, total, figures: None

    words = f"another run is training in {tmp_path}"
    alone = Processes()
    with begun_run(loop, alone, started), pytest.raises(OutputError, match=words):
        begun_run(loop, alone, started).__enter__()
    with begun_run(loop, alone, started):
        assert steps == [0, 0]
