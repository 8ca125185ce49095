"""Small estimators of scikit-learn's own data sets, and the data as .npz."""

import os

import numpy as np
import skops.io
from sklearn.cluster import KMeans
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

digits, numbers = load_digits(return_X_y=True)
iris, kinds = load_iris(return_X_y=True)
diabetes, progress = load_diabetes(return_X_y=True)
names = np.array(["setosa", "versicolor", "virginica"])[kinds]
np.savez("digits.npz", input=digits.astype("f4"), label=numbers)
far = iris + 1e7
np.savez("offset.npz", input=far.astype("f4"))
np.savez("iris.npz", flower=iris.astype("f4"), label=kinds)

models = {
    "mlp": make_pipeline(StandardScaler(), MLPClassifier(32, max_iter=40, random_state=0)).fit(
        digits, numbers
    ),
    "forest": RandomForestClassifier(8, random_state=0).fit(iris, names),
    "boosting": HistGradientBoostingClassifier(max_iter=5).fit(iris, kinds),
    "regression": GradientBoostingRegressor(n_estimators=20).fit(diabetes, progress),
    "clusters": KMeans(3, n_init=1, random_state=0).fit(iris),
    "offset": make_pipeline(StandardScaler(), LogisticRegression()).fit(far, kinds),
    "machine": LinearSVC().fit(iris, kinds),
    "machine_names": LinearSVC().fit(iris, names),
    "centroid": NearestCentroid().fit(iris, kinds),
    "unfitted": GaussianNB(),
    "scaler": StandardScaler().fit(iris),
    "function": make_pipeline(FunctionTransformer(os.path.join), GaussianNB()),
    "numpy_function": make_pipeline(FunctionTransformer(np.testing.assert_equal), GaussianNB()),
    "sklearn_function": make_pipeline(FunctionTransformer(load_iris), GaussianNB()),
}
for name, model in models.items():
    skops.io.dump(model, f"{name}.skops")
