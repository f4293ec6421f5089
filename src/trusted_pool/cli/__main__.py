"""`python -m trusted_pool.cli` is `tpool`."""

from trusted_pool.cli.main import main

main()
