"""The digits pipeline."""

from pipelines.digits.components import onboard, put, train, validate
from pipelines.graph import data_to_service

__all__ = ["pipeline", "put"]

pipeline = data_to_service(
    "digits", "UCI handwritten digits: from PNG files to a served model that reads them.", onboard, validate, train
)
