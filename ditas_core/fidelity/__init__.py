"""Sets of images against each other: features, Frechet distance, precision and recall."""

from .errors import FidelityError
from .evaluate import Fidelity, Measured, compare_sets, measure
from .features import FeatureNetwork, efficientnet_lite0, features_of
from .frechet import Gaussian, Moments, frechet_distance, symmetric_sqrt
from .inception import STANDARD, fid_inception
from .neighbours import precision_recall
from .npz import SETTINGS, read_header, read_rows, write_npz
from .pictures import Pictures, open_pictures, stored_gaussian
from .stages import Stages, feature_distance, load_stages

__all__ = [
    "SETTINGS",
    "STANDARD",
    "FeatureNetwork",
    "Fidelity",
    "FidelityError",
    "Gaussian",
    "Measured",
    "Moments",
    "Pictures",
    "Stages",
    "compare_sets",
    "efficientnet_lite0",
    "feature_distance",
    "features_of",
    "fid_inception",
    "frechet_distance",
    "load_stages",
    "measure",
    "open_pictures",
    "precision_recall",
    "read_header",
    "read_rows",
    "stored_gaussian",
    "symmetric_sqrt",
    "write_npz",
]
