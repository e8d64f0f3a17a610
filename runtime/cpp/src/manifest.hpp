/// Read bundle.json, schema 1.
#ifndef FLOWSR_MANIFEST_HPP
#define FLOWSR_MANIFEST_HPP

#include <string>

#include "flowsr/flowsr.hpp"
#include "json.hpp"

namespace flowsr::detail {

/// Throws an Error of a bundle that is damaged or lacks something.
[[noreturn]] void refuse(const std::string& message);

/// Returns the checked and typed content of bundle.json.
Manifest manifest_of(const Json& root);

}  // namespace flowsr::detail

#endif  // FLOWSR_MANIFEST_HPP
