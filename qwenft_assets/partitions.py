"""The two partition sets: sources, and recipes. Names only; what they mean stands in the config.

https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import dagster as dg

from qwenft_assets.config import RECIPE_NAMES, SOURCE_NAMES

SOURCES = dg.StaticPartitionsDefinition(list(SOURCE_NAMES))
RECIPES = dg.StaticPartitionsDefinition(list(RECIPE_NAMES))
