"""The layers in a builder's log, as TensorRT for RTX writes them."""

__all__ = ["LOGGED"]

LOGGED = (
    "Layers:\n"
    "Name: conv_wide_myl1_1, LayerType: correlation, Inputs: [ { Name: input, Dimensions: "
    "[1,3,-1,-1], Datatype: Float, Format: Row major }], Constants: [ { Name: w, Dimensions: "
    "[2,3,1,1], Strides: [3,1,1,1], Datatype: Float, Format: Row major }, { Name: alpha, "
    "Dimensions: [1], Datatype: Float, Format: Row major }], Outputs: [ { Name: a, Dimensions: "
    "[1,1,-1,-1], Datatype: Float, Format: Row major }], TacticName: x, StreamId: 0, Metadata: "
    "[ONNX Layer: conv_wide][ONNX Layer: to_half]\n"
    "Name: conv_half_myl1_2, LayerType: runtime_fusion, Inputs: [ { Name: half, Dimensions: "
    "[1,1,-1,-1], Datatype: Half, Format: Row major }, { Name: sum, Dimensions: [1,19,-1,-1], "
    "Datatype: Float, Format: Row major }], Constants: [ { Name: v, Dimensions: [19,2,1,1], "
    "Datatype: Half, Format: Row major }, { Name: alpha, Dimensions: [1], Datatype: Float, "
    "Format: Row major }], Outputs: [ { Name: output, Dimensions: [1,19,-1,-1], Datatype: "
    "Half, Format: Row major }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: conv_half]\n"
    "Name: wait_myl1_3, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    "StreamId: 0, EventId: 1, Metadata: \n\n"
    "I/O Tensors:\n Name: input, LayerType: none, Inputs: x, Outputs: y\n"
)
