"""The published data sets, each with its protocol and the published figures.

../shared/data/README.md has the sources of the files and of the quoted figures.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from fraud.data import tables
from fraud.data.splits import SplitConfig
from fraud.errors import DataError
from fraud.schema import Schema
from fraud.training.config import TrainConfig

HANDBOOK_WEEKS = 4


@dataclass(frozen=True)
class Quoted:
    """A published result, as its source prints it. protocol: difference from ours, "" if none."""

    who: str
    roc_auc: str
    average_precision: str
    card_precision: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class DataSet:
    """One file and its evaluation protocol.

    name: also of the shipped schema and configuration. weeks: number of test windows; each is the configured window
    shifted back by a number of weeks. card: entity column for card precision, "" for none. quoted: published results
    from the data README. best: the best label-free and supervised ones, for the summary; a range over seeds.
    """

    name: str
    title: str
    protocol: str
    file: str
    weeks: int = 1
    card: str = ""
    quoted: tuple[Quoted, ...] = ()
    best: tuple[Quoted, ...] = ()

    @property
    def schema(self) -> Schema:
        return Schema.load(self.name)

    def configs(self, weeks: int | None = None) -> list[TrainConfig]:
        """The shipped configuration for each test window, oldest first. The caller sets the seed."""
        config = TrainConfig.load(self.name)
        shifts = range(min(self.weeks, weeks or self.weeks) - 1, -1, -1)
        return [dataclasses.replace(config, split=shifted(config.split, weeks=back)) for back in shifts]

    def load(self, folder: Path) -> pd.DataFrame:
        """Canonical rows of the file. Raises DataError if it is missing."""
        path = folder / self.file
        if not path.exists():
            raise DataError(f"{path} is missing: set FRAUD_SHARED_DATA to the folder with the published data sets")
        return tables.load(str(path), self.schema, need_label=True).rows


def shifted(split: SplitConfig, weeks: int) -> SplitConfig:
    """The split with every timestamp moved back by `weeks`; shares are unchanged."""
    names = ("train_start", "validation_start", "validation_end", "test_start", "test_end")
    moved = {}
    for name in names:
        instant = getattr(split, name)
        if instant is not None:
            moved[name] = (datetime.fromisoformat(instant) - timedelta(weeks=weeks)).isoformat()
    return dataclasses.replace(split, **moved)


DATA_SETS = {
    "ulb": DataSet(
        name="ulb",
        title="ULB credit cards",
        protocol="by time, 60 % train, 15 % validation, 25 % test",
        file="ulb_creditcard_first80pct.parquet",
        quoted=(
            Quoted("IsolationForest, defaults", "0.925–0.938", "0.019–0.025"),
            Quoted("the seed's autoencoder 16-8, all rows, MSE", "0.933–0.936", "0.015–0.018"),
            Quoted("denoising autoencoder 64-32-20, whitened residual, 3 seeds", "0.937–0.958", "0.25–0.49"),
            Quoted("Gaussian mixture (5) on normals, 4 seeds", "0.934–0.946", "0.04–0.70"),
            Quoted("PyOD: PCA / ECOD / COPOD / KNN", "0.94", "0.022 / 0.035 / 0.045 / 0.045"),
            Quoted("logistic regression on per-feature errors + forest", "0.928–0.963", "0.53–0.57"),
            Quoted("supervised: LR / HGB / random forest", "0.968 / 0.971 / 0.942", "0.651 / 0.752 / 0.776"),
            Quoted("ADBench, unsupervised: IForest / ECOD / MCD / DTE-C", "0.950 / 0.949 / 0.911 / 0.938",
                   "0.145 / 0.215 / 0.488 / 0.648", protocol="random split, which flatters"),
        ),
        best=(Quoted("label-free", "0.937–0.958", "0.25–0.49"), Quoted("supervised", "0.942", "0.776")),
    ),
    "handbook": DataSet(
        name="handbook",
        title="Fraud Detection Handbook",
        protocol="7 days train (the last two validate), 7 days delay, 7 days test",
        file="handbook_2018-04-01_2018-08-14.parquet",
        weeks=HANDBOOK_WEEKS,
        card="CUSTOMER_ID",
        quoted=(
            Quoted("IsolationForest, defaults, the handbook's 15 features", "0.826", "0.261", "0.239", "week 08-08"),
            Quoted("the seed's autoencoder, all rows, MSE", "0.807", "0.195", "0.190", "week 08-08"),
            Quoted("the handbook's autoencoder 100-20, normals, MSE", "0.832", "0.412", "0.260", "week 08-08"),
            Quoted("small autoencoder, whitened + latent", "0.874", "0.544", "0.274", "week 08-08"),
            Quoted("PyOD: ECOD / HBOS / INNE / LUNAR", "0.86–0.88", "0.292 / 0.387 / 0.410 / 0.531",
                   "0.229 / 0.247 / 0.253 / 0.284", "week 08-08"),
            Quoted("supervised: random forest / HGB", "0.862 / 0.876", "0.661 / 0.629", "0.287 / 0.291", "week 08-08"),
            Quoted("the handbook's notebooks: LR / RF / XGB", "0.871 / 0.867 / 0.862", "0.606 / 0.658 / 0.639",
                   "0.291 / 0.287 / 0.273", "published, week 08-08"),
            Quoted("the handbook's best grid-searched XGB", "0.872", "0.694", "0.304", "published, 4 folds"),
            Quoted("the handbook's autoencoder / IsolationForest / autoencoder + MLP", "0.836 / 0.808 / 0.861",
                   "0.18 / 0.164 / 0.651", "0.217 / 0.19 / 0.276", "published, validation week"),
        ),
        best=(Quoted("label-free", "0.874", "0.544", "0.284"), Quoted("supervised", "0.872", "0.694", "0.304")),
    ),
    "sparkov": DataSet(
        name="sparkov",
        title="Sparkov, 300 cards",
        protocol="by time, 60 % train, 20 % validation, 20 % test",
        file="sparkov_regen_300cards_2019-01_2019-09.parquet",
        card="cc_num",
        quoted=(
            Quoted("IsolationForest, defaults, raw columns", "0.856", "0.030", "", "a larger file"),
            Quoted("the seed's autoencoder, raw columns, MSE", "0.623", "0.009", "", "a larger file"),
            Quoted("forest + masked autoencoder 128-64, joined", "0.990", "0.544", "", "a larger file"),
            Quoted("Gaussian mixture (10), normals", "0.989", "0.636", "", "a larger file"),
            Quoted("logistic regression over all scores, fitted on validation", "0.994", "0.838", "", "a larger file"),
            Quoted("supervised: HGB on raw / entity features", "0.948 / 0.966", "0.770 / 0.828", "", "a larger file"),
        ),
        best=(Quoted("label-free", "0.989", "0.636"), Quoted("supervised", "0.994", "0.838")),
    ),
}  # fmt: skip
