"""Every library, loss, weights, missing values, categories and files: parsed and replayed; and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import ensemble as sk
from tests.trees import Toy, without_values

import assay
from assay.errors import DataError, ModelError
from assay.methods.trees.leaves import REPLAY, replay
from assay.methods.trees.load import load_ensemble

xgboost, lightgbm, catboost = (pytest.importorskip(name) for name in ("xgboost", "lightgbm", "catboost"))
RNG = np.random.default_rng(0)
N = 200
FULL = RNG.normal(size=(N, 4))
HOLES = np.where(RNG.random(FULL.shape) < 0.1, np.nan, FULL)
SIGNAL = FULL[:, 0] + 0.5 * FULL[:, 1] * FULL[:, 2]
Y: dict[str, Any] = {
    "binary": (SIGNAL + 0.5 * RNG.normal(size=N) > 0).astype(int),
    "several": np.digitize(SIGNAL + 0.3 * RNG.normal(size=N), [-0.5, 0.5]),
    "number": SIGNAL + 0.3 * RNG.normal(size=N),
    "count": RNG.poisson(np.exp(0.4 * SIGNAL)),
}
WEIGHT = RNG.integers(1, 4, N).astype(float)
SMALL: dict[str, Any] = {"n_estimators": 6, "max_depth": 3}
CB: dict[str, Any] = {**SMALL, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
LGB: dict[str, Any] = {**SMALL, "verbose": -1, "n_jobs": 1}
XGB: dict[str, Any] = {**SMALL, "n_jobs": 1}
HIST: dict[str, Any] = {"max_iter": 6, "max_leaf_nodes": 8}
BOOSTED: dict[str, Any] = {
    "xgb binary": lambda: xgboost.XGBClassifier(**XGB, scale_pos_weight=2.0),
    "xgb several": lambda: xgboost.XGBClassifier(**XGB),
    "xgb number": lambda: xgboost.XGBRegressor(**XGB, base_score=0.3, reg_lambda=0.0),
    "xgb count": lambda: xgboost.XGBRegressor(**XGB, objective="count:poisson"),
    "lgb binary": lambda: lightgbm.LGBMClassifier(**LGB, reg_lambda=1.0),
    "lgb several": lambda: lightgbm.LGBMClassifier(**LGB),
    "lgb number": lambda: lightgbm.LGBMRegressor(**LGB, max_delta_step=0.3),
    "lgb count": lambda: lightgbm.LGBMRegressor(**LGB, objective="poisson"),
    "cat binary": lambda: catboost.CatBoostClassifier(**CB, leaf_estimation_iterations=3),
    "cat several": lambda: catboost.CatBoostClassifier(**CB),
    "cat number": lambda: catboost.CatBoostRegressor(**CB, grow_policy="Lossguide"),
    "cat count": lambda: catboost.CatBoostRegressor(**CB, loss_function="Poisson"),
    "hist binary": lambda: sk.HistGradientBoostingClassifier(**HIST, class_weight={0: 1.0, 1: 2.0}),
    "hist several": lambda: sk.HistGradientBoostingClassifier(**HIST),
    "hist number": lambda: sk.HistGradientBoostingRegressor(**HIST, l2_regularization=2.0),
    "hist count": lambda: sk.HistGradientBoostingRegressor(**HIST, loss="poisson"),
    "classic binary": lambda: sk.GradientBoostingClassifier(**SMALL),
    "classic several": lambda: sk.GradientBoostingClassifier(**SMALL, init="zero"),
    "classic number": lambda: sk.GradientBoostingRegressor(**SMALL),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", BOOSTED)
def test_predictions_and_leaf_values_are_the_librarys(name: str, weighted: bool) -> None:
    X, y = FULL if name.startswith("classic") else HOLES, Y[name.split()[1]]
    model = BOOSTED[name]()
    model.fit(X, y, **({"sample_weight": WEIGHT} if weighted else {}))
    ensemble = load_ensemble(model, "boostin")
    read = ensemble.read(assay.read((X, y, WEIGHT) if weighted else (X, y)), "rows")
    assert read.difference < 1e-6
    run = replay(read, "boostin")
    assert run.error < 1e-5
    np.testing.assert_allclose(run.final(read).T, read.output, atol=1e-4)
    if weighted:  # without the weights, the leaves are others
        with pytest.raises(ModelError, match="differ by"):
            replay(ensemble.read(assay.read((X, y)), "rows"), "boostin")


@pytest.mark.parametrize("kind", [sk.RandomForestClassifier, sk.ExtraTreesClassifier, sk.RandomForestRegressor])
@pytest.mark.parametrize("target", ["binary", "several", "number"])
def test_forests_are_read_and_not_replayed(kind: Any, target: str) -> None:
    if ("Regressor" in kind.__name__) != (target == "number"):
        return
    model = kind(8, random_state=0).fit(FULL, Y[target])
    read = load_ensemble(model, "trex").read(assay.read((FULL, Y[target])), "rows")
    assert read.difference < 1e-12
    with pytest.raises(ModelError, match="forest of independent trees"):
        replay(read, "boostin")


FILES: dict[str, Any] = {
    "xgb several.json": lambda model, path: model.save_model(path),
    "xgb binary.ubj": lambda model, path: model.save_model(path),
    "lgb several.txt": lambda model, path: model.booster_.save_model(path),
    "cat several.cbm": lambda model, path: model.save_model(path),
    "cat number.json": lambda model, path: model.save_model(path, format="json"),
}


@pytest.mark.parametrize("file", FILES)
def test_files_score_as_their_estimators(file: str, tmp_path: Path) -> None:
    name, y = file.split(".")[0], Y[file.split(".")[0].split()[1]]
    model = BOOSTED[name]().fit(HOLES, y)
    FILES[file](model, str(tmp_path / file))
    train, queries = (HOLES, y), (HOLES[:4], y[:4])
    found = assay.attribute(tmp_path / file, train, queries, "boostin")
    expected = assay.attribute(model, train, queries, "boostin").array
    np.testing.assert_allclose(found.array, expected, atol=1e-5 * np.abs(expected).max())
    assert found.provenance.inputs["model"] == file


@pytest.mark.parametrize("name", ["xgb", "lgb", "cat", "hist"])
def test_categories_by_name_and_as_text(name: str, tmp_path: Path) -> None:
    """A column of text is taken as the model was trained on it; columns in another order; names as labels."""
    frame = pd.DataFrame(FULL, columns=[*"abcd"])
    frame["city"] = RNG.choice([f"k{k}" for k in range(12)], N)
    if name != "cat":
        frame.loc[frame.index[:5], "city"] = None
    y = np.where(SIGNAL + 2 * frame["city"].isin(["k1", "k5", "k7"]) > 0.5, "yes", "no")
    known = frame.astype({"city": "category"})
    if name == "xgb":
        model, y = xgboost.XGBClassifier(**XGB, enable_categorical=True, max_cat_to_onehot=1), (y == "yes").astype(int)
    elif name == "lgb":
        model = lightgbm.LGBMClassifier(**LGB, min_data_per_group=5, cat_smooth=1, min_child_samples=5)
    elif name == "cat":
        model, known = catboost.CatBoostClassifier(**CB, cat_features=["city"], one_hot_max_size=20), frame
    else:
        model = sk.HistGradientBoostingClassifier(**HIST, categorical_features="from_dtype")
    model.fit(known, y)
    shuffled = frame[[*"dcba", "city"]]
    scores = [assay.attribute(model, (X, y), (X.iloc[:8], y[:8]), "boostin") for X in (known, frame, shuffled)]
    assert np.abs(scores[0].array).max() > 0
    for other in scores[1:]:
        np.testing.assert_array_equal(other.array, scores[0].array)
    with pytest.raises(DataError, match=r"column 'c'|'c' is not in"):
        assay.attribute(model, (frame.drop(columns="c"), y), (frame, y), "boostin")


def test_labels_of_a_file_without_names_are_numbered_in_order(tmp_path: Path) -> None:
    model = lightgbm.LGBMClassifier(**LGB).fit(FULL, np.array(["c", "a", "b"])[Y["several"]])
    model.booster_.save_model(tmp_path / "m.txt")
    y = np.array(["c", "a", "b"])[Y["several"]]
    one, two = (assay.attribute(m, (FULL, y), (FULL[:3], y[:3]), "boostin") for m in (model, tmp_path / "m.txt"))
    np.testing.assert_array_equal(one.array, two.array)


def test_an_early_stopped_estimator_is_read_up_to_its_best_round() -> None:
    model = xgboost.XGBClassifier(n_estimators=60, max_depth=3, early_stopping_rounds=3, n_jobs=1)
    model.fit(FULL[:150], Y["binary"][:150], eval_set=[(FULL[150:], Y["binary"][150:])], verbose=False)
    ensemble = load_ensemble(model, "boostin")
    assert len(ensemble.values) == model.best_iteration + 1 < 60
    assert replay(ensemble.read(assay.read((FULL[:150], Y["binary"][:150])), "rows"), "boostin").error < 1e-5


REFUSED: dict[str, tuple[Any, str, str]] = {
    "subsample": (lambda: xgboost.XGBClassifier(**XGB, subsample=0.5), "binary", "subsample"),
    "L1": (lambda: xgboost.XGBClassifier(**XGB, reg_alpha=1.0), "binary", "reg_alpha"),
    "dart": (lambda: xgboost.XGBClassifier(**XGB, booster="dart"), "binary", "booster 'dart'"),
    "linear": (lambda: xgboost.XGBClassifier(n_estimators=3, booster="gblinear"), "binary", "gblinear"),
    "boosted forest": (lambda: xgboost.XGBClassifier(**XGB, num_parallel_tree=2), "binary", "num_parallel_tree"),
    "several outputs": (
        lambda: xgboost.XGBClassifier(**XGB, multi_strategy="multi_output_tree"), "several", "multi_output_tree"),
    "monotone": (lambda: xgboost.XGBClassifier(**XGB, monotone_constraints=(1, 0, 0, 0)), "binary", "monotone"),
    "objective": (lambda: xgboost.XGBRegressor(**XGB, objective="reg:absoluteerror"), "number", "absoluteerror"),
    "lgb dart": (lambda: lightgbm.LGBMClassifier(**LGB, boosting_type="dart"), "binary", "dart"),
    "lgb goss": (lambda: lightgbm.LGBMClassifier(**LGB, data_sample_strategy="goss"), "binary", "goss"),
    "lgb rf": (
        lambda: lightgbm.LGBMClassifier(**LGB, boosting_type="rf", subsample=0.5, subsample_freq=1), "binary", "'rf'"),
    "lgb bagging": (lambda: lightgbm.LGBMClassifier(**LGB, subsample=0.5, subsample_freq=1), "binary", "bagging"),
    "lgb linear": (lambda: lightgbm.LGBMRegressor(**LGB, linear_tree=True), "number", "linear_tree"),
    "lgb L1": (lambda: lightgbm.LGBMRegressor(**LGB, reg_alpha=1.0), "number", "lambda_l1"),
    "lgb objective": (lambda: lightgbm.LGBMRegressor(**LGB, objective="huber"), "number", "huber"),
    "lgb custom": (
        lambda: lightgbm.LGBMRegressor(**LGB, objective=lambda y, f: (f - y, np.ones_like(f))), "number", "objective"),
    "cat objective": (lambda: catboost.CatBoostRegressor(**CB, loss_function="MAE"), "number", "MAE"),
    "cat steps": (
        lambda: catboost.CatBoostClassifier(**CB, leaf_estimation_iterations=2), "several", "leaf_estimation_iterations"),
    "classic subsample": (lambda: sk.GradientBoostingRegressor(**SMALL, subsample=0.5), "number", "subsample"),
    "classic loss": (lambda: sk.GradientBoostingRegressor(**SMALL, loss="huber"), "number", "huber"),
    "hist held-out": (
        lambda: sk.HistGradientBoostingClassifier(**HIST, early_stopping=True), "binary", "early_stopping"),
    "adaboost": (lambda: sk.AdaBoostClassifier(n_estimators=3), "binary", "no tree ensemble"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replayed_is_refused_by_name(name: str) -> None:
    make, target, word = REFUSED[name]
    model = make().fit(FULL, Y[target])
    with pytest.raises(ModelError, match=word):
        assay.attribute(model, (FULL, Y[target]), (FULL[:2], Y[target][:2]), "boostin")


def test_target_statistics_are_refused_and_other_methods_take_them() -> None:
    frame = pd.DataFrame({"a": FULL[:, 0], "city": RNG.choice([*"pqrs"], N)})
    y = (SIGNAL + (frame["city"] == "p") > 0).astype(int).to_numpy()
    model = catboost.CatBoostClassifier(**CB, cat_features=["city"], one_hot_max_size=2, max_ctr_complexity=1)
    model.fit(frame, y)
    with pytest.raises(ModelError, match="one_hot_max_size"):
        assay.attribute(model, (frame, y), (frame.iloc[:2], y[:2]), "boostin")
    assert assay.attribute(model, (frame, y), (frame.iloc[:2], y[:2]), "trex").array.shape == (N, 2)


@pytest.mark.parametrize(("name", "content"), [
    ("m.json", "{}"), ("m.json", "["), ("m.ubj", "x"), ("m.txt", "tree"), ("m.cbm", "x"), ("m.pkl", "x"),
])  # fmt: skip
def test_files_that_are_no_model_are_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=r"m\.\w+"):
        assay.attribute(tmp_path / name, (FULL, Y["binary"]), (FULL, Y["binary"]), "boostin")


def test_wrong_leaves_wrong_labels_and_unfitted_estimators_are_refused() -> None:
    toy = Toy("squared")
    with pytest.raises(ModelError, match="differs by"):
        without_values(toy).read(assay.read(toy.train()), "rows")
    model = sk.GradientBoostingClassifier(**SMALL).fit(FULL, Y["binary"])
    with pytest.raises(DataError, match="none of the model's classes"):
        assay.attribute(model, (FULL, Y["binary"] + 1), (FULL, Y["binary"]), "boostin")
    with pytest.raises(ModelError, match="differ by"):
        assay.attribute(model, (FULL, 1 - Y["binary"]), (FULL, Y["binary"]), "boostin")
    with pytest.raises(ModelError, match="not fitted"):
        assay.attribute(sk.GradientBoostingClassifier(), (FULL, Y["binary"]), (FULL, Y["binary"]), "boostin")
    with pytest.raises(DataError, match="no labels"):
        assay.attribute(model, FULL, FULL, "boostin")
    assert REPLAY < 0.01
