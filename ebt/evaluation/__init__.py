"""What thinking is worth: quality against steps and candidates, energies of tokens and boards. Results go to JSON."""

from ebt.evaluation.descents import check_counts, thinks
from ebt.evaluation.detection import RiskCoverage, auroc, risk_coverage
from ebt.evaluation.images import EnergyErrors, energy_errors, image_curve, patch_errors, psnr, square_errors, ssim
from ebt.evaluation.language import language_curve
from ebt.evaluation.probe import Probe, linear_probe, pooled_features
from ebt.evaluation.results import Curve, ImagePoint, LanguagePoint, Point, SudokuPoint, to_json, write_json
from ebt.evaluation.sudoku import BoardThinking, sudoku_curve, watch_board
from ebt.evaluation.tokens import TokenEnergies, token_energies

__all__ = [
    "BoardThinking",
    "Curve",
    "EnergyErrors",
    "ImagePoint",
    "LanguagePoint",
    "Point",
    "Probe",
    "RiskCoverage",
    "SudokuPoint",
    "TokenEnergies",
    "auroc",
    "check_counts",
    "energy_errors",
    "image_curve",
    "language_curve",
    "linear_probe",
    "patch_errors",
    "pooled_features",
    "psnr",
    "square_errors",
    "risk_coverage",
    "ssim",
    "sudoku_curve",
    "thinks",
    "to_json",
    "token_energies",
    "watch_board",
    "write_json",
]
