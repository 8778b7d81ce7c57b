"""Scores by networks that the user brings: the columns, what is scored again and what is not, and who reads them."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from support.scoring_networks import PLAIN_INPUT, Distance, Embedding, Features, network_file
from support.whole_jobs import manifest, run_job
from torch import nn

from diffstyle.errors import ConfigError
from diffstyle.images import to_tensor
from pipeline.cli.main import main
from pipeline.measures.features import content_correlation, gram_distance
from pipeline.models.network_spec import load_network_spec
from pipeline.results.contact_sheets import read_picture
from pipeline.results.select.choose import Rules, choose
from pipeline.shards.store import open_shards
from pipeline.storage.place import Place


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Four pairs at two gammas, scored by the model."""
    folder = tmp_path_factory.mktemp("networks")
    run_job(folder, stages=("shard", "precompute", "inject", "score"), injection={"gamma": [0, 1]})
    return folder / "out"


@pytest.fixture
def out(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "out")


@pytest.fixture(scope="module")
def side(scored):
    return int(manifest(scored)["width"][0])


def score(out, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["score", str(out), "--local", "--quiet", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def by_network(out, name: str) -> pd.DataFrame:
    return pd.read_parquet(out / "networks" / name / "scores").set_index("pair").sort_index()


def pixels(out):
    """pair -> (result, content, style), each (1, 3, S, S)."""
    stores = [open_shards(Place.parse(out / "shards" / side)) for side in ("content", "style")]
    sources = {row["image"]: to_tensor(store.read(row))[None] for store in stores for row in store.unique()}
    return {
        row.pair: (
            to_tensor(read_picture(Place.parse(out), row.picture))[None],
            sources[row.content_image],
            sources[row.style_image],
        )
        for row in manifest(out).itertuples()
    }


def test_an_embedding_a_distance_and_feature_maps(out, side, tmp_path):
    files = [
        network_file(tmp_path, "look", Embedding(), side=side),
        network_file(tmp_path, "apart", Distance(), "distance", side=side),
        network_file(tmp_path, "maps", Features(), "features", side=side, compare=["style", "content"]),
        network_file(tmp_path, "face", Embedding(), side=side // 2, compare=["content"],
                     input={**PLAIN_INPUT, "size": side // 2, "crop": [0.25, 0.25, 0.75, 0.75]}),
    ]  # fmt: skip
    text = score(out, *(f"--network={file}" for file in files))
    assert "network look: scored 8 pictures; 0 had its scores already" in text
    tables = {name: by_network(out, name) for name in ("look", "apart", "maps", "face")}
    assert list(tables["face"].columns[:1]) == ["face_content"]
    embed = Embedding()
    quarter = slice(side // 4, 3 * side // 4)
    for pair, (result, content, style) in pixels(out).items():
        row = {name: values for table in tables.values() for name, values in table.loc[pair].items()}
        for name, source in (("content", content), ("style", style)):
            expected = torch.cosine_similarity(embed(result), embed(source))
            assert row[f"look_{name}"] == pytest.approx(expected.item(), abs=1e-4)
            assert row[f"apart_{name}"] == pytest.approx((result - source).abs().mean().item(), abs=1e-4)
        faces = [embed(x[:, :, quarter, quarter]) for x in (result, content)]
        assert row["face_content"] == pytest.approx(torch.cosine_similarity(*faces).item(), abs=1e-4)
        maps = [Features()(x) for x in (result, content, style)]
        assert row["maps_content"] == pytest.approx(content_correlation(maps[0], maps[1]).item(), abs=1e-4)
        assert row["maps_style"] == pytest.approx(gram_distance(maps[0], maps[2]).item(), abs=1e-4)


def test_the_networks_name_and_hash_are_in_the_metadata(out, side, tmp_path):
    file = network_file(tmp_path, "look", Embedding(), side=side)
    score(out, "--network", str(file))
    sha256 = hashlib.sha256((tmp_path / "look.pt2").read_bytes()).hexdigest()
    described = json.loads((out / "networks" / "look.json").read_text())
    assert (described["identity"]["network"], described["identity"]["hash"]) == ("look", sha256)
    schema = pq.read_schema(next((out / "networks" / "look" / "scores").iterdir()))
    assert (schema.metadata[b"network"], schema.metadata[b"hash"]) == (b"look", sha256.encode())
    assert schema.field("look_style").metadata[b"hash"] == sha256.encode()
    assert schema.field("look_style").metadata[b"better"] == b"more"


def test_only_what_is_missing_is_scored(out, side, tmp_path):
    one = network_file(tmp_path, "one", Embedding(1), side=side)
    two = network_file(tmp_path, "two", Embedding(2), side=side)
    own = {part.name: part.read_bytes() for part in (out / "scores").iterdir()}
    score(out, "--network", str(one))
    first = {part.name: part.read_bytes() for part in (out / "networks/one/scores").iterdir()}
    assert len(first) > 1
    next((out / "networks/one/scores").iterdir()).unlink()  # as if it had been killed before this part
    lost = 8 - len(by_network(out, "one"))
    text = score(out, "--network", str(two))
    assert "network two: scored 8 pictures; 0 had" in text
    assert f"{lost} pictures without the scores of network one: name its file by --network" in text
    text = score(out, "--network", str(two), "--network", str(one))
    assert f"network one: scored {lost} pictures; {8 - lost} had its scores already" in text
    assert {part.name: part.read_bytes() for part in (out / "scores").iterdir()} == own
    assert len(by_network(out, "one")) == len(by_network(out, "two")) == 8
    assert "network" not in score(out).replace("/networks", "")


def test_another_network_of_the_same_name_is_scored_anew(out, side, tmp_path):
    file = network_file(tmp_path / "a", "look", Embedding(1), side=side)
    other = network_file(tmp_path / "b", "other", Embedding(3), side=side)
    score(out, "--network", str(file), "--network", str(other))
    before, kept = by_network(out, "look"), [p.read_bytes() for p in sorted((out / "networks/other/scores").iterdir())]
    network_file(tmp_path / "a", "look", Embedding(2), side=side)
    text = score(out, "--network", str(file))
    assert "network look: scored 8 pictures; 0 had" in text
    after = by_network(out, "look")
    assert (before["look_content"] - after["look_content"]).abs().max() > 0.01
    assert [p.read_bytes() for p in sorted((out / "networks/other/scores").iterdir())] == kept
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**values, "input": {**PLAIN_INPUT, "colours": "bgr"}}))
    assert "network look: scored 8 pictures; 0 had" in score(out, "--network", str(file))


def test_a_job_names_its_networks(tmp_path):
    side = 16
    (tmp_path / "job").mkdir()
    network_file(tmp_path / "job" / "nets", "look", Embedding(), side=side,
                 input={**PLAIN_INPUT, "size": side})  # fmt: skip
    result = run_job(tmp_path / "job", stages=("shard", "precompute", "inject", "score"),
                     score={"networks": ["nets/look.yaml"]})  # fmt: skip
    assert result.counts.scored_by == {"look": (4, 0)}
    again = CliRunner().invoke(main, ["run", str(tmp_path / "job/job.yaml"), "--local", "--quiet"])
    assert again.exit_code == 0, again.output
    assert "network look: scored 0 pictures; 4 had its scores already" in again.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "fid"}, "FID is the Fréchet distance on one network"),
        ({"name": "my_lpips"}, "says LPIPS, but that is `gives: lpips`"),
        ({"name": "Look-1"}, "name"),
        ({"gives": "magic"}, "gives"),
        ({"input": None}, "input: is missing: the network's size, mean and std"),
        ({"input": {**PLAIN_INPUT, "std": [0, 1, 1]}}, "must be three numbers above 0"),
        ({"input": {**PLAIN_INPUT, "crop": [0.5, 0, 0.5, 1]}}, "top < bottom"),
        ({"gives": "distance", "frechet": True}, "frechet: needs a network that gives embeddings"),
        ({"gives": "lpips", "input": None}, "needs `linear`"),
        ({"linear": "look.pt2"}, "belongs to gives: lpips"),
        ({"compare": ["style", "style"]}, "names a side twice"),
        ({"network": "look.yaml"}, "weights alone do not say what network they are of"),
        ({"size": 3}, "size"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(changes, words, tmp_path):
    file = network_file(tmp_path, "look", Embedding())
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))
    with pytest.raises(ConfigError) as caught:
        load_network_spec(file)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{file}")
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_does_not_fit_is_said_and_costs_nothing(out, side, tmp_path):
    assert "no such file" in score(out, "--network", str(tmp_path / "none.yaml"), code=2)
    file = network_file(tmp_path, "look", Embedding(), side=side)
    (tmp_path / "look.pt2").rename(tmp_path / "away.pt2")
    assert "no such file" in score(out, "--network", str(file), code=2)
    fixed = network_file(tmp_path, "fixed", Embedding(), side=2 * side)
    assert "see input.size" in score(out, "--network", str(fixed), code=2)
    psnr = network_file(tmp_path, "psnr", Embedding(), side=side)
    assert "its column psnr_content would be called like another" in score(out, "--network", str(psnr), code=2)
    assert not (out / "networks").exists()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "look.yaml").write_text(file.read_text().replace("look.pt2", "../away.pt2"))
    (tmp_path / "away.pt2").rename(tmp_path / "look.pt2")
    shutil.copy(tmp_path / "look.pt2", tmp_path / "away.pt2")
    text = score(out, "--network", str(file), "--network", str(tmp_path / "copy/look.yaml"), code=2)
    assert "two of them are called look" in text


