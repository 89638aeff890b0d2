"""Zero-shot tasks: CLIP_benchmark's webdataset folders and the embedded world."""
