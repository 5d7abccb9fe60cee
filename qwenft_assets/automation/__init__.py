"""What starts runs: jobs, schedules, sensors, automation conditions. Asset logic does not belong here.

A rebuild is two runs, because assets with different partition sets cannot share one: a schedule, or a
condition on what a sensor observed upstream, starts the sampling; a condition starts all that follows.
"""
