"""From a run to one bundle: ONNX graph, parity proof, container."""
