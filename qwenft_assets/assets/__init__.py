"""Dagster only: a resource in, a pure call, a MaterializeResult out. One file a stage."""
