"""The wine pipeline."""

from pipelines.graph import data_to_service
from pipelines.wine.components import onboard, put, train, validate

__all__ = ["pipeline", "put"]

pipeline = data_to_service(
    "wine", "UCI wine: from a CSV file to a served model that names the cultivar.", onboard, validate, train
)
