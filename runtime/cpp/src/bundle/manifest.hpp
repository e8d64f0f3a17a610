/// Read bundle.json, schema 1.
#ifndef FLOWSR_MANIFEST_HPP
#define FLOWSR_MANIFEST_HPP

#include <string>

#include "flowsr/flowsr.hpp"
#include "bundle/json.hpp"

namespace flowsr::detail {

/// Throws an Error of a bundle that is damaged or lacks something.
[[noreturn]] void refuse(const std::string& message);

/// A bundle was replaced while it was read; opening it again may succeed.
class Replaced : public Error {
 public:
  using Error::Error;
};

/// Returns what a call returns, which is made again if a bundle is replaced meanwhile.
template <class Call>
auto retried(Call call) {
  constexpr int kTries = 10;  // other processes may keep replacing it
  for (int i = 1; i < kTries; ++i) {
    try {
      return call();
    } catch (const Replaced&) {
    }
  }
  return call();
}

/// Returns the checked and typed content of bundle.json.
Manifest manifest_of(const Json& root);

}  // namespace flowsr::detail

#endif  // FLOWSR_MANIFEST_HPP
