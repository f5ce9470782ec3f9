"""The digit images: their two pools and the seal on the test pool, the bundled set, MNIST's files, the download."""
