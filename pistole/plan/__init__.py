"""What a run will cost and what it still lacks, told before anything runs."""
