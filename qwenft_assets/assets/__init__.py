"""The assets: resource in, pure call, materialization out. What they compute does not belong here."""

import warnings

import dagster as dg

# The family is pinned to one minor version; a user of the command line can do nothing about these.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
