"""Attribution for trees: ensembles of scikit-learn, XGBoost, LightGBM and CatBoost, read and replayed."""
