"""A long random search, `make soak`: whatever is stacked, stepped and broken, ranks give what one process gives.

    python -m soak [--seed N] [--examples 2000] [--steps 20000] [--faults 2000]
    python -m soak --seed N --only faults:17        one example again
    python -m soak --plant ulp                      with a mistake in the library, which the search must find

Two searches share their examples. `executors` plays random moves of random stacks serially and in another way. `faults`
makes steps on ranks, some of which go wrong on one of them.

    stacks → examples → host → player → bounds → executors
                                     → faults  → failing
    plants, usage, table → search → __main__

Everything is drawn from the seed and the example's number, on every rank alike.
"""
