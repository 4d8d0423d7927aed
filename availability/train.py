"""`python -m availability.train NAME`: registers two versions of the same model, whose answers are equal."""

import sys
import warnings
from importlib.metadata import version


def main(name: str) -> None:
    """Train once, log once, register twice."""
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    wines = load_wine(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(wines.data, wines.target)
    mlflow.set_experiment(name)
    # requirements are given: to find them, MLflow would load the model in another process
    logged = mlflow.sklearn.log_model(
        model,
        name="model",
        signature=infer_signature(wines.data, model.predict(wines.data)),
        pip_requirements=[
            f"{package}=={version(package)}" for package in ("mlflow", "scikit-learn", "pandas", "skops")
        ],
    )
    for _ in range(2):
        mlflow.register_model(logged.model_uri, name)


if __name__ == "__main__":
    main(sys.argv[1])
