"""Where every result comes from: the DAG, content hashes, and one MLflow run per stage."""
