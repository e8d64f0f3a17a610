/// SHA-256 (FIPS 180-4), to check the files of a bundle.
#ifndef FLOWSR_SHA256_HPP
#define FLOWSR_SHA256_HPP

#include <string>

namespace flowsr::detail {

/// Returns the digest of bytes, 64 lower-case hexadecimal digits.
std::string sha256(const std::string& data);

}  // namespace flowsr::detail

#endif  // FLOWSR_SHA256_HPP
