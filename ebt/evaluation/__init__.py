"""What thinking is worth: quality against steps and candidates, energies of tokens and boards. Results go to JSON."""

from ebt.evaluation.descents import check_counts, thinks
from ebt.evaluation.detection import RiskCoverage, auroc, risk_coverage
from ebt.evaluation.digits import DigitReader
from ebt.evaluation.images import EnergyErrors, energy_errors, image_curve, patch_errors, psnr, square_errors, ssim
from ebt.evaluation.language import language_curve
from ebt.evaluation.probe import Probe, linear_probe, pooled_features
from ebt.evaluation.results import Curve, ImagePoint, LanguagePoint, Point, SudokuPoint, VideoPoint, to_json, write_json
from ebt.evaluation.sudoku import BoardThinking, sudoku_curve, watch_board
from ebt.evaluation.tokens import TokenEnergies, token_energies
from ebt.evaluation.video import FrameEnergies, Rollout, frame_energies, frame_loss, repeat_loss, rollout, video_curve

__all__ = [
    "BoardThinking",
    "Curve",
    "DigitReader",
    "EnergyErrors",
    "FrameEnergies",
    "ImagePoint",
    "LanguagePoint",
    "Point",
    "Probe",
    "RiskCoverage",
    "Rollout",
    "SudokuPoint",
    "TokenEnergies",
    "VideoPoint",
    "auroc",
    "check_counts",
    "energy_errors",
    "frame_energies",
    "frame_loss",
    "image_curve",
    "language_curve",
    "linear_probe",
    "patch_errors",
    "pooled_features",
    "psnr",
    "square_errors",
    "repeat_loss",
    "risk_coverage",
    "rollout",
    "ssim",
    "sudoku_curve",
    "thinks",
    "to_json",
    "token_energies",
    "video_curve",
    "watch_board",
    "write_json",
]