def test_select_and_report_know_the_columns(out, side, tmp_path):
    pytest.importorskip("duckdb")
    score(out, "--network", str(network_file(tmp_path, "look", Embedding(), side=side)))
    values = by_network(out, "look")["look_style"]
    chosen = choose(Place.parse(out), Rules(where=f"look_style >= {values.median()}")).table["pair"].to_pylist()
    assert set(chosen) == set(values.index[values >= values.median()])
    best = choose(Place.parse(out), Rules(best="look_style", limit=1)).table["pair"].to_pylist()
    assert best == [values.idxmax()]
    data = tmp_path / "set"
    result = CliRunner().invoke(main, ["select", str(out), "--out", str(data), "--format", "parquet"])
    assert result.exit_code == 0, result.output
    rows = pd.concat(pd.read_parquet(file) for file in (data / "data").iterdir()).set_index("pair")
    np.testing.assert_array_equal(rows["look_style"].sort_index(), values)
    sha256 = hashlib.sha256((tmp_path / "look.pt2").read_bytes()).hexdigest()
    assert f"network look, SHA-256 `{sha256}`" in (data / "README.md").read_text()
    assert CliRunner().invoke(main, ["report", str(out), "--out", str(tmp_path / "report")]).exit_code == 0
    facts = (tmp_path / "report/data/facts.js").read_text()
    assert '"name":"look_style"' in facts.replace(" ", "")


