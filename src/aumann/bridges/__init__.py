"""An explanation as the objects of other libraries, each of which is imported when it is first asked for."""

from aumann.bridges.pandas import to_dataframe
from aumann.bridges.shap import to_shap
from aumann.bridges.xarray import to_xarray

__all__ = ["to_dataframe", "to_shap", "to_xarray"]
