// Philox4x32-10 by position (Salmon et al., SC 2011), normal by Box and Muller (1958).

#include "upscaling/noise.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "upscaling/geometry.hpp"

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

/// Returns the pixels of the map at the centers of an axis's cells.
vector<int64_t> at_centers(const Extent& extent, int64_t patch, int64_t cells, int64_t pixels) {
  vector<int64_t> places;
  for (int64_t cell = extent.out_begin / patch; cells > 0; ++cell, --cells) {
    // The last cells may reach beyond the image.
    const int64_t center = (2 * cell + 1) * patch * pixels / (2 * extent.target);
    places.push_back(std::min(center, pixels - 1));
  }
  return places;
}

[[noreturn]] void misused(const string& message) { throw Error(Code::usage, message); }

void check_map(const Request& request) {
  if (request.temperature_map == nullptr) return;
  const Size size = request.temperature_map_size;
  if (size.height < 1 || size.width < 1 || std::max(size.height, size.width) > kMaxSide) {
    misused("temperature_map must be gray, (rows, columns), got (" +
            std::to_string(size.height) + ", " + std::to_string(size.width) + ")");
  }
  const float* end = request.temperature_map + size.height * size.width;
  const bool valid = std::all_of(request.temperature_map, end,
                                 [](float factor) { return factor >= 0 && factor <= 1; });
  if (!valid) misused("temperature_map must lie in [0, 1]");
  if (!request.temperature) misused("temperature_map needs a temperature");
}

}  // namespace

Noise detail::noise_of(const Manifest& manifest, const Session& session,
                       const Request& request) {
  check_map(request);
  const bool sampled = !manifest.latents.empty();
  const std::optional<double>&temperature = request.temperature, &mix = request.prior_mix;
  if (sampled && mix) {
    misused("prior_mix needs a bundle with a learned prior, got " + short_text(*mix));
  }
  if (sampled && !temperature) {
    misused("this bundle has no learned prior; give temperature (0 gives the mode)");
  }
  check_temperature(temperature.value_or(0.0));
  Noise noise{manifest.latents,        request.seed,
              temperature.value_or(0), request.temperature_map,
              request.temperature_map_size, std::nullopt};
  if (sampled || !(temperature || mix)) return noise;
  const string name = temperature ? "temperature" : "prior_mix";
  if (!manifest.latent_graphs || manifest.latent_graphs->sample.empty()) {
    misused("this bundle has a learned prior and takes no " + name + ", got " +
            short_text(temperature ? *temperature : *mix) +
            "; export-onnx --latents adds a graph that does");
  }
  if (!session.runs_further()) {
    misused(name + " beside a learned prior needs onnxruntime, got " + session.facts().backend);
  }
  if (mix && !std::isfinite(*mix)) {
    misused("prior_mix must be a finite number, got " + short_text(*mix));
  }
  noise.latents = manifest.latent_graphs->latents;
  noise.prior_weight = static_cast<float>(mix.value_or(0.0));
  return noise;
}

vector<float> Noise::draw(size_t stream, const Extent& rows, const Extent& columns) const {
  const Latent& latent = latents[stream];
  const int64_t height = ceil_div(rows.out_size(), latent.patch);
  const int64_t width = ceil_div(columns.out_size(), latent.patch);
  vector<float> noise(static_cast<size_t>(latent.channels * height * width));
  draw_noise(seed, static_cast<std::uint32_t>(stream), rows.out_begin / latent.patch,
             columns.out_begin / latent.patch, height, width, latent.channels, temperature,
             noise.data());
  if (strength == nullptr) return noise;
  const auto down = at_centers(rows, latent.patch, height, strength_size.height);
  const auto across = at_centers(columns, latent.patch, width, strength_size.width);
  float* value = noise.data();
  for (int64_t channel = 0; channel < latent.channels; ++channel) {
    for (const int64_t row : down) {
      for (const int64_t column : across) *value++ *= strength[row * strength_size.width + column];
    }
  }
  return noise;
}

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
