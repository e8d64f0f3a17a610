/// Find tensors of an ONNX file that lie in other files.
#ifndef FLOWSR_ONNX_FILE_HPP
#define FLOWSR_ONNX_FILE_HPP

#include <string>

namespace flowsr::detail {

/// Returns whether no tensor of a model lies in another file, as in Python.
bool is_self_contained(const std::string& model);

}  // namespace flowsr::detail

#endif  // FLOWSR_ONNX_FILE_HPP
