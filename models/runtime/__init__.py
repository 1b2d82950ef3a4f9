"""How the network of a trained fusion model is computed: in eager PyTorch, in ONNX Runtime, in TensorRT. `models.engine` is the front.

All come from one `torch.export` program with static shapes. What was compiled is cached; where a cached program is at hand ONNX Runtime
runs it without torch.
"""
