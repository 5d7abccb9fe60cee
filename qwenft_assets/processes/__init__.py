"""Several processes for one job: who starts them, and what they tell each other."""
