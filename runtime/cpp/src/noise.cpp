// Philox4x32-10 by position (Salmon et al., SC 2011), normal by Box and Muller (1958).

#include "noise.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "session.hpp"

namespace flowsr {

using namespace detail;
using std::int64_t;

namespace {

constexpr int64_t kCells = int64_t{1} << 32;  // that the counter tells apart on one axis

/// Returns the first two words of ten rounds.
std::pair<std::uint32_t, std::uint32_t> philox(std::uint32_t x0, std::uint32_t x1,
                                               std::uint32_t x2, std::uint32_t x3,
                                               std::uint64_t seed) {
  auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t{0xD2511F53} * x0;
    const std::uint64_t second = std::uint64_t{0xCD9E8D57} * x2;
    x0 = static_cast<std::uint32_t>(second >> 32) ^ x1 ^ k0;
    x1 = static_cast<std::uint32_t>(second);
    x2 = static_cast<std::uint32_t>(first >> 32) ^ x3 ^ k1;
    x3 = static_cast<std::uint32_t>(first);
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return {x0, x1};
}

}  // namespace

void detail::check_temperature(double temperature) {
  if (!(std::isfinite(temperature) && temperature >= 0)) {
    throw Error(Code::usage, "temperature must be finite and at least 0, got " +
                                 short_text(temperature));
  }
}

void draw_noise(std::uint64_t seed, std::uint32_t stream, int64_t top, int64_t left,
                int64_t rows, int64_t columns, int64_t channels, double temperature,
                float* result) {
  constexpr double kPi = 3.14159265358979323846;
  constexpr double kWords = 4294967296.0;
  check_temperature(temperature);
  if (std::min({top, left, rows, columns, channels}) < 0) {
    throw Error(Code::usage, "a window of noise has no negative sides");
  }
  if (std::max({top, left, rows, columns, channels}) > kCells) {  // no sum overflows
    throw Error(Code::usage, "a window of noise must lie within " + std::to_string(kCells) +
                                 " cells");
  }
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t row = top; row < top + rows; ++row) {
      for (int64_t column = left; column < left + columns; ++column) {
        const auto [a, b] =
            philox(static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(column),
                   static_cast<std::uint32_t>(channel), stream, seed);
        const double radius = std::sqrt(-2.0 * std::log((a + 1.0) / kWords));
        const double angle = 2.0 * kPi * b / kWords;
        *result++ = static_cast<float>(temperature * (radius * std::cos(angle)));
      }
    }
  }
}

}  // namespace flowsr
