"""One training job: a RunConfig becomes a gang of DeepSpeed ranks, a journal and checkpoints."""
