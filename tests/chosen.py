"""What a whole run of the tests was asked for."""

sampler = "auto"  # the batch that tests take which ask for none: `--sampler`
