"""The tables of the paper: what can be computed, what is missing, what differs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from flowsr_export.commands.reproduce import NAMES
from flowsr_export.evaluation import metrics
from flowsr_export.evaluation.reproduce import (
    TABLES,
    Figure,
    Missing,
    plan,
    published_values,
    reproduce,
    table_text,
)
from flowsr_lp import load_checkpoint
from flowsr_runtime.errors import UsageError
from flowsr_runtime.pictures.pixels import full_range
from tests.flowsr_export.evaluation.evaluations import dists_weights, folder_of
from tests.flowsr_export.networks import small, small_model, small_prior

Run = Callable[..., Result]
HEAD = "table,method,set,scale,metric,value\n"
METHOD = "EDSR-baseline-LINF-LP"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Small networks under released names."""
    net, folder = small(), tmp_path / "weights"
    folder.mkdir()
    model = {"model": {**small_model(), "sd": net.linf.state_dict()}}
    torch.save(model, folder / "edsr-baseline-linf.pth")
    assert net.prior is not None
    prior = {"prior_model": {**small_prior(), "sd": net.prior.state_dict()}}
    torch.save(prior, folder / "edsr-baseline-linf-LP.pth")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder_of(tmp_path / "data" / "DIV2K", "0801", height=66, width=53)
    return tmp_path / "data"


def test_a_number_is_that_of_the_protocol(weights: Path, data: Path) -> None:
    works, _ = plan(["linf-lp"], weights, data)
    learned = next(work for work in works if work.method.name == METHOD)
    figures = {each.metric: each.ours for each in reproduce(learned, weights, {})}
    assert set(figures) == {"psnr", "ssim", "lr-psnr"}
    original, low = learned.pairs[0].read()
    network = load_checkpoint(
        weights / "edsr-baseline-linf.pth", weights / "edsr-baseline-linf-LP.pth"
    ).network
    rgb = torch.from_numpy(full_range(low.transpose(2, 0, 1)[None]))
    with torch.inference_mode():
        output = network(rgb, original.shape[:2], border="paired").output[0]
    levels = output.clamp(0, 1).mul(255).numpy().transpose(1, 2, 0)
    assert figures["psnr"] == pytest.approx(metrics.psnr(levels, original, 4), abs=1e-4)
    unrounded = metrics.lr_psnr(levels, low, 4, rounded=False)
    assert figures["lr-psnr"] == pytest.approx(unrounded, abs=1e-3)


def test_what_is_missing_is_named_with_the_command(weights: Path, data: Path) -> None:
    works, missing = plan(NAMES, weights, data)
    assert {work.table for work in works} == {"linf-lp"}
    reasons = {(each.table, each.part): each.reason for each in missing}
    assert "flowsr-export fetch rrdb-linf.pth" in reasons["linf-lp", "RRDB-LINF-LP"]
    assert "fetch SRFlow_DF2K_4X.pth" in reasons["srflow-lp", "SRFlow-LP"]
    assert "Urban100 does not exist" in reasons["linf-lp-arbitrary", "Urban100"]
    assert "lacks alexnet-owt-7be5be79.pth or alex.pth" in reasons["linf-lp", "lpips"]
    assert "lacks vgg16-397923af.pth or dists.pt" in reasons["linf-lp", "dists"]


def test_distances_are_part_of_a_table_once_their_weights_exist(
    weights: Path, data: Path
) -> None:
    vgg, own = dists_weights(weights)
    torch.save(load_file(vgg), weights / "vgg16-397923af.pth")
    own.rename(weights / "dists.pt")
    works, missing = plan(["linf-lp"], weights, data)
    assert works[0].metric_set.metrics == ("psnr", "ssim", "dists", "lr-psnr")
    assert [each.part for each in missing if "lacks" in each.reason] == ["lpips"]
    figures = {each.metric: each.ours for each in reproduce(works[0], weights, {})}
    assert 0 < figures["dists"] < 1


