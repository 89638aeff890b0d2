"""What merging methods measure or learn on held-out training images, one module each."""
