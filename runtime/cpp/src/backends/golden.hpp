/// The golden pair of a bundle: a small picture, and what the model makes of it.
#ifndef FLOWSR_GOLDEN_HPP
#define FLOWSR_GOLDEN_HPP

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "flowsr/flowsr.hpp"

namespace flowsr::detail {

struct GoldenPair {
  Size source;                       ///< Of the picture.
  std::vector<std::uint8_t> picture; ///< RGB, rows of pixels.
  Size size;                         ///< Of the output.
  std::vector<float> output;         ///< RGB in units of full range, rows of pixels.
  std::uint64_t seed = 0;
  std::optional<double> temperature;
  double max_abs = 1e-4;  ///< Largest difference of a float32 graph, 1 is full range.
};

/// Reads the golden pair, none if the bundle has none. Throws Error (bundle) if it is damaged.
std::optional<GoldenPair> read_golden_pair(const Bundle& bundle);

}  // namespace flowsr::detail

#endif  // FLOWSR_GOLDEN_HPP
