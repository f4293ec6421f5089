"""What several suites stand on: virtual time, a pool of fakes, archives."""
