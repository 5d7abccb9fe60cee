"""What starts runs: jobs, schedules, sensors, automation conditions. Asset logic does not belong here.

A rebuild is a chain of runs, because assets with different partition sets cannot share one:
a schedule or sensor starts `sources_job` for what changed, `continue_rebuild` starts `finetune_job`
for each recipe when that has succeeded, and `publish_job` after a release where the config asks for it.
"""