def test_the_command_offers_every_table() -> None:
    assert tuple(TABLES) == NAMES


def test_published_values_stand_beside_ours(
    weights: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    paper = tmp_path / "paper.csv"
    paper.write_text(f"{HEAD}linf-lp,{METHOD},DIV2K,4,psnr,29.5\n", "utf-8")
    words = [
        *("reproduce", "--table", "linf-lp", "--weights", weights, "--data", data),
        *("--published", paper, "--first", "1", "-o", tmp_path / "table.md"),
    ]
    done = run(*words, "--json")
    assert done.exit_code == 0
    assert "only the first 1 images of each set: not the paper's figures" in done.stderr
    figures = json.loads(done.stdout)["figures"]
    known = [each for each in figures if each["published"] is not None]
    assert [(each["method"], each["metric"]) for each in known] == [(METHOD, "psnr")]
    ours = known[0]["ours"]
    line = f"| psnr | 29.5000 | {ours:.4f} | {ours - 29.5:+.4f} |"
    assert line in (tmp_path / "table.md").read_text("utf-8")
    again = run(*words)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "table.md exists; --force replaces it" in again.stderr


def test_a_table_says_what_it_lacks() -> None:
    figure = Figure("linf-lp", "LINF", "DIV2K", "4", "psnr", 30.0)
    text = table_text([figure], [Missing("linf-lp", "RRDB", "rrdb.pth does not exist")])
    assert "| linf-lp | LINF | DIV2K | ×4 | psnr | – | 30.0000 | – |" in text
    assert text.endswith("- linf-lp, RRDB: rrdb.pth does not exist.\n")


@pytest.mark.parametrize("missing", ["weights", "data", "both"])
def test_where_no_number_can_be_computed_one_line_says_what_to_get(
    missing: str, weights: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    none = tmp_path / "none"
    weights = weights if missing == "data" else none
    data = data if missing == "weights" else none
    done = run("reproduce", "--weights", weights, "--data", data, "-o", tmp_path / "a.md")
    name = "edsr-baseline-linf.pth"
    reasons = {
        "weights": f"{none / name} does not exist; flowsr-export fetch {name} -o {none}",
        "data": f"{none / 'DIV2K'} does not exist; docs/guides/weights.md says where the set "
        "is",
    }
    needs = reasons.get(missing) or "; and ".join(reasons.values())
    assert (done.exit_code, done.stdout) == (5, "")
    line = f"flowsr-export: no table can be computed: for linf-lp {needs}\n"
    assert done.stderr == line
    assert not (tmp_path / "a.md").exists()


def test_a_table_without_all_of_its_sets_is_computed(
    weights: Path, data: Path, run: Run
) -> None:
    folder_of(data / "Set5", "bird", height=66, width=53)
    words = [
        "--table",
        "linf-lp-arbitrary",
        "--weights",
        weights,
        "--data",
        data,
        "--first",
        "1",
    ]
    done = run("reproduce", *words)
    assert done.exit_code == 0, done.stderr
    assert f"| linf-lp-arbitrary | {METHOD} | Set5 | ×8 | psnr-y | – |" in done.stdout
    assert f"- linf-lp-arbitrary, Set14: {data / 'Set14'} does not exist;" in done.stdout
    assert "- linf-lp-arbitrary, RRDB-LINF-LP: " in done.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("linf-lp,x,DIV2K,4,psnr,1", "line 2: no table linf-lp with method x"),
        (f"linf-lp,{METHOD},DIV2K,4,psnr,nan", "line 2: value must be a number, got nan"),
        (f"linf-lp,{METHOD},DIV2K,4,psnr", "line 2, must have table, method, set, scale"),
    ],
)
def test_published_values_are_checked(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_text(HEAD + line, "utf-8")
    with pytest.raises(UsageError, match=message):
        published_values(tmp_path / "paper.csv")
    with pytest.raises(UsageError, match=r"none.csv cannot be read: No such file"):
        published_values(tmp_path / "none.csv")
