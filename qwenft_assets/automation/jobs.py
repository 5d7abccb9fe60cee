"""The two jobs that one rebuild is made of, and the one that shares it.

Two, because assets with different partition sets cannot share a run.
https://docs.dagster.io/guides/build/jobs/asset-jobs
"""

import dagster as dg

sources_job = dg.define_asset_job(
    "sources_job",
    selection=dg.AssetSelection.assets("source_sample"),
    description="Sample every source.",
)
finetune_job = dg.define_asset_job(
    "finetune_job",
    selection=dg.AssetSelection.assets("mixed_dataset").downstream()
    - dg.AssetSelection.assets("published_adapter"),
    description="Mixture, adapter, evaluation and release of one recipe.",
)
publish_job = dg.define_asset_job(
    "publish_job",
    selection=dg.AssetSelection.assets("published_adapter"),
    description="Publish the champion of one recipe where publishing.target says.",
)
