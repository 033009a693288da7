"""Our engines beside their peers: `python -m benchmarks`. The harness is `inference.measuring`."""