def test_a_damaged_picture_costs_its_own_scores(out, side, tmp_path):
    first = manifest(out)["picture"][0]
    (out / first).unlink()
    text = score(out, "--network", str(network_file(tmp_path, "look", Embedding(), side=side)), code=3)
    assert "1 picture can't be scored: unreadable" in text
    table = by_network(out, "look")
    assert table["error"].notna().sum() == 1
    assert table["look_content"].notna().sum() == 7


def test_damage_to_the_scores_is_seen_and_repaired(out, side, tmp_path):
    score(out, "--network", str(network_file(tmp_path, "look", Embedding(), side=side, frechet=True)))
    for folder in ("scores", "sources"):
        part = next((out / "networks/look" / folder).iterdir())
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(bytes(data))
    result = CliRunner().invoke(main, ["verify", str(out)])
    assert result.exit_code == 3
    assert result.output.count("networks/look") == 2
    assert CliRunner().invoke(main, ["verify", str(out), "--repair"]).exit_code == 0
    assert CliRunner().invoke(main, ["verify", str(out)]).exit_code == 0
    assert "8 pictures" not in score(out, "--network", str(tmp_path / "look.yaml"))
    assert len(by_network(out, "look")) == 8


# ---- what is not finite ----


class PartlyNaN(Embedding):
    """NaN for the pictures whose mean is beyond a limit, as a network that was exported in float16."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.mean((1, 2, 3))[:, None].abs() > self.limit, torch.nan, super().forward(x))


class NoNumbers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * torch.inf


def test_a_network_that_gives_no_finite_numbers_is_refused_in_one_line(out, side, tmp_path):
    text = score(out, "--network", str(network_file(tmp_path, "bad", NoNumbers(), side=side, frechet=True)), code=2)
    assert "bad.pt2: gives numbers that are not finite (NaN or infinite)" in text
    assert not (out / "networks").exists()


def test_what_is_not_finite_is_null_with_its_reason_and_is_not_chosen(out, side, tmp_path):
    pytest.importorskip("duckdb")
    means = {pair: [abs(float(x.mean())) for x in seen] for pair, seen in pixels(out).items()}
    largest = sorted((of_pair[0] for of_pair in means.values()), reverse=True)
    limit = (largest[0] + largest[1]) / 2  # one result is beyond it, and perhaps a source
    file = network_file(tmp_path, "some", PartlyNaN(limit), side=side, frechet=True)
    beyond = {pair: [mean > limit for mean in of_pair] for pair, of_pair in means.items()}
    lost = {pair for pair, which in beyond.items() if any(which)}
    for _ in range(2):  # and on every rerun
        text = score(out, "--network", str(file), code=3)
        assert f"{len(lost)} picture{'s' if len(lost) > 1 else ''} can't be scored" in text
        assert "without a finite embedding left out)" in text
        assert "nan" not in text
    kept, chosen = by_network(out, "some"), choose(Place.parse(out), Rules(where="some_style > -2"))
    for pair, (result, content, style) in beyond.items():
        rows = kept.loc[[pair]]
        assert rows["some_content"].isna().all() == (result or content)
        assert rows["some_style"].isna().all() == (result or style)
        assert rows["embedding"].isna().all() == result
        assert rows["error"].notna().all() == (pair in lost)
    assert all("not finite (NaN or infinite)" in error for error in kept["error"].dropna())
    assert set(chosen.table["pair"].to_pylist()) == {
        p for p, (result, _, style) in beyond.items() if not result | style
    }
    for part in (out / "networks/some/scores").iterdir():  # a null and no NaN, which DuckDB would put first
        table = pq.read_table(part)
        assert not any(value != value for value in table["some_style"].to_pylist() if value is not None)
    failures = CliRunner().invoke(main, ["failures", str(out)])
    assert "network some: what it gives for" in failures.output


# ---- Fréchet distances ----


def test_settings_that_differ_only_in_what_the_bank_keeps_are_told_apart(tmp_path):
    file = network_file(tmp_path, "look", Embedding(), side=16, frechet=True, input={**PLAIN_INPUT, "size": 16})
    stages, lines = ("shard", "precompute", "inject", "score"), []
    for h in ("float16", "float32"):
        result = run_job(tmp_path, stages=stages, score={"networks": [str(file)]}, bank={"h": h})
        lines = [line for line in result.counts.notes if line.startswith("Fréchet distance on look")]
    digests = sorted(set(manifest(tmp_path / "out")["settings"]))
    assert len(digests) == len(lines) == 2
    assert sorted(line.partition(", settings ")[2][:8] for line in lines) == [digest[:8] for digest in digests]


def test_frechet_distances_by_setting(out, side, tmp_path):
    linalg = pytest.importorskip("scipy.linalg")
    file = network_file(tmp_path, "look", Embedding(), side=side, frechet=True)
    text = score(out, "--network", str(file))
    stated = json.loads((out / "networks/look/frechet.json").read_text())
    assert stated["network"] == "look"
    assert len(stated["distances"]) == 2
    embed, rows, seen = Embedding(), manifest(out).set_index("pair"), pixels(out)
    for one in stated["distances"]:
        pairs = rows.index[rows["settings"] == one["settings"]]
        results = torch.cat([embed(seen[pair][0]) for pair in pairs]).double().numpy()
        assert one["pictures"] == len(pairs) == 4
        for n, name in ((1, "content"), (2, "style")):
            images = {rows[f"{name}_image"][pair]: embed(seen[pair][n]) for pair in pairs}
            sources = torch.cat(list(images.values())).double().numpy()
            a, b = np.cov(results.T), np.cov(sources.T)
            root = linalg.sqrtm(a @ b + 1e-12 * np.eye(len(a))).real
            wanted = np.square(results.mean(0) - sources.mean(0)).sum() + np.trace(a + b - 2 * root)
            assert one[name] == pytest.approx(wanted, rel=0.02, abs=1e-3)
            assert f"{one[name]:.4g} to its 2 {name}s" in text
    assert "Fréchet distance on look, gamma 0" in text
    assert "fewer pictures than the 4 numbers of an embedding" in text
    assert "FID" not in text
    columns = set(choose(Place.parse(out), Rules()).table.column_names)
    assert not {"embedding", "frechet"} & columns  # numbers of a run are none of a pair


def test_frechet_distances_follow_a_run_that_grows(tmp_path):
    file = network_file(tmp_path, "look", Embedding(), side=16, frechet=True, input={**PLAIN_INPUT, "size": 16})
    stages = ("shard", "precompute", "inject", "score")
    run_job(tmp_path, stages=stages, score={"networks": [str(file)]})
    before = json.loads((tmp_path / "out/networks/look/frechet.json").read_text())["distances"]
    run_job(tmp_path, stages=stages, score={"networks": [str(file)]}, injection={"gamma": [0.6, 1]})
    after = json.loads((tmp_path / "out/networks/look/frechet.json").read_text())["distances"]
    assert [one["settings"] for one in after][:1] == [before[0]["settings"]]
    assert after[0]["style"] == pytest.approx(before[0]["style"])
    assert len(after) == 2
