/// Noise of the latents.
#ifndef FLOWSR_NOISE_HPP
#define FLOWSR_NOISE_HPP

namespace flowsr::detail {

/// Refuses a temperature that is negative or not finite.
void check_temperature(double temperature);

}  // namespace flowsr::detail

#endif  // FLOWSR_NOISE_HPP
