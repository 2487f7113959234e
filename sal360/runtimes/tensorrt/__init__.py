"""TensorRT and TensorRT-RTX: NVIDIA's driver, engine files, their builder and cache, and the backend itself."""
