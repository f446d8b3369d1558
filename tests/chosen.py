"""What a whole run of the tests was asked for."""

every_cut = False  # texts in three at every pair of places: `--every-cut`
sampler = "auto"  # the batch that tests take which ask for none: `--sampler`
odd_minutes = 0.0  # how long odd requests go on: `--odd-minutes`
odd_seed = 1  # the first seed of theirs: `--odd-seed`
machine_minutes = 0.0  # how long histories of an engine go on: `--machine-minutes`
machine_seed = 1  # the first seed of theirs: `--machine-seed`
thorough = False  # all examples of hypothesis, and the oracle after each test of the shared worker: `--thorough`
