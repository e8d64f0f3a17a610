/// Noise of the latents.
#ifndef FLOWSR_NOISE_HPP
#define FLOWSR_NOISE_HPP

#include <optional>
#include <vector>

#include "backends/session.hpp"

namespace flowsr::detail {

/// The noise of one call.
struct Noise {
  std::vector<Latent> latents;  ///< Noise inputs; none if the learned prior alone decides.
  std::uint64_t seed = 0;
  double temperature = 0;
  const float* strength = nullptr;  ///< Factors of the temperature, null for 1.
  Size strength_size;
  std::optional<float> prior_weight;  ///< Of the prior's latents in a graph that takes both.

  /// Draws one latent for a window of the whole image: channels x rows x columns floats.
  std::vector<float> draw(std::size_t stream, const Extent& rows, const Extent& columns) const;
};

/// Checks how a request wants its latents. Throws Error (usage).
Noise noise_of(const Manifest& manifest, const Session& session, const Request& request);

/// Refuses a temperature that is negative or not finite.
void check_temperature(double temperature);

}  // namespace flowsr::detail

#endif  // FLOWSR_NOISE_HPP
