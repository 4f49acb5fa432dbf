"""The public names of `kip`, for type checkers and editors: those of `__init__.py`, which says where they are."""

from kip import judges as judges
from kip import krr as krr
from kip import sklearn as sklearn
from kip.blocks import Blocks as Blocks
from kip.blocks import KernelBlocks as KernelBlocks
from kip.blocks import LocalExecutor as LocalExecutor
from kip.data import Augment as Augment
from kip.data import Data as Data
from kip.data import Dataset as Dataset
from kip.data import Split as Split
from kip.data import load as load_data
from kip.data.arrays import from_arrays as data_from_arrays
from kip.errors import CheckpointError as CheckpointError
from kip.errors import ConfigError as ConfigError
from kip.errors import DataError as DataError
from kip.errors import KipError as KipError
from kip.errors import NonFiniteError as NonFiniteError
from kip.errors import NotPositiveDefiniteError as NotPositiveDefiniteError
from kip.errors import OutputError as OutputError
from kip.errors import ShapeError as ShapeError
from kip.errors import WorkerError as WorkerError
from kip.errors import WorkersLostError as WorkersLostError
from kip.evaluate import evaluate_set as evaluate_set
from kip.evaluate.analysis import analyze as analyze_set
from kip.evaluate.comparison import compare as compare_sets
from kip.evaluate.dcs import Correlation as Correlation
from kip.evaluate.dcs import correlate as correlate_losses
from kip.evaluate.pretraining import Pretraining as Pretraining
from kip.evaluate.pretraining import pretraining as pretraining_table
from kip.evaluate.table import Comparison as Comparison
from kip.evaluate.transfer import Transfer as Transfer
from kip.evaluate.transfer import transfer_set as transfer_set
from kip.experiment import Experiment as Experiment
from kip.experiment import Reference as Reference
from kip.experiment import load as load_experiment
from kip.functions import stax as stax
from kip.functions.kernel import KernelFn as KernelFn
from kip.functions.kernel import kernel as kernel
from kip.functions.kernel import kernel_fn as kernel_fn
from kip.functions.stored import StoredKernel as StoredKernel
from kip.functions.stored import load_kernel as load_kernel
from kip.functions.stored import write_kernel as write_kernel
from kip.judges.krr_accuracy import krr_accuracy as krr_accuracy
from kip.kernels.architecture import RBF as RBF
from kip.kernels.architecture import Architecture as Architecture
from kip.kernels.architecture import Features as Features
from kip.kernels.architecture import Laplace as Laplace
from kip.kernels.architecture import Stax as Stax
from kip.kernels.permission import permit as permit_stax
from kip.krr import LabelSolver as LabelSolver
from kip.krr import Ridge as Ridge
from kip.methods.contract import Method as Method
from kip.methods.contract import Needs as Needs
from kip.methods.decoupled.cda import CDA as CDA
from kip.methods.decoupled.crops import Crops as Crops
from kip.methods.decoupled.dwa import DWA as DWA
from kip.methods.decoupled.edc import EDC as EDC
from kip.methods.decoupled.fadrm import FADRM as FADRM
from kip.methods.decoupled.gvbsm import GVBSM as GVBSM
from kip.methods.decoupled.rded import RDED as RDED
from kip.methods.decoupled.sre2l import SRe2L as SRe2L
from kip.methods.features.frepo import FRePo as FRePo
from kip.methods.features.krr_st import KRRST as KRRST
from kip.methods.features.pool import Pool as Pool
from kip.methods.features.rcig import RCIG as RCIG
from kip.methods.features.rfad import RFAD as RFAD
from kip.methods.generator import Latents as Latents
from kip.methods.kernel.kip import KIP as KIP
from kip.methods.kernel.label_solve import LabelSolve as LabelSolve
from kip.methods.matching.datm import DATM as DATM
from kip.methods.matching.dc import DC as DC
from kip.methods.matching.dm import DM as DM
from kip.methods.matching.dsa import DSA as DSA
from kip.methods.matching.experts import Experts as Experts
from kip.methods.matching.ftd import FTD as FTD
from kip.methods.matching.mtt import MTT as MTT
from kip.methods.matching.tesla import TESLA as TESLA
from kip.methods.problem import Problem as Problem
from kip.methods.problem import State as State
from kip.methods.selection import rules as rules
from kip.methods.selection import scores as scores
from kip.methods.selection import spaces as spaces
from kip.methods.selection.selection import Selection as Selection
from kip.methods.unrolled.dd import DD as DD
from kip.methods.unrolled.label_baseline import LabelBaseline as LabelBaseline
from kip.methods.unrolled.ld import LD as LD
from kip.networks import Network as Network
from kip.networks import network as network
from kip.preprocess import Preprocess as Preprocess
from kip.preprocess import fit as fit_preprocess
from kip.report.page import write as write_report
from kip.runs.arrays import distill as distill
from kip.runs.callbacks import Callback as Callback
from kip.runs.loop import Result as Result
from kip.runs.loop import run as run
from kip.sets.cards import Card as Card
from kip.sets.distilled import DistilledSet as DistilledSet
from kip.sets.distilled import load as load_set
from kip.sets.distilled import save as save_set
from kip.training.learner import Training as Training
from kip.training.protocols import PROTOCOLS as PROTOCOLS
from kip.training.protocols import Protocol as Protocol
from kip.training.recipe import Optimizer as Optimizer
from kip.training.records import Recording as Recording
from kip.training.self_supervised import Teacher as Teacher
from kip.training.squeeze import Squeeze as Squeeze

__version__: str
__all__ = [
    "CDA",
    "DATM",
    "DC",
    "DD",
    "DM",
    "DSA",
    "DWA",
    "EDC",
    "FADRM",
    "FTD",
    "GVBSM",
    "KIP",
    "KRRST",
    "LD",
    "MTT",
    "PROTOCOLS",
    "RBF",
    "RCIG",
    "RDED",
    "RFAD",
    "TESLA",
    "Architecture",
    "Augment",
    "Blocks",
    "Callback",
    "Card",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "Correlation",
    "Crops",
    "Data",
    "DataError",
    "Dataset",
    "DistilledSet",
    "Experiment",
    "Experts",
    "FRePo",
    "Features",
    "KernelBlocks",
    "KernelFn",
    "KipError",
    "LabelBaseline",
    "LabelSolve",
    "LabelSolver",
    "Laplace",
    "Latents",
    "LocalExecutor",
    "Method",
    "Needs",
    "Network",
    "NonFiniteError",
    "NotPositiveDefiniteError",
    "Optimizer",
    "OutputError",
    "Pool",
    "Preprocess",
    "Pretraining",
    "Problem",
    "Protocol",
    "Recording",
    "Reference",
    "Result",
    "Ridge",
    "SRe2L",
    "Selection",
    "ShapeError",
    "Split",
    "Squeeze",
    "State",
    "Stax",
    "StoredKernel",
    "Teacher",
    "Training",
    "Transfer",
    "WorkerError",
    "WorkersLostError",
    "analyze_set",
    "compare_sets",
    "correlate_losses",
    "data_from_arrays",
    "distill",
    "evaluate_set",
    "fit_preprocess",
    "judges",
    "kernel",
    "kernel_fn",
    "krr",
    "krr_accuracy",
    "load_data",
    "load_experiment",
    "load_kernel",
    "load_set",
    "network",
    "permit_stax",
    "pretraining_table",
    "rules",
    "run",
    "save_set",
    "scores",
    "sklearn",
    "spaces",
    "stax",
    "transfer_set",
    "write_kernel",
    "write_report",
]

def __dir__() -> list[str]: ...
