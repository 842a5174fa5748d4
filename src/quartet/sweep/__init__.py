"""Many runs: which jobs a sweep has, and what came of them."""
